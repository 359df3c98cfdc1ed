"""How much memory a generation takes."""

from __future__ import annotations

from constrained_dg.model.config import ModelConfig

#: Tokens that go through the stack at a time in a causal pass without gradients: activations are bounded by it, and
#: every chunk reads all weights once more. Prefill of 4096 tokens, hidden 512, one CPU thread: chunks of 256, 1024,
#: 2048 and 4096 take 3.5, 3.1, 2.8 and 3.5 s.
PREFILL_CHUNK = 2048


def generation_bytes(config: ModelConfig, slots: int, size: int, rows: int, committed: int, canvas: int) -> int:
    """Bytes beyond the weights that generating takes at its peak, estimated without allocating anything.

    The tensors of a sampler are not included.

    Args:
        slots: numbers that the cache of one row holds.
        size: bytes of one number of the weights.
        rows: B.
        committed: tokens in the cache when the last canvas begins.
        canvas: C.
    """
    # 1. The cache; twice with more than one row, since rows that leave the batch select a second, smaller cache while
    #    the first is still in use.
    cache = slots * rows * size * (2 if rows > 1 else 1)
    # 2. One canvas of logits in fp32, the probabilities that go back in the type of the weights and, where that is not
    #    fp32, the logits before the cast.
    logits = rows * canvas * config.vocab_size * (4 + size + (size if size < 4 else 0))
    # 3. The larger pass of prefill and canvas: its residual stream, queries, MLP, experts and masks as if all tensors
    #    of one layer were alive at once.
    heads = config.num_attention_heads * max(config.head_dim, config.global_head_dim)
    token = 8 * config.hidden_size + 4 * heads + 3 * config.intermediate_size
    token += config.top_k_experts * (3 * config.hidden_size + 4 * config.moe_intermediate_size)
    tokens = max(canvas, min(committed, PREFILL_CHUNK))
    masks = tokens * committed * (1 + config.num_attention_heads // config.num_global_key_value_heads)
    return cache + logits + (rows * tokens * token + masks) * size
