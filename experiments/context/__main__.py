"""How long a canvas pass takes behind a long context: `python -m experiments.context`; see README.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from constrained_dg.errors import check
from constrained_dg.files import write_whole
from constrained_dg.model import Backbone, ModelConfig
from constrained_dg.model.cache import Cache, as_stored
from constrained_dg.report import new_header
from experiments.arguments import parse, run
from experiments.throughput import __main__ as throughput
from experiments.throughput.sides import Theirs, build, cache_keyword

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"shape": "cpu", "part": "passes", "repeats": 3, "longest": 262_144, "seed": 0, "out": "outputs/context.json"}
#: Shape -> its model, contexts of canvas passes (the first is the one that others are compared with), and of prefills.
SHAPES: dict[str, tuple[ModelConfig, tuple[int, ...], tuple[int, ...]]] = {
    "tiny": (throughput.TINY, (128, 512, 1008), (256, 512)),
    "cpu": (throughput.CPU, (8192, 65_536, 131_072, 262_144), (4096, 16_384)),
}
#: Largest difference between first-pass logits of the two sides, as a share of the largest.
APART = 1e-3


def stored(config: ModelConfig, layer: int, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random keys and values (1, N, G, K) of a layer; N is the length, or the window's W - 1 if that is less."""
    full = config.is_full(layer)
    size = config.global_head_dim if full else config.head_dim
    groups = config.num_global_key_value_heads if full else config.num_key_value_heads
    count = length if full else min(length, config.sliding_window - 1)
    generator = torch.Generator().manual_seed(seed * 1000 + layer)
    # As large as keys and values are: keys so that q.k, over unit queries, has a standard deviation of about 1.
    keys, values = (torch.randn(1, count, groups, size, generator=generator) for _ in range(2))
    return keys * size**-0.5, values


def our_cache(model: Backbone, length: int, seed: int) -> Cache:
    """A cache of random keys and values with room for a canvas."""
    config = model.config
    cache = model.empty_cache(1, length + config.canvas_length)
    for layer in range(config.num_hidden_layers):
        keys, values = stored(config, layer, length, seed)
        cache.keys[layer][:, : keys.shape[1]] = as_stored(keys, cache.keys[layer].dtype)
        cache.values[layer][:, : values.shape[1]] = as_stored(values, cache.values[layer].dtype)
    cache.length, cache.slid = length, max(0, length - (config.sliding_window - 1))
    return cache


def their_cache(model: Any, config: ModelConfig, length: int, seed: int) -> Any:
    """The same numbers in the cache of transformers."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    for layer in range(config.num_hidden_layers):
        cache.update(*(each.transpose(1, 2) for each in stored(config, layer, length, seed)), layer)
        if not config.is_full(layer):
            cache.layers[layer].cumulative_length = length
    return cache


def product_rate(repeats: int = 10) -> float:
    """Floating-point operations a second of a product of two matrices of 1024 x 1024, the best of some."""
    one, other = torch.randn(2, 1024, 1024)
    return 2 * 1024**3 / min(throughput.timed(lambda: one @ other, "cpu") for _ in range(repeats))


def arithmetic(config: ModelConfig, keys: int) -> int:
    """Operations of the attention of all full layers over that many keys: q.k and the sum of values, 2 for each."""
    full = sum(config.is_full(layer) for layer in range(config.num_hidden_layers))
    return 4 * full * config.canvas_length * config.num_attention_heads * config.global_head_dim * keys


def turns(sides: dict[str, Callable[[], object]], repeats: int, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each side, taking turns; with `warm` after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + warm):
        for name, call in sides.items():
            took = throughput.timed(call, "cpu")
            seconds[name] += [took] if turn >= warm else []
    return seconds


def as_rows(what: str, context: int, seconds: dict[str, list[float]], size: dict[str, int]) -> list[dict[str, Any]]:
    rows = []
    for name, each in seconds.items():
        row = {"what": what, "context": context, "side": name, "cache_bytes": size.get(name)}
        row |= {"seconds": statistics.median(each), "low": min(each), "high": max(each)}
        if name != "ours" and "ours" in seconds:
            ratios = [one / other for one, other in zip(each, seconds["ours"], strict=True)]
            row |= {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


@torch.no_grad()
def passes(ours: Backbone, theirs: Theirs | None, context: int, values: dict[str, Any]) -> list[dict[str, Any]]:
    """One canvas pass of both sides behind the same random cache, and of ours with full layers kept in 8 bits."""
    config, seed = ours.config, values["seed"]
    generator = torch.Generator().manual_seed(seed)
    canvas = torch.randint(3, config.vocab_size - 3, (1, config.canvas_length), generator=generator)
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
        keyword = {cache_keyword(theirs.model): past}
        sides["transformers"] = lambda: theirs.model(decoder_input_ids=canvas, **keyword).logits
        size["transformers"] = sum(each.nbytes for layer in past.layers for each in (layer.keys, layer.values))
        apart = throughput.difference(sides["ours"](), sides["transformers"]())
        check(apart <= APART, f"logits at {context} differ by {apart:.2g} of the largest", "they must agree first")
    return as_rows("canvas pass", context, turns(sides, values["repeats"]), size)


@torch.no_grad()
def prefills(ours: Backbone, theirs: Theirs | None, context: int, values: dict[str, Any]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(values["seed"])
    prompt = torch.randint(3, ours.config.vocab_size - 3, (1, context), generator=generator)
    sides: dict[str, Callable[[], Any]] = {"ours": lambda: ours.prefill(prompt)}
    if theirs is not None:
        sides["transformers"] = lambda: theirs.prefill(prompt)
    return as_rows("prefill", context, turns(sides, values["repeats"], warm=False), {})


def over_arithmetic(config: ModelConfig, first: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Our passes over the time of the shortest context and that of the arithmetic that full layers do in addition."""
    times = {row["context"]: row["seconds"] for row in rows if row["side"] == "ours"}
    rate = product_rate()
    shares = {n: took / (times[first] + arithmetic(config, n - first) / rate) for n, took in times.items()}
    found = {"product_rate": rate, "over_arithmetic": shares}
    print(json.dumps(found))
    return found


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and write one file."""
    values = parse(arguments, KEYS)
    check(values["shape"] in SHAPES, f"shape is {values['shape']!r}", f"give one of {', '.join(SHAPES)}")
    check(values["part"] in ("passes", "prefill"), f"part is {values['part']!r}", "give passes or prefill")
    check(values["repeats"] > 0, "repeats is 0", "give 1 or more")
    config, contexts, prompts = SHAPES[values["shape"]]
    torch.set_num_threads(1)
    config = replace(config, max_position_embeddings=max(262_144 + config.canvas_length, *contexts))
    ours, theirs = build(config, values["seed"], "cpu", torch.float32, saved=False)
    if values["part"] == "passes":
        done = [row for n in contexts if n <= values["longest"] for row in passes(ours.model, theirs, n, values)]
        results = over_arithmetic(config, contexts[0], done)
    else:
        done = [row for n in prompts if n <= values["longest"] for row in prefills(ours.model, theirs, n, values)]
        results = {}
    header = new_header(ROOT, values["seed"], "cpu", threads=1, shape=asdict(config), repeats=values["repeats"])
    results = {"header": header, **results, "rows": done}
    write_whole(Path(values["out"]), json.dumps(results, indent=1))


if __name__ == "__main__":
    run(main)
