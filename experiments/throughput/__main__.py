"""Speed of a generation, compared with transformers: `python -m experiments.throughput shape=cpu`; see README.md."""

from __future__ import annotations

import ctypes
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from constrained_dg.errors import InputError, check
from constrained_dg.files import write_whole
from constrained_dg.model import ModelConfig, preset
from constrained_dg.model.quantised.formats import FP8, NVFP4
from constrained_dg.model.quantised.place import weight_bytes
from constrained_dg.report import new_folder, new_header
from experiments.throughput.sides import Clock, Ours, Theirs, build, quantised_alone, synchronise

ROOT = Path(__file__).resolve().parents[2]
TINY = ModelConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=96,
    moe_intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    num_global_key_value_heads=1,
    global_head_dim=32,
    sliding_window=24,
    num_experts=8,
    top_k_experts=2,
    max_position_embeddings=1024,
    canvas_length=16,
)
CPU = ModelConfig(
    vocab_size=32_768,
    hidden_size=512,
    intermediate_size=768,
    moe_intermediate_size=256,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    num_global_key_value_heads=2,
    global_head_dim=128,
    sliding_window=1024,
    num_experts=32,
    top_k_experts=4,
    max_position_embeddings=8192,
)
#: Shape -> its model, contexts, batch sizes and passes.
SHAPES = {
    "tiny": (TINY, (8, 48), (1, 4), 8),
    "cpu": (CPU, (256, 4096), (1, 4), 16),
    "26b": (preset("diffusiongemma_26b_a4b"), (256, 4096), (1, 4), 18),
}
#: Largest allowed differences between two computations of expert outputs and of first-pass logits, as a share of the
#: largest value. Logits in bf16 are not refused: over many layers the router decides close cases differently.
EXPERTS_APART = {torch.float32: 1e-3, torch.bfloat16: 0.1}
LOGITS_APART = {torch.float32: 1e-3, torch.bfloat16: math.inf}
#: Tokens that a pass settles on average, for the tokens per second of a step: the model card reports 15 to 20.
TOKENS_A_PASS = 18
#: Targets of 26b by weights: a canvas pass divided by the floor; tokens per second of a step; bytes of the text weights
#: and of what a generation of one row takes beyond them.
TARGETS = {"plain": {"over_floor": 1.15}, FP8: {"tokens_per_second": 1000}, NVFP4: {"memory_bytes": 18e9}}


@dataclass(frozen=True)
class Settings:
    """The key=value arguments.

    Args:
        shape: tiny, cpu or 26b (needs a GPU).
        weights: plain (bf16 in shape 26b, else fp32), fp8 or nvfp4; quantised ones are ours alone.
        contexts, batches: lists such as 256,4096; by default those of the shape.
        passes: denoise passes of every generation.
        repeats: measurements of everything, the two sides in turn, after an uncounted one.
        ar_tokens: tokens of an autoregressive answer.
        compile: also time ours with torch.compile; always timed on a GPU.
        threads: of torch on the CPU.
        seed: of the weights and prompts.
        out: folder of results.json; a new one.
    """

    shape: str = "tiny"
    weights: str = "plain"
    contexts: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    passes: int = 0
    repeats: int = 5
    ar_tokens: int = 16
    compile: bool = False
    threads: int = 1
    seed: int = 0
    out: str = field(default_factory=lambda: f"outputs/throughput/{datetime.now():%Y-%m-%d_%H-%M-%S}")

    @classmethod
    def read(cls, arguments: Sequence[str]) -> Settings:
        """Raises InputError for an unknown key or a value of the wrong kind."""
        kinds = {each.name: each.type for each in fields(cls)}
        values: dict[str, Any] = {}
        for argument in arguments:
            key, equals, text = argument.partition("=")
            check(equals and key in kinds, f"argument {argument!r}", f"give key=value with one of {', '.join(kinds)}")
            try:
                if kinds[key].startswith("tuple"):
                    values[key] = tuple(int(each) for each in text.split(","))
                elif kinds[key] == "bool":
                    values[key] = {"true": True, "false": False}[text]
                else:
                    values[key] = int(text) if kinds[key] == "int" else text
            except (ValueError, KeyError):
                raise InputError(f"{key} is {text!r}", f"give {kinds[key]}") from None
        settings = cls(**values)
        check(settings.shape in SHAPES, f"shape is {settings.shape!r}", f"give one of {', '.join(SHAPES)}")
        check(settings.weights in TARGETS, f"weights is {settings.weights!r}", f"give one of {', '.join(TARGETS)}")
        for name in ("repeats", "ar_tokens", "threads"):
            check(getattr(settings, name) > 0, f"{name} is {getattr(settings, name)}", "give 1 or more")
        return settings


def timed(call: Callable[[], object], device: str) -> float:
    """Seconds."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def peak(call: Callable[[], object], device: str) -> int | None:
    """Additional bytes at the peak of a call; None where the system cannot measure them."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        timed(call, device)
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # return freed memory, so that new use is visible
        Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the peak
        before = _resident("VmRSS")
        call()
        return max(0, _resident("VmHWM") - before)
    except OSError:
        call()
        return None


def _resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def stops(batch: int, passes: int) -> tuple[int, ...]:
    """Passes after which rows stop, evenly spread up to the last: (4, 8, 12, 16) of 16 for 4 rows."""
    return tuple(max(2, passes * (row + 1) // batch) for row in range(batch))


def measure(
    sides: dict[str, Any], prompt: torch.Tensor, passes: int, settings: Settings, device: str
) -> Iterator[dict]:
    """One result for each thing measured and side; sides take turns, and the first round does not count."""
    context, batch = prompt.shape[1], len(prompt)
    canvas = sides["ours"].model.config.canvas_length
    spread = stops(batch, passes)
    seconds: dict[tuple[str, str], list[float]] = {}
    clocks: dict[tuple[str, str], Clock] = {}
    for repeat in range(settings.repeats + 1):
        for name, side in sides.items():

            def generation(clock: Clock, side: Any = side) -> float:
                return timed(lambda: side.generate(prompt, passes, clock), device)

            times = {"prefill": timed(lambda side=side: side.prefill(prompt), device)}
            clock = Clock()
            times["generation"] = generation(clock)
            times["step"] = statistics.median(clock.steps)
            clocks["generation", name] = clock
            if batch > 1:
                clocks["generation, rows stop apart", name] = clock = Clock(spread)
                times["generation, rows stop apart"] = generation(clock)
            if name == "ours":
                with torch.no_grad():
                    times["canvas pass"] = timed(side.canvas_pass(prompt), device)
                times["autoregressive"] = timed(lambda side=side: side.autoregress(prompt, settings.ar_tokens), device)
            for what, value in times.items():
                seconds.setdefault((what, name), []).extend([value] if repeat else [])
            line = ", ".join(f"{what} {value:.3g} s" for what, value in times.items())
            print(f"context {context}, batch {batch}, round {repeat} of {settings.repeats}, {name}: {line}", flush=True)
    memory = {
        name: peak(lambda side=side: side.generate(prompt, passes, Clock()), device) for name, side in sides.items()
    }
    for (what, name), values in seconds.items():
        of_row = {"autoregressive": settings.ar_tokens, "prefill": context, "step": TOKENS_A_PASS}
        tokens = of_row.get(what, canvas) * batch
        clock, median = clocks.get((what, name)), statistics.median(values)
        row = {
            "context": context,
            "batch": batch,
            "what": what,
            "side": name,
            "seconds": median,
            "low": min(values),
            "high": max(values),
            "tokens_per_second": None if what == "canvas pass" else tokens / median,
            "passes": settings.ar_tokens if what == "autoregressive" else clock and len(clock.notes),
            "row_passes": clock and clock.row_passes,
            "peak_bytes": memory[name] if what == "generation" else None,
        }
        theirs = seconds.get((what, "transformers"))
        if theirs and name != "transformers":
            ratios = [other / one for other, one in zip(theirs, values, strict=True)]
            row |= {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}
        yield row


@torch.no_grad()
def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference as a share of the largest value."""
    return float((one.float() - other.float()).abs().max() / other.float().abs().max())


def same_arithmetic(ours: Ours, theirs: Theirs | None, prompt: torch.Tensor) -> dict[str, float]:
    """Differences of first-pass logits between the sides, and between our two computations of experts. Raises
    InputError if one is too large."""
    model, differences = ours.model, {}
    dtype = model.embed_tokens.weight.dtype
    if theirs is not None:
        first = []
        for side in (ours, theirs):
            torch.manual_seed(1)  # with these draws both start from the same canvas
            clock = Clock(keep=True)
            side.generate(prompt, 2, clock, rng="transformers")
            first.append(clock.first)
        differences["ours to transformers"] = difference(*first)
    experts, size = model.layers[0].experts, model.config.hidden_size
    generator = torch.Generator(prompt.device).manual_seed(0)
    z = torch.randn(64, size, generator=generator, device=prompt.device, dtype=dtype)
    with torch.no_grad():
        weights, chosen, _ = model.layers[0].router(z)
        differences["grouped to dense experts"] = difference(
            experts.grouped_forward(z, weights, chosen), experts.dense_forward(z, weights, chosen)
        )
    for name, value in differences.items():
        limit = (EXPERTS_APART if "experts" in name else LOGITS_APART)[dtype]
        check(value <= limit, f"{name}: they differ by {value:.2g} of the largest value", "they must agree first")
    return differences


def compiled_agrees(eager: torch.Tensor, model: Any, canvas: torch.Tensor, prompt: torch.Tensor) -> float:
    """The difference after compiling; raises InputError where it is too large."""
    with torch.no_grad():
        value = difference(model.denoise(canvas, model.prefill(prompt)), eager)
    limit = LOGITS_APART[model.embed_tokens.weight.dtype]
    check(value <= limit, f"compiled logits differ by {value:.2g} of the largest", "they must agree first")
    return value


def bandwidth(device: str) -> float:
    """Bytes a second of a copy, read and written, of 4 GB (64 MB on a CPU); the best of 10."""
    one = torch.empty((4 << 30) if device == "cuda" else (64 << 20), dtype=torch.uint8, device=device)
    other = torch.empty_like(one)
    return 2 * one.numel() / min(timed(lambda: other.copy_(one), device) for _ in range(10))


def show(rows: list[dict[str, Any]]) -> None:
    """The table, on the terminal."""
    print(f"{'context':>7} {'batch':>5}  {'what':<27} {'side':<13} {'ms':>10} {'low..high':>19} {'tok/s':>8} "
          f"{'passes':>6} {'peak MB':>8} {'/ floor':>8}  transformers / this")  # fmt: skip
    for row in rows:
        rate, size, over = row["tokens_per_second"], row["peak_bytes"], row.get("over_floor")
        print(
            f"{row['context']:>7} {row['batch']:>5}  {row['what']:<27} {row['side']:<13} {row['seconds'] * 1e3:>10.1f} "
            f"{row['low'] * 1e3:>9.1f}..{row['high'] * 1e3:<8.1f} {'' if rate is None else f'{rate:.0f}':>8} "
            f"{row['passes'] or '':>6} {'' if size is None else f'{size / 1e6:.0f}':>8} "
            f"{'' if over is None else f'{over:.2f}':>8}  "
            + (f"{row['ratio']:.2f} ({row['ratio_low']:.2f}..{row['ratio_high']:.2f})" if "ratio" in row else "")
        )


def main(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Measure, print the table, write results.json; None where the shape needs a GPU and there is none."""
    settings = Settings.read(arguments)
    config, contexts, batches, passes = SHAPES[settings.shape]
    contexts, batches, passes = settings.contexts or contexts, settings.batches or batches, settings.passes or passes
    check(min(contexts) > 1, f"contexts are {contexts}", "give 2 tokens or more")
    check(passes > 1, f"passes are {passes}", "give 2 or more: a step is what lies between two passes")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if settings.shape == "26b" and device == "cpu":
        print("shape=26b needs a GPU, and torch finds none here: unmeasured")
        return None
    threads = torch.get_num_threads()
    with new_folder(settings.out) as out:
        torch.set_num_threads(settings.threads)
        try:
            results = run(settings, config, contexts, batches, passes, device)
        finally:
            torch.set_num_threads(threads)
        write_whole(out / "results.json", json.dumps(results, indent=1))
    show(results["rows"])
    for name in ("agreement", "floor"):
        print(f"{name}: {json.dumps(results[name])}")
    print(f"written to {out / 'results.json'}")
    return results


def run(
    settings: Settings, config: ModelConfig, contexts: Sequence[int], batches: Sequence[int], passes: int, device: str
) -> dict[str, Any]:
    big = settings.shape == "26b"
    dtype = torch.bfloat16 if big else torch.float32
    if settings.weights == "plain":
        ours, theirs = build(config, settings.seed, device, dtype, saved=not big)
    else:
        ours, theirs = Ours(quantised_alone(config, settings.seed, device, dtype, settings.weights)), None
    versions = {"transformers": metadata.version("transformers")} if theirs else {}
    header = new_header(
        ROOT, settings.seed, device, shape=settings.shape, weights=settings.weights, passes=passes,
        repeats=settings.repeats, dtype=str(dtype), threads=torch.get_num_threads(),
        compared_with=versions or "ours alone",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(settings.seed)

    def prompt(batch: int, context: int) -> torch.Tensor:
        return torch.randint(3, config.vocab_size - 3, (batch, context), generator=generator).to(device)

    agreement = {str(context): same_arithmetic(ours, theirs, prompt(1, context)) for context in contexts}
    sides: dict[str, Any] = {"ours": ours} | ({"transformers": theirs} if theirs else {})
    prompts = [prompt(batch, context) for context in contexts for batch in batches]
    rows = [row for each in prompts for row in measure(sides, each, passes, settings, device)]
    if device == "cuda" or settings.compile:
        # Last, since compiling cannot be undone.
        few = prompts[0]
        # A random canvas: with equal tokens, a close case of the router would differ at all positions.
        canvas = prompt(len(few), config.canvas_length)
        with torch.no_grad():
            eager = ours.model.denoise(canvas, ours.model.prefill(few)).clone()
        ours.model.compile_canvas_pass()
        agreement["compiled to eager"] = compiled_agrees(eager, ours.model, canvas, few)
        for each in prompts:
            for row in measure({"ours": ours}, each, passes, settings, device):
                rows += [row | {"side": "ours, compiled"}] if row["what"] not in ("prefill", "autoregressive") else []
    floor: dict[str, Any] = {"weight_bytes": weight_bytes(ours.model), "bytes_per_second": bandwidth(device)}
    floor["seconds"] = floor["weight_bytes"] / floor["bytes_per_second"]
    floor["targets"] = TARGETS[settings.weights] if big else None
    for row in rows:
        row |= {"over_floor": row["seconds"] / floor["seconds"]} if row["what"] in ("step", "canvas pass") else {}
        row |= {"memory_bytes": floor["weight_bytes"] + row["peak_bytes"]} if row["peak_bytes"] is not None else {}
    if device == "cpu":
        header["max_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"header": header, "agreement": agreement, "floor": floor, "rows": rows}


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(str(error))
