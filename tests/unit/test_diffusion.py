"""Corruption and losses, against loops."""

import math

import pytest
import torch

from constrained_dg.diffusion import canvas_loss, corrupt, next_token_loss, sample_noise_levels

NOISE = (3, 9)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clean(rows: int, size: int) -> torch.Tensor:
    """Tokens outside the noise range, so that every replaced token shows."""
    return torch.randint(20, 30, (rows, size), generator=seeded(99))


# -- corruption -------------------------------------------------------------------------------------------------------


def test_noise_levels_are_uniform_inside_their_margin():
    levels = sample_noise_levels(20_000, seeded(), margin=0.1)
    assert levels.shape == (20_000,)
    assert levels.min() >= 0.1 and levels.max() <= 0.9
    counts = torch.histc(levels, bins=8, min=0.1, max=0.9)
    assert ((counts - 2500).square() / 2500).sum() < 24.3  # chi-square, 7 degrees of freedom, p = 0.001
    assert torch.equal(sample_noise_levels(5, seeded()), sample_noise_levels(5, seeded()))
    assert sample_noise_levels(10**5, seeded()).min() < 1e-3  # the default margin is the recipe's 1e-4


def test_pinned_tokens_never_change_and_are_no_part_of_the_draws():
    canvas = clean(50, 40)
    pinned = torch.rand(50, 40, generator=seeded(2)) < 0.5
    levels = torch.linspace(0, 1, 50)
    noisy = corrupt(canvas, pinned, levels, NOISE, seeded())
    assert torch.equal(noisy[pinned], canvas[pinned])
    unpinned = corrupt(canvas, torch.zeros_like(pinned), levels, NOISE, seeded())
    assert torch.equal(noisy[~pinned], unpinned[~pinned]), "pinning one cell must not move the noise of another"
    assert (unpinned != canvas)[pinned].any()


@pytest.mark.parametrize("level", [0.05, 0.3, 0.7, 0.95])
def test_share_of_replaced_tokens_is_the_noise_level(level):
    canvas = clean(100, 200)
    noisy = corrupt(canvas, torch.zeros(100, 200, dtype=torch.bool), torch.full((100,), level), NOISE, seeded())
    share = (noisy != canvas).float().mean().item()
    assert abs(share - level) < 4 * math.sqrt(level * (1 - level) / 20_000)


def test_each_row_has_its_own_level():
    canvas, levels = clean(3, 20_000), torch.tensor([0.0, 0.25, 1.0])
    noisy = corrupt(canvas, torch.zeros(3, 20_000, dtype=torch.bool), levels, NOISE, seeded())
    shares = (noisy != canvas).float().mean(1)
    assert shares[0] == 0 and shares[2] == 1
    assert shares[1].item() == pytest.approx(0.25, abs=0.015)


def test_level_zero_is_the_identity_and_level_one_is_uniform_noise():
    canvas, free = clean(100, 240), torch.zeros(100, 240, dtype=torch.bool)
    assert torch.equal(corrupt(canvas, free, torch.zeros(100), NOISE, seeded()), canvas)
    noisy = corrupt(canvas, free, torch.ones(100), NOISE, seeded())
    low, high = NOISE
    assert noisy.min() == low and noisy.max() == high - 1
    counts = torch.bincount(noisy.flatten() - low, minlength=high - low).float()
    expected = noisy.numel() / (high - low)
    assert ((counts - expected).square() / expected).sum() < 20.5  # 5 degrees of freedom, p = 0.001


def test_noise_may_redraw_the_true_token():
    canvas = torch.full((1, 6000), 4)
    noisy = corrupt(canvas, torch.zeros(1, 6000, dtype=torch.bool), torch.ones(1), NOISE, seeded())
    assert (noisy == canvas).float().mean().item() == pytest.approx(1 / 6, abs=0.02)


def test_one_seed_one_corruption():
    canvas, free, levels = clean(4, 30), torch.zeros(4, 30, dtype=torch.bool), torch.full((4,), 0.5)
    noisy = corrupt(canvas, free, levels, NOISE, seeded())
    kept = canvas.clone()
    assert torch.equal(noisy, corrupt(canvas, free, levels, NOISE, seeded()))
    assert not torch.equal(noisy, corrupt(canvas, free, levels, NOISE, seeded(2)))
    assert torch.equal(canvas, kept), "the clean canvas must survive"
    assert noisy.dtype == torch.int64


def test_more_noise_keeps_what_less_noise_replaced():
    canvas, free = clean(4, 30), torch.zeros(4, 30, dtype=torch.bool)
    some, more = (corrupt(canvas, free, torch.full((4,), t), NOISE, seeded()) for t in (0.3, 0.6))
    assert torch.equal(some[some != canvas], more[some != canvas])


# -- losses -----------------------------------------------------------------------------------------------------------


def nll(logits: torch.Tensor, token: int) -> float:
    values = logits.double().tolist()
    return math.log(sum(math.exp(v) for v in values)) - values[token]


def case(loops: int = 2):
    logits = [torch.randn(3, 5, 7, generator=seeded(i)).mul_(3).requires_grad_() for i in range(loops)]
    canvas = torch.randint(0, 7, (3, 5), generator=seeded(8))
    pinned = torch.tensor([[0, 0, 0, 0, 0], [1, 0, 1, 1, 0], [1, 1, 0, 1, 1]], dtype=torch.bool)
    return logits, canvas, pinned


@pytest.mark.parametrize("loops", [1, 3])
def test_canvas_loss_averages_cells_then_rows_then_loops(loops):
    logits, canvas, pinned = case(loops)
    total = 0.0
    for step in logits:
        for b in range(3):
            cells = [c for c in range(5) if not pinned[b, c]]
            total += sum(nll(step[b, c], canvas[b, c]) for c in cells) / len(cells) / 3 / loops
    loss = canvas_loss(logits, canvas, pinned)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    loss.backward()
    for step in logits:
        assert (step.grad[pinned] == 0).all()
        assert (step.grad[~pinned].abs().amax(1) > 0).all()
        # d loss / d logits = (p - onehot) * share of the cell
        share = 1 / (~pinned).sum(1) / 3 / loops
        want = (step.softmax(-1) - torch.nn.functional.one_hot(canvas, 7)) * share[:, None, None]
        torch.testing.assert_close(step.grad[~pinned], want[~pinned].detach())


def test_canvas_loss_of_a_fully_pinned_row_is_zero_not_nan():
    logits, canvas, pinned = case(1)
    pinned[1] = True
    free = [0, 2]
    want = sum(canvas_loss([logits[0][b : b + 1]], canvas[b : b + 1], pinned[b : b + 1]).item() for b in free) / 3
    assert canvas_loss(logits, canvas, pinned).item() == pytest.approx(want, rel=1e-5)
    assert canvas_loss(logits, canvas, torch.ones_like(pinned)).item() == 0.0


def test_canvas_loss_counts_cells_that_corruption_left_alone():
    # No weight over the noise level: the loss does not even know which cells were corrupted.
    _, canvas, _ = case(1)
    perfect = torch.nn.functional.one_hot(canvas, 7).float() * 50
    assert canvas_loss([perfect], canvas, torch.zeros(3, 5, dtype=torch.bool)).item() == pytest.approx(0, abs=1e-5)
    uniform = torch.zeros(3, 5, 7)
    assert canvas_loss([uniform], canvas, torch.zeros(3, 5, dtype=torch.bool)).item() == pytest.approx(math.log(7))


def test_next_token_loss_equals_a_loop():
    (logits,), tokens, known = case(1)
    losses = [nll(logits[b, i], tokens[b, i + 1]) for b in range(3) for i in range(4) if not known[b, i + 1]]
    assert len(losses) == 4 + 2 + 1
    loss = next_token_loss(logits, tokens, known)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    loss.backward()
    silent = torch.cat([known[:, 1:], torch.ones(3, 1, dtype=torch.bool)], dim=1)
    assert (logits.grad[silent] == 0).all()
    assert (logits.grad[~silent].abs().amax(1) > 0).all()


def test_next_token_loss_without_anything_to_guess_is_zero():
    (logits,), tokens, known = case(1)
    assert next_token_loss(logits, tokens, torch.ones_like(known)).item() == 0.0
