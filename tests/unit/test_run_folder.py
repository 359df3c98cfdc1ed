"""The folder of a training run: who may take it, what a resumed run may change, checkpoints and curves on the disk."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from constrained_dg.errors import InputError
from constrained_dg.files import write_whole
from constrained_dg.training import folder as run_folder
from constrained_dg.training.checkpoints import WholeFiles
from constrained_dg.training.curves import Curves
from constrained_dg.training.folder import check_free, checkpoint_of, claim, remove_partial, resumed

CFG = {
    "task": {"_target_": "tasks.sudoku.Sudoku"},
    "sampler": {"_target_": "constrained_dg.sampling.Diffusion"},
    "trainer": {"devices": 1, "precision": "auto"},
    "optimisation": {"steps": 10},
    "seed": 0,
    "out": None,
    "threads": 1,
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (run_folder.FOLDER_VARIABLE, run_folder.PARENT_VARIABLE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_folder_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = str(tmp_path / "run")
    assert claim(out, "sudoku", CFG) == tmp_path / "run"
    assert json.loads((tmp_path / "run" / "train.json").read_text()) == CFG
    with pytest.raises(InputError, match=r"holds a run already.*resume="):
        claim(out, "sudoku", CFG)
    # Two that pass the check in the same moment: only one writes the configuration.
    monkeypatch.setattr(run_folder, "check_free", lambda folder: None)
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(InputError, match="holds a run already"):
        claim(out, "sudoku", CFG | {"seed": 1})
    assert json.loads((tmp_path / "run" / "train.json").read_text())["seed"] == 0


def test_default_folders_of_one_second_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = []
    for _ in range(3):
        folders.append(claim(None, "graph/coloring", CFG))
    assert len(set(folders)) == 3 and all(folder.parent == Path("outputs/graph/coloring") for folder in folders)


def test_a_further_process_uses_the_folder_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = claim(str(tmp_path / "run"), "sudoku", CFG)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert claim(None, "sudoku", CFG) == folder
    monkeypatch.delenv(run_folder.FOLDER_VARIABLE)
    with pytest.raises(InputError, match="give out=FOLDER"):
        claim(None, "sudoku", CFG)


@pytest.mark.parametrize("name", ["model.safetensors", "run.json", "final.json", "notes.txt", "checkpoints", ".hidden"])
def test_a_folder_that_holds_something_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir() if name == "checkpoints" else (tmp_path / name).write_text("kept")
    with pytest.raises(InputError, match="not empty"):
        check_free(tmp_path)
    with pytest.raises(InputError, match="not empty"):
        claim(str(tmp_path), "sudoku", CFG)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_a_process_killed_while_writing_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".train.json.17.partial").write_text('{"task":')
    claim(str(tmp_path), "sudoku", CFG)
    assert [path.name for path in tmp_path.iterdir()] == ["train.json"]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".last.ckpt.17.partial").write_bytes(b"half")
    remove_partial(tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_file_in_place_of_the_folder_and_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "inner"):
        with pytest.raises(InputError, match="give another out"):
            claim(str(out), "sudoku", CFG)


def written(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "train.json").write_text(text)
    return folder


def resume(folder: Path, **given: object) -> dict:
    return resumed({**CFG, "resume": str(folder), **given, "overridden": ["resume", *given]})


def test_a_resumed_run_takes_its_own_values_and_what_may_change(tmp_path: Path) -> None:
    folder = written(tmp_path, json.dumps(CFG | {"seed": 3}))
    assert resume(folder)["seed"] == 3
    trainer = {"devices": 1, "precision": "32-true", "accelerator": "gpu"}
    assert resume(folder, threads=2, trainer=trainer)["trainer"] == trainer
    for given, named in (
        ({"seed": 4}, "seed"),
        ({"optimisation": {"steps": 11}}, "optimisation"),
        ({"trainer": {"devices": 1, "accumulate_grad_batches": 2}}, r"trainer\.accumulate_grad_batches"),
    ):
        with pytest.raises(InputError, match=f"{named} would change .*what may change: trainer, "):
            resume(folder, **given)


def test_a_run_of_an_earlier_version_resumes_unless_it_used_what_is_gone(tmp_path: Path) -> None:
    earlier = {"encoder_weight": 1.0, "own_canvas": 0.0, "own_canvas_passes": 16}
    folder = written(tmp_path, json.dumps(CFG | {"objective": earlier}))
    assert resume(folder)["objective"] == {"encoder_weight": 1.0}
    folder = written(tmp_path, json.dumps(CFG | {"objective": earlier | {"own_canvas": 0.5}}))
    with pytest.raises(InputError, match=r"own_canvas is 0\.5.*version 0\.2"):
        resume(folder)


@pytest.mark.parametrize(
    "text",
    [
        *("", '{"task": {', "[]", "null", "3", json.dumps({"task": {}}), json.dumps(CFG | {"task": None})),
        *(json.dumps(CFG | {"trainer": []}), "[" * 100_000, "\ufeff\x00"),
    ],
)
def test_a_configuration_that_is_damaged_is_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.json"):
        resume(written(tmp_path, text))


def test_half_a_final_table_does_not_finish_a_run(tmp_path: Path) -> None:
    folder = written(tmp_path, json.dumps(CFG))
    (folder / "final.json").write_text('{"header": ')
    assert resume(folder)["seed"] == 0
    (folder / "final.json").write_text("{}")
    with pytest.raises(InputError, match="is finished"):
        resume(folder)


def checkpoint(folder: Path, name: str, step: int, processes: int = 1) -> None:
    (folder / "checkpoints").mkdir(exist_ok=True)
    torch.save({"global_step": step, "carried": [[]] * processes}, folder / "checkpoints" / name)


def test_the_checkpoint_with_most_steps_wins(tmp_path: Path) -> None:
    """A run folder of an earlier version that was moved holds an old last.ckpt and a new last-v1.ckpt."""
    assert checkpoint_of(tmp_path) is None
    checkpoint(tmp_path, "last-v1.ckpt", 60, processes=2)
    checkpoint(tmp_path, "step=50.ckpt", 50)
    (tmp_path / "checkpoints" / "last.ckpt").symlink_to("step=50.ckpt")
    (tmp_path / "checkpoints" / "gone.ckpt").symlink_to("nowhere")
    found = checkpoint_of(tmp_path)
    assert found is not None and (found.path.name, found.step, found.processes) == ("last-v1.ckpt", 60, 2)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"a": [1]}', b"[" * 50_000, b"PK\x03\x04half", b"\x80\x02]q\x00."])
def test_a_checkpoint_that_is_none_is_one_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(data)
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read"):
        checkpoint_of(tmp_path)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read"):
        checkpoint_of(tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before_and_names_the_new_one(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeFiles().save_checkpoint({"global_step": 1, "carried": [[]]}, path)

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        WholeFiles().save_checkpoint({"global_step": 2, "carried": [[]]}, path)
    assert raised.value.filename == str(path)
    found = checkpoint_of(tmp_path)
    assert found is not None and found.step == 1 and os.listdir(path.parent) == ["last.ckpt"]


def test_a_new_file_never_replaces_another(tmp_path: Path, monkeypatch) -> None:
    write_whole(tmp_path / "a", "first", new=True)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a", "second", new=True)

    def without_links(*paths: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", without_links)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a", "second", new=True)
    write_whole(tmp_path / "b", "first", new=True)
    assert [(tmp_path / name).read_text() for name in "ab"] == ["first"] * 2 and len(os.listdir(tmp_path)) == 2


def test_curves_of_a_resumed_run_go_on_where_its_checkpoint_stands(tmp_path: Path) -> None:
    curves = Curves(tmp_path)
    curves.log_metrics({"loss": 3.0}, step=9)
    curves.log_metrics({"solved": 0.5}, step=20)
    curves.log_metrics({"loss": 2.0}, step=19)
    curves.log_metrics({"loss": 1.0}, step=20)
    path = tmp_path / "log" / "metrics.csv"
    assert path.read_text() == "loss,solved,step\n3.0,,9\n,0.5,20\n2.0,,19\n1.0,,20\n"
    with path.open("a") as file:
        file.write("0.7,,2")  # killed while writing
    after = Curves(tmp_path, steps_done=20)
    after.log_metrics({"loss": 0.9}, step=20)
    after.log_metrics({"loss": 0.8}, step=29)
    assert path.read_text() == "loss,solved,step\n3.0,,9\n,0.5,20\n2.0,,19\n0.9,,20\n0.8,,29\n"
