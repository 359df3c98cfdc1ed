"""What a pass needs of the model's distribution, computed from the logits in one sweep.

The logits are large (256 positions of a vocabulary of 262,144 are 268 MB) and all results are small, so they
are read a few positions at a time, to stay in the cache, and overwritten with the probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from constrained_dg.memory import swept_at_once
from constrained_dg.shapes import FloatTensor, IntTensor

#: Tokens in a block: a draw first finds a block by its sum, then a token inside it.
BLOCK = 256
#: Replaces -inf after the maximum is subtracted: exp gives exactly 0, and 0 * inf would be NaN.
_NEVER = -1e30


@dataclass(frozen=True)
class Distribution:
    """The processed distribution at every position of a canvas.

    Attributes:
        best: (N, C) int64, the likeliest token, the first of equals.
        sample: (N, C) int64, one draw.
        entropy: (N, C) in nats.
        log_best: (N, C) log-probability of the likeliest token.
        probabilities: (N, C, V) float32; exactly 0 for a token whose logit is -inf.
    """

    best: IntTensor
    sample: IntTensor
    entropy: FloatTensor
    log_best: FloatTensor
    probabilities: FloatTensor


def settle(logits: FloatTensor, temperature: FloatTensor | float, uniform: FloatTensor) -> Distribution:
    """The distribution softmax(logits / temperature); the logits are overwritten with its probabilities.

    Rows do not depend on each other, and nothing waits for the device. A position with a NaN, a +inf or no
    finite logit gets an entropy of NaN.

    Args:
        logits: (N, C, V) float32; overwritten.
        temperature: a number, or a tensor that broadcasts with (N, 1, 1).
        uniform: (N, C) in (0, 1); each picks one token by `draw`.
    """
    logits = logits.contiguous()
    rows, length, vocab = logits.shape
    flat, uniform = logits.view(-1, vocab), uniform.reshape(-1)
    if isinstance(temperature, torch.Tensor) and temperature.dim():
        temperature = temperature.expand(rows, length, 1).reshape(-1, 1)
    best = torch.empty(len(flat), dtype=torch.int64, device=flat.device)
    sample, entropy, log_best = torch.empty_like(best), flat.new_empty(len(flat)), flat.new_empty(len(flat))
    chunk = max(1, swept_at_once(flat.device) // vocab)
    for first in range(0, len(flat), chunk):
        part = slice(first, first + chunk)
        z = flat[part]
        z.div_(temperature[part] if isinstance(temperature, torch.Tensor) and temperature.dim() else temperature)
        top = z.argmax(-1, keepdim=True)
        z.sub_(z.gather(-1, top)).clamp_(min=_NEVER)
        weights = z.exp()
        weighted = z.mul_(weights).sum(-1)
        sums = _block_sums(weights)
        total = sums.sum(-1)
        best[part] = top[:, 0]
        sample[part] = _draw(weights, sums, uniform[part])
        log_best[part] = -total.log()
        entropy[part] = total.log() - weighted / total
        torch.div(weights, total[:, None], out=z)
    best, sample, entropy, log_best = (each.view(rows, length) for each in (best, sample, entropy, log_best))
    return Distribution(best, sample, entropy, log_best, logits)


def draw(weights: FloatTensor, uniform: FloatTensor) -> IntTensor:
    """One token for each position: (..., V) not negative, any sum above 0; (...) in (0, 1) -> (...) int64.

    The cumulative distribution is inverted in two steps: over sums of BLOCK tokens, then inside the block found. A
    token of weight 0 is never drawn.
    """
    flat = weights.reshape(-1, weights.shape[-1])
    return _draw(flat, _block_sums(flat), uniform.reshape(-1)).view(uniform.shape)


def _block_sums(weights: FloatTensor) -> FloatTensor:
    """(M, V) -> (M, ceil(V / BLOCK))."""
    rows, vocab = weights.shape
    aligned = vocab // BLOCK * BLOCK
    sums = weights[:, :aligned].reshape(rows, -1, BLOCK).sum(-1) if aligned else weights[:, :0]
    return sums if aligned == vocab else torch.cat([sums, weights[:, aligned:].sum(-1, keepdim=True)], -1)


def _draw(weights: FloatTensor, sums: FloatTensor, uniform: FloatTensor) -> IntTensor:
    """(M, V), (M, ceil(V / BLOCK)), (M) -> (M)."""
    vocab = weights.shape[-1]
    cumulative = sums.cumsum(-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    block = _first_above(cumulative, threshold)
    below = torch.where(block > 0, cumulative.gather(-1, (block - 1).clamp(min=0)), 0)
    tokens = block * BLOCK + torch.arange(min(BLOCK, vocab), device=weights.device)
    inside = weights.gather(-1, tokens.clamp(max=vocab - 1)).masked_fill(tokens >= vocab, 0).cumsum(-1)
    return (block * BLOCK + _first_above(inside, threshold - below))[:, 0].clamp(max=vocab - 1)


def _first_above(cumulative: FloatTensor, threshold: FloatTensor) -> IntTensor:
    """(M, K) ascending, (M, 1) -> (M, 1), the first entry above the threshold.

    Rounding may lift a threshold to the last sum or above it. It is clamped just below, so that an entry always exists
    and has a weight above 0.
    """
    last = cumulative[:, -1:]
    threshold = torch.minimum(threshold, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(cumulative, threshold.contiguous(), right=True).clamp(max=cumulative.shape[-1] - 1)


def settle_by_softmax(logits: FloatTensor, temperature: FloatTensor | float) -> Distribution:
    """`settle` with the arithmetic of transformers 5.23, drawn from torch's global generator.

    Its rounding, order of operations and use of the generator decide the tokens, so they are copied step by
    step: slower, with several copies of the logits. Arguments and result as for `settle`.
    """
    z = logits / temperature
    probabilities = z.softmax(-1)
    sample = torch.multinomial(probabilities.flatten(0, 1), 1).view(z.shape[:2])
    log_probs = z - z.logsumexp(-1, keepdim=True)
    least = torch.finfo(log_probs.dtype).min
    entropy = -(log_probs.clamp(min=least) * log_probs.softmax(-1)).sum(-1)
    best = z.argmax(-1)
    log_best = log_probs.gather(-1, best[..., None])[..., 0]
    return Distribution(best, sample, entropy, log_best, probabilities)
