"""Does a small model find one token in a long context?  `python -m experiments.needle`; see README.md."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from constrained_dg.diffusion import canvas_loss
from constrained_dg.errors import check
from constrained_dg.files import write_whole
from constrained_dg.intervals import share
from constrained_dg.model import Backbone, ModelConfig
from constrained_dg.report import new_header
from constrained_dg.sampling import generate, named
from constrained_dg.training.optimiser import new_optimiser
from constrained_dg.training.settings import Optimisation
from constrained_dg.viz.pictures import figure
from constrained_dg.viz.pictures import save as save_picture
from experiments.arguments import parse, run

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
KEYS = {"out": "outputs/needle", "longest": 16_384, "minutes": 20, "seed": 0, "evaluate": True}
MARK, FIRST, VOCAB = 1, 2, 64  # the mark, and tokens from FIRST on: letters, which stand everywhere and are the values
#: A sliding layer, where a letter can see that the mark stands before it, and a full layer, where the canvas finds it.
MODEL = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=64,
    intermediate_size=64,
    moe_intermediate_size=32,
    num_hidden_layers=2,
    sliding_layers_per_full=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    num_global_key_value_heads=1,
    global_head_dim=32,
    sliding_window=4,
    num_experts=2,
    top_k_experts=2,
    canvas_length=1,
)
#: Length at the start, tokens of a step, and bounds of its rows.
SHORTEST, TOKENS, ROWS = 64, 65_536, (4, 64)
OPTIMISER = Optimisation(
    steps=1, batch_size=ROWS[1], learning_rate=1e-2, warmup=20, weight_decay=0.0, clip=1.0, average=0.0
)
#: The context doubles when this many steps in a row name GOOD of the values; the run ends with LAST such steps at the
#: longest.
STEPS, GOOD, LAST = 10, 0.98, 40
TENTHS, TRIALS, SAVE_EVERY = 10, 20, 20
SAMPLER = replace(named("plain"), self_conditioning=False, max_passes=4)


def examples(rows: int, length: int, generator: torch.Generator, tenth: int | None = None) -> tuple[torch.Tensor, ...]:
    """Prompts (B, length) of random letters with one mark, and the letters behind the marks (B, 1).

    Args:
        tenth: of the prompt in which the mark lies, from 0; None for anywhere.
    """
    prompt = torch.randint(FIRST, VOCAB, (rows, length), generator=generator)
    part = [0, length - 1] if tenth is None else [(length - 1) * (tenth + more) // TENTHS for more in (0, 1)]
    at = torch.randint(part[0], max(part[1], part[0] + 1), (rows, 1), generator=generator)
    return prompt.scatter(1, at, MARK), prompt.gather(1, at + 1)


def loss_of(model: Backbone, prompt: torch.Tensor, value: torch.Tensor, generator: torch.Generator) -> Any:
    """The loss of a canvas that is noise, and the share of values named right."""
    noise = torch.randint(FIRST, VOCAB, value.shape, generator=generator)
    logits = model.denoise(noise, model.prefill(prompt, room=0))
    right = (logits.argmax(-1) == value).float().mean()
    return canvas_loss([logits], value, torch.zeros_like(value, dtype=torch.bool)), right.item()


class Training:
    """Weights, moments of the optimiser and counters, which a folder keeps: the same command continues."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.path, self.seed = folder / "state.safetensors", seed
        self.model = Backbone(MODEL).init_weights(torch.Generator().manual_seed(seed))
        self.optimiser = new_optimiser(self.model, OPTIMISER)
        #: Steps, length of the context, good steps in a row, seconds; and what each length took.
        self.count = {"step": 0, "length": SHORTEST, "good": 0, "seconds": 0.0}
        self.grown: list[dict[str, Any]] = []
        if self.path.exists():
            self._read()

    def _tensors(self) -> dict[str, torch.Tensor]:
        moments = {
            f"{key}.{name}": moment
            for name, parameter in self.model.named_parameters()
            for key, moment in self.optimiser.state[parameter].items()
        }
        return {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()} | moments

    def write(self) -> None:
        notes = json.dumps({"seed": self.seed, "count": self.count, "grown": self.grown})
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        write_whole(self.path, save(tensors, {"notes": notes}))

    def _read(self) -> None:
        with safe_open(self.path, "pt") as file:
            notes, names = json.loads(file.metadata()["notes"]), file.keys()
            check(notes["seed"] == self.seed, f"{self.path} was begun with seed {notes['seed']}", "give that seed")
            self.count, self.grown = notes["count"], notes["grown"]
            tensors = {tuple(name.split(".", 1)): file.get_tensor(name) for name in names}
        self.model.load_state_dict({name: tensor for (kind, name), tensor in tensors.items() if kind == "model"})
        for (kind, name), tensor in tensors.items():
            if kind != "model":
                self.optimiser.state[self.model.get_parameter(name)][kind] = tensor

    def step(self, longest: int) -> float:
        """One step at the present length -> share of values named right."""
        count, begun = self.count, time.perf_counter()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + count["step"])
        for group in self.optimiser.param_groups:
            group["lr"] = OPTIMISER.learning_rate * min(1.0, (count["step"] + 1) / OPTIMISER.warmup)
        rows = max(ROWS[0], min(ROWS[1], TOKENS // count["length"]))
        loss, right = loss_of(self.model, *examples(rows, count["length"], generator), generator)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMISER.clip)
        self.optimiser.step()
        count["step"] += 1
        count["good"] = count["good"] + 1 if right >= GOOD else 0
        count["seconds"] += time.perf_counter() - begun
        if count["good"] >= STEPS and count["length"] < longest:
            self.grown.append({key: count[key] for key in ("length", "step", "seconds")})
            log.info("length %d learned after %d steps, %.0f s", count["length"], count["step"], count["seconds"])
            count["length"], count["good"] = count["length"] * 2, 0
        return right

    def run(self, longest: int, minutes: int) -> bool:
        """Whether the longest context is learned; stops after some minutes of this call."""
        begun = time.monotonic()
        while self.count["length"] < longest or self.count["good"] < LAST:
            if time.monotonic() - begun > 60 * minutes:
                self.write()
                return False
            right = self.step(longest)
            if self.count["step"] % SAVE_EVERY == 0:
                self.write()
                log.info("step %d, length %d: %.2f right", self.count["step"], self.count["length"], right)
        self.write()
        return True


def lengths() -> list[int]:
    """SHORTEST, doubled up to the longest context of the model."""
    return [SHORTEST << i for i in range((MODEL.max_position_embeddings // SHORTEST).bit_length())]


@torch.no_grad()
def measure(model: Backbone, longest: int, seed: int) -> Iterator[dict[str, Any]]:
    """Of each length, values named right in each tenth: TRIALS a tenth up to the longest trained, one beyond."""
    for length in lengths():
        rows = TRIALS if length <= longest else 1
        begun, right = time.perf_counter(), []
        for tenth in range(TENTHS):
            generator = torch.Generator().manual_seed(seed * 7919 + length * TENTHS + tenth)
            prompt, value = examples(rows, length - MODEL.canvas_length, generator, tenth)
            noise = (FIRST, VOCAB)
            answers = generate(model, prompt, sampler=SAMPLER, max_new_tokens=1, noise=noise, seeds=seed)
            right.append(int((answers.tokens == value).sum()))
        found = share(sum(right), rows * TENTHS)
        row = {"length": length, "trials": rows, "right": right, "seconds": time.perf_counter() - begun} | found
        log.info("length %d: %d of %d named, %.1f s", length, sum(right), found["n"], row["seconds"])
        yield row


def draw(path: Path, rows: Sequence[dict[str, Any]], longest: int) -> None:
    """The share named by length, and by length and depth."""
    drawing, (curve, depth) = figure(2, width=5.0, height=3.4)
    values, lengths = [row["value"] for row in rows], [row["length"] for row in rows]
    errors = [[abs(row["value"] - row["ci95"][side]) for row in rows] for side in (0, 1)]
    curve.errorbar(lengths, values, yerr=errors, marker="o", capsize=3)
    curve.axvline(longest, color="gray", linestyle=":")
    curve.set(
        xscale="log", xlabel="tokens of context (dotted: longest trained)", ylabel="values named", ylim=(-0.02, 1.02)
    )
    curve.set_xticks(lengths, [f"{n:,}" for n in lengths], rotation=45)
    curve.grid(alpha=0.3)
    table = [[right / row["trials"] for right in row["right"]] for row in rows]
    image = depth.imshow(list(zip(*table, strict=True)), vmin=0, vmax=1, aspect="auto", cmap="viridis", origin="upper")
    depth.set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths], rotation=45)
    depth.set(xlabel="tokens of context", ylabel="tenth in which the needle lies")
    drawing.colorbar(image, ax=depth, label="values named")
    save_picture(drawing, path)


def main(arguments: Sequence[str]) -> None:
    """Train, measure and draw; a finished training is not repeated."""
    values = parse(arguments, KEYS)
    out, longest = Path(values["out"]), values["longest"]
    fits = longest >= SHORTEST and longest <= MODEL.max_position_embeddings and longest & (longest - 1) == 0
    check(fits, f"longest is {longest}", f"give a power of two from {SHORTEST} to {MODEL.max_position_embeddings}")
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    training = Training(out, values["seed"])
    finished = training.run(longest, values["minutes"])
    log.info("%s: %s", "learned" if finished else "not finished; the same command continues", training.count)
    if not values["evaluate"]:
        return
    rows = list(measure(training.model, training.count["length"], values["seed"]))
    header = new_header(ROOT, values["seed"], "cpu", longest=longest, finished=finished, **training.count)
    results = {"header": header, "grown": training.grown, "rows": rows}
    write_whole(out / "results.json", json.dumps(results, indent=1))
    draw(out / "needle.png", rows, training.count["length"])
    print(json.dumps(rows[-3:], indent=1))


if __name__ == "__main__":
    run(main)
