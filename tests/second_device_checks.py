"""On a device that is not the CPU every sampler gives the same answers, and waits no more often than it must.

The number of waits per pass is pinned: what waits costs an accelerator the time in which nothing is queued.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from constrained_dg.constraints import Pinned
from constrained_dg.model.images import Pictures
from constrained_dg.sampling import named, sampler_names
from constrained_dg.task import Batch, Moves, Symmetric
from tests.fakes import VOCAB, sudoku4, sudoku_batch
from tests.naive_backbone import random_backbone
from tests.second_device import DEVICE, SecondDevice, moved

PASSES = 8
#: Waits between the first and the last call of the model: one look at the flags of the rows after each fourth pass, but
#: after each pass where a search will need the distribution of a row's last one. Left to right: one look after each
#: fourth token. Samplers of sets begin anew after a conflict, which waits some twenty times, and with rules they wait
#: for each round that rules out tokens: there these are bounds, since attempts end where the numbers say.
READS, EACH = (PASSES - 1) // 4, PASSES - 1
WAITS = dict.fromkeys(sampler_names(), READS) | {
    "completed": EACH, "exact": EACH + 1, "exact_sharper": EACH, "guaranteed": EACH,
    "autoregressive": 3, "autoregressive_rules": 3, "search": 0, "sets": 40, "sets_guaranteed": 50, "sets_rules": 400,
    "sets_restarts": 40, "one_pass_completed": EACH, "views": EACH,
}  # fmt: skip
#: What reads the pictures of "views": 2 tokens of 2 x 2 patches of 4 x 4 pixels for each prompt.
TOWER = {
    "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8,
    "num_key_value_heads": 2, "position_embedding_size": 4, "standardize": False, "patch_size": 4,
    "pooling_kernel_size": 2,
}  # fmt: skip


def unmoved(batch: Batch, seeds: torch.Tensor) -> Symmetric:
    """The least of symmetries."""
    device, (rows, length) = batch.answer.device, batch.answer.shape
    still, names = (torch.arange(size, device=device).repeat(rows, 1) for size in (length, VOCAB))
    rules = sudoku4().to(device) & Pinned(batch.answer, batch.pinned, VOCAB)
    return Symmetric(batch, rules, Moves(still, names))


def answers(name: str, second: bool) -> tuple[torch.Tensor, list[Counter[str]]]:
    """The tokens of three empty 4x4 grids, and what waited before each call of the model."""
    sampler, sees = named(name), name == "views"
    model = random_backbone(1, vocab_size=VOCAB, canvas_length=16, **({"vision": TOWER} if sees else {}))
    batch, rules = sudoku_batch([0, 1, 2], torch.zeros(3, 16, dtype=torch.bool))
    if sees:
        pixels = torch.randint(0, 256, (3, 8, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        batch = replace(batch, images=Pictures(pixels, 4))
    before: list[Counter[str]] = []
    with SecondDevice() as device:
        if second:
            model, batch = moved(model), batch.to(DEVICE)

        def noted(call):
            def one(*given, **options):
                before.append(Counter(device.waits))
                device.waits.clear()
                return call(*given, **options)

            return one

        model.denoise, model.next_token = noted(model.denoise), noted(model.next_token)
        options = {"symmetric": unmoved} if sampler.uses_symmetry else {}
        # Each view is a pass.
        result = sampler.run(model, batch, rules, 0, max_passes=16 * PASSES if sees else PASSES, **options)
        return result.tokens.cpu(), before


@pytest.mark.parametrize("name", sampler_names())
def test_every_sampler_answers_as_on_the_cpu_and_rarely_waits(name):
    tokens, before = answers(name, True)
    assert torch.equal(tokens, answers(name, False)[0])
    waits = sum((each for each in before[1:]), Counter())
    assert waits.total() <= WAITS[name], f"{name}: {waits} in {len(before)} calls"
    assert waits.total() == WAITS[name] or name.startswith("sets"), f"{name} waits less: lower the number"


def test_the_device_notices_what_waits_and_what_lies_elsewhere():
    with SecondDevice() as device:
        x = torch.arange(6, device=DEVICE).view(2, 3)
        assert x.device == DEVICE and not device.waits
        assert (x.float() @ torch.ones(3, 2, device=DEVICE)).device == DEVICE and not device.waits
        for call in (
            lambda: bool((x > 2).all()), lambda: x[x > 2], lambda: x.tolist(), lambda: int(x[0, 1]), lambda: x.cpu(),
            lambda: torch.tensor([1, 2], device=DEVICE), lambda: x[torch.tensor([1])], lambda: x.nonzero(),
            lambda: f"{x}",
        ):  # fmt: skip
            device.waits.clear()
            call()
            assert device.waits.total() == 1, device.waits
        with pytest.raises(AssertionError, match="on the CPU"):
            x + torch.ones(2, 3)
        with pytest.raises(AssertionError, match="on the CPU"):
            torch.ones(3)[x[0] % 3]
