"""Training curves as a table: `logger=csv`."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from constrained_dg.files import write_whole


class Curves(Logger):
    """RUN/log/metrics.csv: a row for each time that values were logged. It has each row as soon as it was logged.

    Args:
        folder: of the run.
        steps_done: of a resumed run; rows of later steps, which it repeats, are dropped.
    """

    def __init__(self, folder: Path, steps_done: int = 0) -> None:
        super().__init__()
        self.path = folder / "log" / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = []
        if steps_done and self.path.exists():
            text = self.path.read_text()
            lines = text[: text.rfind("\n") + 1].splitlines()  # without a line that was cut short
            self.rows = [row for row in csv.DictReader(lines) if _steps_before(row) <= steps_done]

    @property
    def name(self) -> str:
        return "log"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """train.json holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {name: float(value) for name, value in metrics.items()} | {"step": step}
        self.rows.append(row)
        if set(row) <= set(self.columns):
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)
            return
        self.columns = sorted({name for row in self.rows for name in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, text.getvalue())


def _steps_before(row: dict[str, str]) -> int:
    """Steps that were done when the row was logged: a loss carries the index of its step, a solve rate their number."""
    return int(row["step"]) + bool(row.get("loss"))
