"""Training parts: settings, the step, pools of rollouts, the optimiser, the weight average."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch

from constrained_dg.diffusion import canvas_loss
from constrained_dg.errors import InputError
from constrained_dg.model import Backbone, preset
from constrained_dg.model.lora import adapt
from constrained_dg.task import Batch
from constrained_dg.training.callbacks import WeightAverage
from constrained_dg.training.module import DiffusionModule, learning_rate_share, step_generator
from constrained_dg.training.optimiser import new_optimiser
from constrained_dg.training.rollouts import Pool
from constrained_dg.training.settings import Objective, Optimisation, from_dict
from constrained_dg.training.trainer import trainer_arguments

OPTIMISATION = Optimisation(
    steps=20, batch_size=8, learning_rate=0.01, warmup=2, weight_decay=0.0, clip=1.0, average=0.9
)


def example(rows: int = 8, canvas: int = 6, seed: int = 0) -> Batch:
    """A task a tiny model learns at once: the canvas repeats the prompt."""
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(3, 9, (rows, canvas), generator=generator)
    pinned = torch.rand(rows, canvas, generator=generator) < 0.3
    return Batch(prompt, prompt.clone(), pinned, None, (3, 9))


def module(objective: Objective | None = None, seed: int = 0) -> DiffusionModule:
    backbone = Backbone(preset("tiny", loops=2)).init_weights(torch.Generator().manual_seed(seed))
    made = DiffusionModule(backbone, objective or Objective(), OPTIMISATION, seed)
    # Stands in for Lightning's trainer: where the run is, and a log that is thrown away.
    made._trainer = None
    made.log_dict = lambda values: made.__dict__.update(logged=values)
    return made


@pytest.fixture(autouse=True)
def at_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusionModule, "global_step", property(lambda self: self.__dict__.get("now", 0)))
    monkeypatch.setattr(DiffusionModule, "global_rank", property(lambda self: 0))


@pytest.mark.parametrize(
    ("cls", "change", "named"),
    [
        (Objective, {"encoder_rows": 1.5}, "encoder_rows"),
        (Objective, {"below": 0}, "below"),
        (Objective, {"self_conditioning": 2}, "self_conditioning"),
        (Objective, {"pure_start": -0.5}, "pure_start"),
        (Objective, {"pure_start": 0.6}, "pure_start"),  # half of the rows get a first prediction
        (Objective, {"balance_weight": -1}, "balance_weight"),
        (Objective, {"most_passes": 0}, "most_passes"),
        (Objective, {"rolouts": True}, "rolouts"),
        (Optimisation, {"steps": 0}, "steps"),
        (Optimisation, {"steps": 1.5}, "steps"),
        (Optimisation, {"batch_size": 1}, "batch_size"),
        (Optimisation, {"learning_rate": 0}, "learning_rate"),
        (Optimisation, {"average": 1.0}, "average"),
        (Optimisation, {"weight_decay": -1}, "weight_decay"),
        (Optimisation, {"clip": 0}, "clip"),
        (Optimisation, {"method": "sgd"}, "method"),
        (Optimisation, {"floor": 1.5}, "floor"),
    ],
)
def test_bad_settings_are_named(cls: type, change: dict, named: str) -> None:
    good = vars(OPTIMISATION) if cls is Optimisation else {}
    with pytest.raises(InputError, match=named):
        from_dict(cls, {**good, **change}, "settings")


def test_missing_settings_are_named() -> None:
    with pytest.raises(InputError, match="batch_size"):
        from_dict(Optimisation, {"steps": 3}, "optimisation")


def test_learning_rate_rises_then_falls_to_a_twentieth() -> None:
    shares = [learning_rate_share(step, OPTIMISATION) for step in range(OPTIMISATION.steps + 1)]
    assert shares[0] < shares[1] < shares[2] == max(shares)
    assert shares[2:] == sorted(shares[2:], reverse=True)
    assert shares[-1] == pytest.approx(0.05)


def test_a_step_depends_on_seed_and_step_alone() -> None:
    losses = [module().training_step(example(), 0).item() for _ in range(2)]
    assert losses[0] == losses[1]
    later = module()
    later.now = 1
    assert later.training_step(example(), 0).item() != losses[0]
    draws = {step_generator(*key).initial_seed() for key in [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1)]}
    assert len(draws) == 4


def test_every_weight_learns_and_the_loss_falls() -> None:
    made = module(Objective(encoder_rows=0.5))
    optimiser = new_optimiser(made.backbone, OPTIMISATION)
    losses = []
    for step in range(20):
        made.now = step
        loss = made.training_step(example(seed=step), 0)
        loss.backward()
        if step == 0:
            silent = [n for n, p in made.backbone.named_parameters() if p.grad is None or not p.grad.any()]
            assert silent == []
        optimiser.step()
        optimiser.zero_grad()
        losses.append(made.logged["loss/diffusion"].item())
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_rows_that_are_told_nothing_may_be_pure_noise(monkeypatch) -> None:
    made, seen = module(Objective(self_conditioning=0.5, pure_start=0.5)), {}
    denoise, tell = made.backbone.denoise_loops, made.backbone.self_condition
    monkeypatch.setattr(made.backbone, "self_condition", lambda told, mask: seen.update(told=mask) or tell(told, mask))
    monkeypatch.setattr(
        made.backbone,
        "denoise_loops",
        lambda noisy, *rest, **how: seen.update(noisy=noisy) or denoise(noisy, *rest, **how),
    )
    batch = example(rows=64, canvas=32)
    made.training_step(batch, 0)
    told, free = seen["told"], ~batch.pinned
    kept = ((seen["noisy"] == batch.answer) & free).sum(1) / free.sum(1)
    assert told.sum() == 32
    # One of six kinds of noise is the true token; rows with a first prediction keep half of their tokens as well.
    assert kept[~told].mean() < 0.2 < 0.5 < kept[told].mean()
    assert torch.equal(seen["noisy"][batch.pinned], batch.answer[batch.pinned])


def test_each_part_of_the_objective_changes_the_loss() -> None:
    base = {"encoder_weight": 1.0, "encoder_rows": 0.5, "balance_weight": 0.01, "self_conditioning": 0.5}
    reference = module(Objective(**base)).training_step(example(), 0).item()
    for change in (
        {"encoder_weight": 0.5},
        {"encoder_rows": 1.0},
        {"balance_weight": 1.0},
        {"self_conditioning": 0.0},
        {"pure_start": 0.5},
        {"rollouts": True},
    ):
        changed = module(Objective(**{**base, **change})).training_step(example(), 0).item()
        assert changed != reference, change


def test_utilisation_is_reported_and_even_use_is_one() -> None:
    made = module()
    made.training_step(example(), 0)
    assert 0 < made.logged["experts/effective"] <= 1.0001
    assert 0 <= made.logged["experts/least_used"] <= 1.0001


PURE = Objective(rollouts=True, pure_start=1.0, self_conditioning=0.0)


def full(batch: Batch) -> Pool:
    pool = Pool.of(batch, PURE, torch.Generator())
    assert (pool.sets == ((batch.answer[..., None] == torch.arange(3, 9)) | ~batch.pinned[..., None])).all()
    return pool


def one_dead(batch: Batch) -> Pool:
    """As after a first pass: one wrong token is dead."""
    return Pool.of(batch, replace(PURE, pure_start=0.0), torch.Generator())


def test_a_pool_goes_on_by_the_steps_of_the_model_and_replaces_what_is_over() -> None:
    """Against a slow twin, cell by cell; row 0 is right and sure, row 1 sure and wrong, row 2 undecided."""
    batch = example(3)
    objective = Objective(rollouts=True, below=0.1, most_passes=3)
    right = torch.nn.functional.one_hot(batch.answer, 64) * 50.0
    wrong = torch.nn.functional.one_hot((batch.answer - 2) % 6 + 3, 64) * 50.0
    # Two tokens are equally likely in row 2: that of the answer, and the next one.
    logits = torch.stack([right[0], wrong[1], (right + wrong)[2]])
    after, metrics = one_dead(batch).advanced(logits, objective, torch.Generator().manual_seed(0))
    free = ~batch.pinned
    assert after.over[:2].tolist() == [True, True] and after.age.tolist() == [1] * 3
    assert metrics["pool/solved"] >= 1 / 3 and metrics["pool/lost"] >= 1 / 3
    pinned_one, sizes = 0, after.sets[2].sum(-1)
    for cell in range(6):
        pair = {int(batch.answer[2, cell]) - 3, int(batch.answer[2, cell] - 2) % 6}
        living = set(after.sets[2, cell].nonzero().flatten().tolist())
        if batch.pinned[2, cell]:
            assert living == {int(batch.answer[2, cell]) - 3}
        else:
            assert living <= pair
            pinned_one += len(living) == 1
    assert pinned_one == 1 and int(sizes.sum()) == 6 + int(free[2].sum()) - 1
    # The row is over exactly if the pin took the token of the answer away, or if the first of two equals is right
    # everywhere.
    holds = after.sets[2].gather(1, batch.answer[2, :, None] - 3).all()
    solved = all(int(batch.answer[2, c]) < (int(batch.answer[2, c]) - 2) % 6 + 3 for c in range(6) if free[2, c])
    assert bool(after.over[2]) == (not holds or solved)

    fresh = example(3, seed=9)
    filled = after.refilled(fresh, PURE, torch.Generator())
    for row, over in enumerate(after.over.tolist()):
        assert torch.equal(filled.batch.answer[row], (fresh if over else batch).answer[row])
        assert torch.equal(filled.sets[row], (full(fresh) if over else after).sets[row])
        assert filled.age[row] == (0 if over else 1)
    with pytest.raises(InputError, match="batch of 8 rows for a pool of 3"):
        after.refilled(example(8), PURE, torch.Generator())
    old, _ = replace(full(batch), age=torch.full((3,), 2)).advanced(logits, objective, torch.Generator())
    assert old.over.all()


def test_a_pass_on_pure_noise_only_eliminates_the_unlikeliest_token() -> None:
    batch = example(3)
    logits = torch.randn(3, 6, 64, generator=torch.Generator().manual_seed(0)) * 5
    after, _ = full(batch).advanced(logits, replace(PURE, below=0.1), torch.Generator())
    gone = full(batch).sets & ~after.sets
    probabilities = logits[..., 3:9].softmax(-1).masked_fill(batch.pinned[..., None], 2)
    for row in range(3):
        (at,) = gone[row].nonzero().tolist()
        assert probabilities[row][tuple(at)] == probabilities[row].min()
    # The next pass eliminates and pins.
    third, _ = after.advanced(logits, replace(PURE, below=0.1), torch.Generator())
    assert (third.sets.sum((1, 2)) < after.sets.sum((1, 2)) - 1).all()


def test_a_row_that_lost_its_answer_learns_to_say_so_until_the_model_does() -> None:
    batch, blank = example(3), 0
    objective = replace(PURE, conflict=0.5, below=0.1)
    wrong = torch.nn.functional.one_hot((batch.answer - 2) % 6 + 3, 64) * 50.0
    unsure = torch.full((3, 6, 64), -50.0)
    unsure[..., 3:9] = 0.0
    says_so = torch.nn.functional.one_hot(torch.full_like(batch.answer, blank), 64) * 50.0
    lost, metrics = replace(one_dead(batch), lost=torch.tensor([2, 0, 8])).advanced(
        torch.stack([wrong[0], unsure[1], unsure[2]]), objective, torch.Generator()
    )
    assert lost.lost.tolist()[0] == 3 and metrics["pool/seen"] == 0
    free = ~batch.pinned
    target = lost.target(blank)
    for row in range(3):
        is_lost = not bool(lost.sets[row].gather(1, batch.answer[row, :, None] - 3)[free[row]].all())
        assert (int(lost.lost[row]) > 0) == is_lost
        assert torch.equal(target[row], torch.where(free[row] & is_lost, blank, batch.answer[row]))
    # The model sees that row 0 is lost, and says the same of row 1, which is not unless its pin was wrong.
    state = replace(one_dead(batch), lost=torch.tensor([1, 0, 0]))
    dead = state.sets.clone()
    cell = int(free[0].nonzero()[0])
    dead[0, cell, int(batch.answer[0, cell]) - 3] = False
    seen, metrics = replace(state, sets=dead).advanced(
        torch.stack([says_so[0], says_so[1], unsure[2]]), replace(objective, below=1e-6), torch.Generator()
    )
    assert bool(seen.over[0]) and float(metrics["pool/seen"]) == pytest.approx(1 / 3)
    assert float(metrics["pool/false_alarms"]) == pytest.approx(int(seen.lost[1] == 0) / 3)


def test_new_rows_are_pure_noise_or_have_one_dead_token() -> None:
    batch = example(400)
    pool = Pool.of(batch, Objective(rollouts=True, pure_start=0.25), torch.Generator().manual_seed(0))
    free = ~batch.pinned
    assert pool.sets.gather(2, batch.answer[..., None] - 3)[free].all()
    assert (pool.sets[batch.pinned].sum(-1) == 1).all()
    dead = (6 - pool.sets.sum(-1)).masked_fill(batch.pinned, 0).sum(-1)
    assert set(dead[free.any(1)].tolist()) == {0, 1}
    assert 0.2 < (dead == 0).float().mean() < 0.4  # and rows where nothing is free


def stepped(made: DiffusionModule, step: int) -> Pool:
    made.now = step
    made.training_step(example(seed=step), 0)
    (pool,) = made.pools.values()
    return pool


def test_a_pool_survives_a_checkpoint() -> None:
    made = module(PURE)
    survivor = (step for step in range(40) if not stepped(made, step).over.all())
    step = next(survivor) + 1
    checkpoint: dict = {}
    made.on_save_checkpoint(checkpoint)
    restored = module(PURE)
    restored.backbone.load_state_dict(made.backbone.state_dict())
    restored.on_load_checkpoint(checkpoint)
    made.now = restored.now = step
    with_state, without = (m.training_step(example(seed=step), 0) for m in (made, restored))
    assert torch.equal(with_state, without)
    forgetful = module(PURE)
    forgetful.backbone.load_state_dict(made.backbone.state_dict())
    forgetful.now = step
    assert not torch.equal(forgetful.training_step(example(seed=step), 0), without)
    larger = module(PURE)
    larger.optimisation = replace(OPTIMISATION, batch_size=9)
    with pytest.raises(InputError, match="pool of 8 rows"):
        larger.on_load_checkpoint(checkpoint)


def test_a_pool_of_an_older_version_is_read() -> None:
    """What became a field of a batch, or of a pool, after the checkpoint was written has its default."""
    pool = one_dead(example())
    newer = {"lost", *(f.name for f in fields(Batch) if f.default is None)}
    assert pool.batch.mask is pool.batch.images is None
    old = {name: value for name, value in pool.state_dict().items() if name not in newer}
    again = Pool.from_state_dict(old)
    assert not again.lost.any() and torch.equal(again.sets, pool.sets)
    assert again.batch.mask is again.batch.images is None and torch.equal(again.batch.answer, pool.batch.answer)


def test_the_first_pass_of_a_rollout_has_no_self_conditioning(monkeypatch) -> None:
    """Sets that are full everywhere are pure noise: bit for bit the pass without a signal."""
    made = module(replace(PURE, encoder_weight=0.0, balance_weight=0.0))
    seen: list = []
    monkeypatch.setattr(made.backbone, "self_condition", lambda p, mask: seen.append((p, mask)) or p[..., :32] * 0)
    loss = made.training_step(example(), 0)
    monkeypatch.undo()
    ((distribution, mask),) = seen
    assert not mask.any() and torch.allclose(distribution.sum(-1), torch.ones(8, 6))
    plain = module(Objective(pure_start=1.0, self_conditioning=0.0, encoder_weight=0.0, balance_weight=0.0))
    generator = step_generator(0, 0, 0)
    canvas = Pool.of(example(), PURE, generator).canvas(generator)
    cache = plain.backbone.prefill(example().prompt)
    logits = plain.backbone.denoise_loops(canvas, cache, None)
    assert torch.equal(canvas_loss(logits, example().answer, example().pinned), loss)


def test_a_step_that_is_not_finite_ends_with_a_hint() -> None:
    made = module()
    with torch.no_grad():
        made.backbone.norm.weight.fill_(math.nan)
    with pytest.raises(InputError, match="learning rate"):
        made.training_step(example(), 0)


def test_the_optimiser_moves_matrices_like_muon_and_the_rest_like_adamw() -> None:
    model = Backbone(preset("tiny", num_relations=2)).init_weights(torch.Generator().manual_seed(0))
    twin = Backbone(preset("tiny", num_relations=2))
    twin.load_state_dict(model.state_dict())
    ours = new_optimiser(model, OPTIMISATION)
    named = dict(twin.named_parameters())
    rest = ("router", "bias")
    matrices = [p for n, p in named.items() if n[0] == "l" and p.dim() == 2 and not any(r in n for r in rest)]
    matrices += [p for n, p in named.items() if n.startswith("self_conditioning") and p.dim() == 2]
    others = [p for p in twin.parameters() if all(p is not m for m in matrices)]
    theirs = [
        torch.optim.Muon(matrices, lr=0.01, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    generator = torch.Generator().manual_seed(1)
    for step in range(3):
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        if step == 2:  # a restored optimiser goes on as the first would have
            state, before = ours.state_dict(), ours
            ours = new_optimiser(model, OPTIMISATION)
            ours.load_state_dict(state)
            assert len(ours.state) == len(before.state) > 0
        for optimiser in (ours, *theirs):
            optimiser.step()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6), name


def test_the_weight_average_follows_its_formula_and_swaps_back() -> None:
    made = module()
    average = WeightAverage(0.9)
    average.on_train_start(SimpleNamespace(global_step=0), made)
    name, weight = next(iter(made.named_parameters()))
    expected = weight.detach().clone()
    for step in range(1, 4):
        with torch.no_grad():
            weight.add_(1.0)
        average.on_train_batch_end(SimpleNamespace(global_step=step), made)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    raw = weight.detach().clone()
    with average.swapped(made):
        assert torch.allclose(weight, expected, atol=1e-6) and not torch.equal(weight, raw)
    assert torch.equal(weight, raw)
    copy = WeightAverage(0.9)
    copy.load_state_dict(average.state_dict())
    assert torch.equal(copy.average[name], average.average[name])


def padded_example(rows: int = 4, pads: int = 5) -> tuple[Batch, Batch]:
    """The same rows without padding, and with some on the left."""
    plain = example(rows, seed=3)
    plain = Batch(plain.prompt, plain.answer, torch.zeros_like(plain.pinned), None, plain.noise)
    prompt = torch.cat([torch.full((rows, pads), 7), plain.prompt], dim=1)
    mask = torch.arange(prompt.shape[1]).expand(rows, -1) >= pads
    return plain, Batch(prompt, plain.answer, plain.pinned, None, plain.noise, mask)


def test_padding_changes_no_loss() -> None:
    plain, padded = padded_example()
    objective = Objective(balance_weight=0.0, encoder_rows=1.0)
    parts = []
    for batch in (plain, padded):
        made = module(objective)
        made.training_step(batch, 0)
        parts.append({name: value.item() for name, value in made.logged.items()})
    assert parts[0] == pytest.approx(parts[1], abs=2e-5)
    other = Batch(padded.prompt.clone(), padded.answer, padded.pinned, None, padded.noise, padded.mask)
    other.prompt[:, :5] = 11
    made = module(objective)
    made.training_step(other, 0)
    assert {name: value.item() for name, value in made.logged.items()} == parts[1], "what stands at padding is not read"


def test_adapters_alone_are_trained_averaged_and_kept() -> None:
    made = module(Objective(balance_weight=0.0))
    adapt(made.backbone, 2)
    made = DiffusionModule(made.backbone, made.objective, OPTIMISATION, 0)
    made._trainer, made.log_dict = None, lambda values: None
    adapters = {name for name, p in made.named_parameters() if "lora" in name}
    optimiser = new_optimiser(made.backbone, replace(OPTIMISATION, method="adam"))
    frozen = {name: p.detach().clone() for name, p in made.named_parameters() if name not in adapters}
    average = WeightAverage(0.9)
    average.on_train_start(SimpleNamespace(global_step=0), made)
    assert set(average.average) == adapters
    for step in range(2):
        made.training_step(example(seed=step), 0).backward()
        optimiser.step()
        average.on_train_batch_end(SimpleNamespace(global_step=step + 1), made)
    named = dict(made.named_parameters())
    assert all(torch.equal(named[name], weight) for name, weight in frozen.items())
    assert len(optimiser.state) == len(adapters) and all(named[name].any() for name in adapters)
    with average.swapped(made):
        assert all(torch.equal(named[name], average.average[name]) for name in adapters)

    checkpoint = {"state_dict": dict(made.state_dict())}
    made.on_save_checkpoint(checkpoint)
    weights = {name for name in checkpoint["state_dict"] if "layer_scalar" not in name}
    assert weights == adapters and not made.strict_loading
    made.on_load_checkpoint(checkpoint)
    checkpoint["state_dict"].pop(next(iter(adapters)))
    with pytest.raises(InputError, match="does not hold the weights that are trained"):
        made.on_load_checkpoint(checkpoint)


def test_without_an_average_nothing_is_copied_or_written() -> None:
    made, average = module(), WeightAverage(0.0)
    average.on_train_start(SimpleNamespace(global_step=0), made)
    average.on_train_batch_end(SimpleNamespace(global_step=1), made)
    before = {name: p._version for name, p in made.named_parameters()}
    with average.swapped(made):
        assert average.state_dict() == {"average": {}}
    assert before == {name: p._version for name, p in made.named_parameters()}


def test_adam_follows_the_recipe_on_all_weights() -> None:
    model = Backbone(preset("tiny")).init_weights(torch.Generator().manual_seed(0))
    settings = replace(OPTIMISATION, method="adam", weight_decay=0.1, floor=0.1)
    (group,) = new_optimiser(model, settings).param_groups
    assert group["betas"] == (0.95, 0.99) and group["eps"] == 1e-8 and group["weight_decay"] == 0.1
    assert len(group["params"]) == len(list(model.parameters()))
    assert learning_rate_share(settings.steps, settings) == pytest.approx(0.1)


@pytest.mark.parametrize(("can", "expected"), [({"avx512_bf16": True}, "bf16-mixed"), ({"avx2": True}, "32-true")])
def test_precision_is_what_the_processor_can_do(monkeypatch, can, expected) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    assert trainer_arguments({"accelerator": "cpu", "precision": "auto"})["precision"] == expected
    assert trainer_arguments({"accelerator": "gpu", "precision": "auto"})["precision"] == "bf16-mixed"
    assert trainer_arguments({"accelerator": "cpu", "precision": "64-true"})["precision"] == "64-true"
