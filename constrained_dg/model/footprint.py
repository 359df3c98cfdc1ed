"""How much memory a generation takes."""

from __future__ import annotations

from constrained_dg.model.attention import TILE
from constrained_dg.model.config import ModelConfig, VisionConfig
from constrained_dg.model.masks import first_visible

#: Tokens that go through the stack at a time in a causal pass without gradients: activations are bounded by it, and
#: every chunk reads all weights once more. Prefill of 4096 tokens, hidden 512, one CPU thread: chunks of 256, 1024,
#: 2048 and 4096 take 3.5, 3.1, 2.8 and 3.5 s.
PREFILL_CHUNK = 2048

#: Queries that attend at a time in a causal pass without gradients (a sliding layer's queries read up to a block more
#: keys than they see). Prefill of 4096 tokens, hidden 512, one CPU thread: blocks of 128, 256 and 512 take 2.7, 2.8 and
#: 2.9 s.
QUERY_BLOCK = 256


def generation_bytes(
    config: ModelConfig,
    cache: int,
    size: int,
    rows: int,
    committed: int,
    canvas: int,
    swept: int,
    narrow: bool,
    pictures: tuple[int, int] = (0, 0),
) -> int:
    """Bytes beyond the weights that generating takes at its peak, counted without allocating anything.

    Measured peaks of torch's allocator on a CPU, without padding, lie within a tenth (tests/unit/test_footprint.py).

    Args:
        cache: bytes of the cache of one row.
        size: bytes of one number of the weights.
        rows: B.
        committed: tokens in the cache when the last canvas begins.
        canvas: C.
        swept: logits that the sampler works on at a time.
        narrow: whether full layers keep 8 bits, which are widened tile by tile.
        pictures: bytes of the soft tokens of all pictures, which are kept, and those that reading them takes beside.
    """
    layers = range(config.num_hidden_layers)
    # 1. Prefill, a chunk at a time; of the last layer it makes the keys and values only.
    chunk = min(committed, PREFILL_CHUNK)
    numbers = [_layer_numbers(config, layer, size) for layer in layers[:-1]]
    numbers.append(2 * config.hidden_size + _key_numbers(config, True) * (_turned(size) + narrow))
    turns = chunk * _rotations(config) * size
    prefill = rows * chunk * max(numbers) * size + turns + _mask_bytes(config, chunk, size, rows if pictures[0] else 0)
    soft, reading = pictures
    # 2. A canvas through the stack, then its logits, once in the type of the weights where that is not fp32.
    layer = max(_layer_numbers(config, index, size) for index in layers) + _rotations(config)
    tiles = 2 * TILE * config.num_global_key_value_heads * config.global_head_dim * size if narrow else 0
    number = 4 + (size if size < 4 else 0)
    logits = canvas * (config.vocab_size * number + 4 * config.hidden_size * size)
    sweep = 2 * 4 * min(swept, rows * canvas * config.vocab_size)
    probabilities = rows * canvas * config.vocab_size * 4
    one_pass = max(canvas * layer * size + tiles, logits)
    # 3. Rows that stop leave the batch: then the cache of those left is there beside that of all.
    both = (2 * rows - 1) * cache + max((rows - 1) * one_pass, probabilities) if rows > 1 else 0
    return soft + max(rows * cache + max(prefill, reading, rows * one_pass, probabilities + sweep), both)


def tower_bytes(config: VisionConfig, patches: int, size: int) -> int:
    """Bytes beyond the weights that a vision tower takes at its peak for pictures that it reads together.

    Args:
        patches: of all of them.
        size: bytes of one number of the weights.
    """
    queries, width = config.num_attention_heads * config.head_dim, config.hidden_size
    # Attention, the gated MLP, or norms; with the rotations and the places of the patches.
    attention, norms = (7 * queries + 2 * width, 5 * width) if size == 4 else (10 * queries + 2 * width, 9 * width)
    layer = max(attention, 4 * config.intermediate_size + 3 * width, norms) + 2 * config.head_dim
    pixels = 2 * 3 * config.patch_size**2 * 4  # in fp32
    return patches * (max(layer * size, pixels) + 3 * 8)


def _rotations(config: ModelConfig) -> int:
    """Numbers for each position of the rotations, cosine and sine, of both kinds of layers."""
    kinds = {config.is_full(layer) for layer in range(config.num_hidden_layers)}
    return sum(2 * (config.global_head_dim if full else config.head_dim) for full in kinds)


def _turned(size: int) -> int:
    """Copies of a tensor of heads while it is normed and turned. Norms of 16 bits are computed in 32."""
    return 5 if size == 4 else 8


def _key_numbers(config: ModelConfig, full: bool) -> int:
    """Numbers of the keys of one token in one layer; as many are its values."""
    if full:
        return config.num_global_key_value_heads * config.global_head_dim
    return config.num_key_value_heads * config.head_dim


def _layer_numbers(config: ModelConfig, layer: int, size: int) -> int:
    """Numbers for each token that one layer holds at its peak: in attention, the experts, or the dense MLP."""
    full, width, k = config.is_full(layer), config.hidden_size, config.top_k_experts
    queries = config.num_attention_heads * (config.global_head_dim if full else config.head_dim)
    keys = _key_numbers(config, full)
    # Queries while they are turned; with keys that are turned; with their answers block by block and joined.
    attention = max(_turned(size) * queries, queries + _turned(size) * keys, 3 * queries + 2 * keys)
    # The residual stream before and after attention, its answer and two norms; then of each choice of the router what
    # its expert made, twice, and gate and up.
    experts = width + k * (2 * width + 2 * config.moe_intermediate_size) + 16 * k // size + config.num_experts
    dense = width + 4 * config.intermediate_size
    norms = (5 if size == 4 else 8) * width
    return max(2 * width + attention, 5 * width + 2 * keys + max(experts, dense, norms))


def _mask_bytes(config: ModelConfig, chunk: int, size: int, pictured: int) -> int:
    """Bytes of the masks of a prefill's first chunk, as bool and as numbers; blocks that see the same share one.

    Args:
        pictured: rows, if pictures stand in the prompts: then each row and block has its own.
    """
    shapes = []
    for window in {config.window(layer) for layer in range(config.num_hidden_layers)}:
        for lo in range(0, chunk, QUERY_BLOCK):
            hi = min(lo + QUERY_BLOCK, chunk)
            shapes.append((window, hi - lo, hi - (lo if window is None else first_visible(lo, window))))
    each = sum(queries * keys * (1 + size) for _, queries, keys in (shapes if pictured else set(shapes)))
    return max(pictured, 1) * each
