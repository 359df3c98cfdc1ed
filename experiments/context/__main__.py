"""How long a canvas pass takes behind a long context: `python -m experiments.context`; see README.md."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from constrained_dg.errors import check
from constrained_dg.files import write_whole
from constrained_dg.model import Backbone, ModelConfig, preset
from constrained_dg.model.cache import Cache, as_stored
from constrained_dg.report import new_header
from experiments.arguments import parse, run
from experiments.throughput import __main__ as throughput
from experiments.throughput.sides import Ours, Theirs, alone, build, cache_keyword

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "shape": "cpu",
    "part": "passes",
    "dtype": "fp32",
    "repeats": 3,
    "longest": 262_144,
    "seed": 0,
    "out": "outputs/context.json",
}
#: Shape -> its model, contexts of canvas passes (the first is the one that others are compared with), and of prefills.
SHAPES: dict[str, tuple[ModelConfig, tuple[int, ...], tuple[int, ...]]] = {
    "tiny": (throughput.TINY, (128, 512, 1008), (256, 512)),
    "cpu": (throughput.CPU, (8192, 65_536, 131_072, 262_144), (4096, 16_384)),
    "26b": (preset("diffusiongemma_26b_a4b"), (8192, 65_536, 262_144), (4096, 16_384)),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Largest root mean square of the differences between logits of the two sides in fp32, as a share of that of the
#: logits; in bf16, where the router decides close cases differently, how far ours may be from those beside the others.
APART, AS_FAR = 1e-3, 1.25


def stored(
    config: ModelConfig, layer: int, length: int, seed: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random keys and values (1, N, G, K) of a layer; N is the length, or the window's W - 1 if that is less."""
    full = config.is_full(layer)
    size = config.global_head_dim if full else config.head_dim
    groups = config.num_global_key_value_heads if full else config.num_key_value_heads
    count = length if full else min(length, config.sliding_window - 1)
    generator = torch.Generator(device).manual_seed(seed * 1000 + layer)
    # As large as keys and values are: keys so that q.k, over unit queries, has a standard deviation of about 1.
    keys, values = (torch.randn(1, count, groups, size, generator=generator, device=device) for _ in range(2))
    return keys * size**-0.5, values


def our_cache(model: Backbone, length: int, seed: int) -> Cache:
    """A cache of random keys and values with room for a canvas."""
    config = model.config
    cache = model.empty_cache(1, length + config.canvas_length)
    for layer in range(config.num_hidden_layers):
        keys, values = stored(config, layer, length, seed, model.embed_tokens.weight.device)
        cache.keys[layer][:, : keys.shape[1]] = as_stored(keys, cache.keys[layer].dtype)
        cache.values[layer][:, : values.shape[1]] = as_stored(values, cache.values[layer].dtype)
    cache.length, cache.slid = length, max(0, length - (config.sliding_window - 1))
    return cache


def their_cache(model: Any, config: ModelConfig, length: int, seed: int) -> Any:
    """The same numbers in the cache of transformers."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    for layer in range(config.num_hidden_layers):
        cache.update(
            *(each.transpose(1, 2).to(model.dtype) for each in stored(config, layer, length, seed, model.device)), layer
        )
        if not config.is_full(layer):
            cache.layers[layer].cumulative_length = length
    return cache


def timed(call: Callable[[], object]) -> float:
    """Seconds; without a GPU those of the processor, since others may share the core (with one thread, all are those of
    the call)."""
    if torch.cuda.is_available():
        return throughput.timed(call, "cuda")
    start = time.process_time()
    call()
    return time.process_time() - start


@torch.no_grad()
def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root mean square of the differences, as a share of that of `other`."""
    return float((one.float() - other.float()).norm() / other.float().norm())


def product_rate(dtype: torch.dtype, device: str, repeats: int = 10) -> float:
    """Floating-point operations a second of a product of two matrices of 1024 x 1024, the best of some."""
    one, other = torch.randn(2, 1024, 1024, device=device).to(dtype)
    return 2 * 1024**3 / min(timed(lambda: one @ other) for _ in range(repeats))


def arithmetic(config: ModelConfig, keys: int) -> int:
    """Operations of the attention of all full layers over that many keys: q.k and the sum of values, 2 for each."""
    full = sum(config.is_full(layer) for layer in range(config.num_hidden_layers))
    return 4 * full * config.canvas_length * config.num_attention_heads * config.global_head_dim * keys


def turns(sides: dict[str, Callable[[], object]], repeats: int, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each side, taking turns; with `warm` after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + warm):
        for name, call in sides.items():
            took = timed(call)
            seconds[name] += [took] if turn >= warm else []
    return seconds


def as_rows(what: str, context: int, seconds: dict[str, list[float]], size: dict[str, int]) -> list[dict[str, Any]]:
    rows = []
    for name, each in seconds.items():
        row = {"what": what, "context": context, "side": name, "cache_bytes": size.get(name)}
        row |= {"seconds": min(each), "high": max(each)}
        if name != "ours":
            ratios = [one / other for one, other in zip(each, seconds["ours"], strict=True)]
            row |= {"ratio": min(each) / min(seconds["ours"]), "ratio_low": min(ratios), "ratio_high": max(ratios)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def their_pass(model: Any, canvas: torch.Tensor, past: Any) -> torch.Tensor:
    return model(decoder_input_ids=canvas, **{cache_keyword(model): past}).logits


@torch.no_grad()
def agree(ours: Backbone, theirs: Theirs, canvas: torch.Tensor, context: int, seed: int) -> None:
    """Raise InputError unless the sides compute the same."""

    def both(one: Backbone, other: Any) -> list[torch.Tensor]:
        past = their_cache(other, one.config, context, seed)
        return [one.denoise(canvas, our_cache(one, context, seed)), their_pass(other, canvas, past)]

    plain = ours.embed_tokens.weight.dtype == torch.float32
    wide, other = (ours, theirs.model) if plain else (deepcopy(ours).float(), deepcopy(theirs.model).float())
    other.model.decoder.embed_tokens.embed_scale.fill_(ours.config.hidden_size**0.5)  # in bf16 it was rounded
    exact = both(wide, other)
    difference = apart(*exact)
    print(f"logits at {context} in fp32 differ by {difference:.2g} of their size", flush=True)
    check(difference <= APART, f"logits at {context} differ by {difference:.2g}", "they must agree first")
    if not plain:
        one, other = (apart(each, exact[0]) for each in both(ours, theirs.model))
        print(f"those in bf16 differ from these by {one:.2g} (ours) and {other:.2g} (transformers)", flush=True)
        check(one <= AS_FAR * other, "ours differ by more", f"they may differ {AS_FAR} times as much at most")


@torch.no_grad()
def passes(ours: Backbone, theirs: Theirs | None, context: int, values: dict[str, Any]) -> list[dict[str, Any]]:
    """One canvas pass of both sides behind the same random cache, and of ours with full layers kept in 8 bits."""
    config, seed = ours.config, values["seed"]
    generator = torch.Generator().manual_seed(seed)
    canvas = torch.randint(3, config.vocab_size - 3, (1, config.canvas_length), generator=generator)
    canvas = canvas.to(ours.embed_tokens.weight.device)
    cache = our_cache(ours, context, seed)
    ours.narrow_cache = True
    narrow = our_cache(ours, context, seed)
    ours.narrow_cache = False
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours.denoise(canvas, cache),
        "ours, 8 bits": lambda: ours.denoise(canvas, narrow),
    }
    size = {"ours": cache.nbytes, "ours, 8 bits": narrow.nbytes}
    if theirs is not None:
        past = their_cache(theirs.model, config, context, seed)
        sides["transformers"] = lambda: their_pass(theirs.model, canvas, past)
        size["transformers"] = sum(each.nbytes for layer in past.layers for each in (layer.keys, layer.values))
        agree(ours, theirs, canvas, context, seed)
    return as_rows("canvas pass", context, turns(sides, values["repeats"]), size)


@torch.no_grad()
def prefills(ours: Backbone, theirs: Theirs | None, context: int, values: dict[str, Any]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(values["seed"])
    prompt = torch.randint(3, ours.config.vocab_size - 3, (1, context), generator=generator)
    prompt = prompt.to(ours.embed_tokens.weight.device)
    sides: dict[str, Callable[[], Any]] = {"ours": lambda: ours.prefill(prompt)}
    if theirs is not None:
        sides["transformers"] = lambda: theirs.prefill(prompt)
    return as_rows("prefill", context, turns(sides, values["repeats"], warm=False), {})


def over_arithmetic(
    config: ModelConfig, first: int, rows: Sequence[dict[str, Any]], dtype: torch.dtype, device: str
) -> dict[str, Any]:
    """Our passes over that behind the shortest context, and over its time and that of the arithmetic that full layers
    do in addition."""
    times = {row["context"]: row["seconds"] for row in rows if row["side"] == "ours"}
    rate = product_rate(dtype, device)
    shares = {n: took / (times[first] + arithmetic(config, n - first) / rate) for n, took in times.items()}
    over_first = {n: took / times[first] for n, took in times.items()}
    found = {"product_rate": rate, "over_first": over_first, "over_arithmetic": shares}
    print(json.dumps(found))
    return found


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and write one file."""
    values = parse(arguments, KEYS)
    check(values["shape"] in SHAPES, f"shape is {values['shape']!r}", f"give one of {', '.join(SHAPES)}")
    check(values["part"] in ("passes", "prefill"), f"part is {values['part']!r}", "give passes or prefill")
    check(values["dtype"] in DTYPES, f"dtype is {values['dtype']!r}", f"give one of {', '.join(DTYPES)}")
    check(values["repeats"] > 0, "repeats is 0", "give 1 or more")
    config, contexts, prompts = SHAPES[values["shape"]]
    dtype = DTYPES[values["dtype"]]
    big, device = values["shape"] == "26b", "cuda" if torch.cuda.is_available() else "cpu"
    if big and device == "cpu":
        return print("shape=26b needs a GPU, and torch finds none here: unmeasured")
    torch.set_num_threads(1)
    config = replace(config, max_position_embeddings=max(262_144 + config.canvas_length, *contexts))
    if big:
        ours, theirs = Ours(alone(config, values["seed"], device, dtype)), None
    else:
        ours, theirs = build(config, values["seed"], device, dtype, saved=False)
    if values["part"] == "passes":
        done = [row for n in contexts if n <= values["longest"] for row in passes(ours.model, theirs, n, values)]
        results = over_arithmetic(config, contexts[0], done, dtype, device)
    else:
        done = [row for n in prompts if n <= values["longest"] for row in prefills(ours.model, theirs, n, values)]
        results = {}
    header = new_header(
        ROOT, values["seed"], device, threads=1, shape=asdict(config), **{k: values[k] for k in ("dtype", "repeats")}
    )
    results = {"header": header, **results, "rows": done}
    write_whole(Path(values["out"]), json.dumps(results, indent=1))


if __name__ == "__main__":
    run(main)
