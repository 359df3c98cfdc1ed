"""Sudoku from a picture: tokens, rules, judge, and the tower that is trained with the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from constrained_dg import cli, generate
from constrained_dg.constraints.search import complete
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.errors import InputError
from constrained_dg.evaluation import solve
from constrained_dg.model import Backbone, ModelConfig, preset
from constrained_dg.model.images import Images, Pictures, SoftTokens
from constrained_dg.model.vision import Patches
from constrained_dg.sampling import Status
from constrained_dg.training.module import DiffusionModule
from constrained_dg.training.rollouts import Pool
from constrained_dg.training.settings import Objective, Optimisation
from tasks.sudoku import Puzzle
from tasks.sudoku.picture_task import (
    FIRST_CLUE,
    GUESS,
    LEAST,
    VOCAB_SIZE,
    PictureSudoku,
    Readings,
    pictured,
    reading_of,
    values_of,
)
from tests.naive_backbone import random_backbone

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "position_embedding_size": 18,
    "standardize": False,
}
SHAPE = {"vocab_size": VOCAB_SIZE, "num_relations": 5, "canvas_length": 81}


def small(**changes: object) -> Backbone:
    return random_backbone(**SHAPE, vision={**TOWER, **PictureSudoku.vision, **changes})


@pytest.fixture(scope="module")
def task() -> PictureSudoku:
    return PictureSudoku(puzzles=60)


@pytest.fixture(scope="module")
def problems(task: PictureSudoku) -> list:
    return task.held_out(1, seed=3)


def tokens_of(problem) -> torch.Tensor:
    """The right answer (81)."""
    puzzle = problem.puzzle
    clue = torch.tensor(puzzle.cells) > 0
    return torch.tensor(puzzle.solution) + 2 + 9 * clue


# -- tokens, rules and judge ------------------------------------------------------------------------------------------


def test_an_answer_is_the_reading_and_the_solution(task, problems) -> None:
    for problem in problems:
        answer = tokens_of(problem)
        assert tuple(values_of(answer).tolist()) == problem.puzzle.solution
        assert tuple(reading_of(answer).tolist()) == problem.puzzle.cells
        read, solved = task.decode(problem, answer).split()
        assert read == problem.puzzle.text and "." not in solved
        assert task.constraint([problem]).is_satisfied(answer[None]).item()
        assert task.agrees([problem], answer[None]).item()
    assert {p.tier for p in problems} == {"print", "screen", "handwritten", "newspaper", "photo"}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_rules_bind_symbols_whoever_wrote_them(seed: int) -> None:
    """Whether a symbol was given changes no verdict of the rules; another symbol breaks them."""
    random = np.random.default_rng(seed)
    [problem] = _known()
    rule, answer = PROBLEM_TASK.constraint([problem]), tokens_of(problem)
    given_ = torch.from_numpy(random.random(81) < 0.5)
    other = torch.where(given_, values_of(answer) + FIRST_CLUE - 1, values_of(answer) + 2)
    assert rule.is_satisfied(other[None]).item()
    cell = int(random.integers(81))
    wrong = other.clone()
    wrong[cell] = 3 + (int(values_of(other)[cell]) + int(random.integers(8))) % 9
    assert (values_of(wrong) != values_of(other)).sum() == 1
    assert not rule.is_satisfied(wrong[None]).item()
    assert rule.violations(wrong[None])[0, cell]
    sentence = rule.explain(wrong[None])[0][0]
    assert f"holds {int(values_of(wrong)[cell])} twice" in sentence


PROBLEM_TASK = PictureSudoku(puzzles=60)


def _known() -> list:
    puzzle = PROBLEM_TASK.numbers.held_out(1, seed=1)[0]
    return [pictured(puzzle, "print", np.random.default_rng(0))]


def test_an_answer_to_another_puzzle_is_not_solved(task, problems) -> None:
    """A grid that keeps the rules, but not the clues that were drawn, does not count; the sampler cannot know."""
    one, other = problems[0], problems[1]
    assert task.agrees([one, other], torch.stack([tokens_of(one), tokens_of(one)])).tolist() == [True, False]

    class Knows:
        """A sampler that always answers the first problem."""

        name, uses_symmetry, rule_uses = "knows", False, ()

        def run(self, model, batch, rules, seeds, **options):
            from constrained_dg.sampling import solve as by_search

            found = by_search(rules.repeat(len(batch)) if rules.rows > 1 else rules, batch.answer, batch.pinned)
            return replace(found, tokens=tokens_of(one).repeat(len(batch), 1), status=[Status.SOLVED] * len(batch))

    outcomes = solve(None, task, Knows(), [one, other], batch_size=2, seed=0)
    assert [outcome.solved for outcome in outcomes] == [True, False]
    measured = task.measure(outcomes)
    assert measured["pictures_read"]["value"] == 0.5 and measured["cells_read"]["value"] < 1


def test_pictures_from_elsewhere_have_no_known_answer(task, tmp_path: Path) -> None:
    path = tmp_path / "puzzle.png"
    Image.fromarray(np.full((300, 280, 3), 255, np.uint8)).save(path)
    problem = task.parse(str(path))
    assert problem.puzzle is None and problem.given is None and task.remark(problem) == ""
    assert task.agrees([problem], torch.full((1, 81), 3)).item()
    assert task.encode([problem]).images.pixels.shape == (1, 324, 432)
    with pytest.raises(InputError, match=r"the picture .*none\.png' is not a file"):
        task.parse(str(tmp_path / "none.png"))
    path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="is not a picture"):
        task.parse(str(path))


def test_batches_follow_from_the_seed_and_the_step(task) -> None:
    one, same, other = (task.train_batch(step, 3) for step in (5, 5, 6))
    assert torch.equal(one.images.pixels, same.images.pixels) and torch.equal(one.answer, same.answer)
    assert not torch.equal(one.images.pixels, other.images.pixels)
    assert one.images.pixels.dtype == torch.uint8 and not one.pinned.any()
    assert (one.answer >= FIRST_CLUE).any(1).all() and (one.answer < FIRST_CLUE).any(1).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_an_empty_cell_is_as_likely_as_all_its_symbols_together(seed: int) -> None:
    """By loops over cells and symbols; from log-probabilities and from probabilities alike."""
    generator = torch.Generator().manual_seed(seed)
    logs = (3 * torch.randn(4, VOCAB_SIZE, generator=generator)).log_softmax(-1)
    classes = Readings.of(VOCAB_SIZE, [[3 + value, FIRST_CLUE + value] for value in range(9)])
    best, token = classes.likeliest(logs)
    probabilities, same = classes.likeliest(logs.exp())
    torch.testing.assert_close(probabilities.log(), best)
    assert torch.equal(token, same)
    for cell in range(4):
        filled = [float(logs[cell, 3 + value].exp()) for value in range(9)]
        for value in range(9):
            clue = float(logs[cell, FIRST_CLUE + value].exp())
            empty = sum(filled) * max(filled[value] / sum(filled), np.exp(LEAST)) ** GUESS
            assert best[cell, value].exp().item() == pytest.approx(max(clue, empty), rel=1e-4)
            assert token[cell, value] == (FIRST_CLUE if clue > empty else 3) + value
        assert token[cell, 9] == logs[cell, :3].argmax()


def test_guesses_in_empty_cells_do_not_overrule_clues() -> None:
    """Two symbols change places: the pass reads them rightly where they are clues, and is sure of the wrong ones in
    empty cells. The likeliest reading keeps the clues; by the likeliest token of each cell they would yield."""
    [problem] = _known()
    right = tokens_of(problem)
    swapped = torch.where(values_of(right) == 1, right + 1, torch.where(values_of(right) == 2, right - 1, right))
    moved, clue = swapped != right, right >= FIRST_CLUE
    assert (moved & clue).any() and (moved & ~clue).sum() > (moved & clue).sum()
    chances = torch.full((81, VOCAB_SIZE), 1e-6)
    chances[torch.arange(81), right] = torch.where(moved, torch.where(clue, 0.6, 0.02), 0.97)
    chances[torch.arange(81), swapped] = torch.where(moved, torch.where(clue, 0.39, 0.95), 0.97)
    logs = (chances / chances.sum(-1, keepdim=True)).log()
    rule = PROBLEM_TASK.constraint([problem])

    def likeliest(by_class: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        free = torch.zeros(81, dtype=torch.bool)
        return complete(rule, right, free, log_probs=by_class, tokens=tokens, improve=True).answer

    assert torch.equal(likeliest(*rule.likeliest(logs)), right)
    assert torch.equal(likeliest(*TokenClasses(rule.classes.table, rule.classes.named).likeliest(logs)), swapped)


# -- the tower --------------------------------------------------------------------------------------------------------


def test_pictures_are_read_together_as_each_alone(task, problems) -> None:
    model, batch = small(), task.encode(problems)
    together = batch.images.read(model.vision, 81).soft.features
    for row, pixels in enumerate(batch.images.pixels):
        alone = model.vision(Patches(pixels / 255, 18))
        torch.testing.assert_close(together[81 * row : 81 * (row + 1)], alone)


def test_prefill_reads_pictures_as_it_reads_images(task, problems) -> None:
    """The slow twin: every picture as a soft token for each placeholder, read one by one."""
    model, batch = small(), task.encode(problems[:2])
    soft = SoftTokens(model.vision, [Patches(pixels / 255, 18) for pixels in batch.images.pixels])
    by_hand = Images(torch.arange(162).view(2, 81), soft)
    with torch.no_grad():
        fast = model.prefill(batch.prompt, None, batch.relations, images=batch.images)
        slow = model.prefill(batch.prompt, None, batch.relations, images=by_hand)
        blank = model.prefill(batch.prompt, None, batch.relations)
        logits = [model.denoise(batch.answer, cache, None, batch.relations) for cache in (fast, slow, blank)]
    torch.testing.assert_close(logits[0], logits[1])
    assert (logits[0] - logits[2]).abs().max() > 1e-3


def test_selected_rows_keep_their_pictures(task, problems) -> None:
    batch = task.encode(problems)
    rows = torch.tensor([3, 1])
    assert torch.equal(batch.select(rows).images.pixels, batch.images.pixels[rows])
    assert torch.equal(batch.to("cpu").images.pixels, batch.images.pixels)


def test_both_losses_reach_the_tower(task) -> None:
    """The noisy canvas, which reads the picture in the cache, and the names of what the soft tokens show."""
    batch = task.train_batch(0, 2)
    optimisation = Optimisation(
        steps=1, batch_size=2, learning_rate=1e-3, warmup=0, weight_decay=0.0, clip=1.0, average=0.0
    )
    module = DiffusionModule(small().train(), Objective(), optimisation, seed=0)
    losses = {
        "canvas": lambda: module._canvas_loss(
            batch, None, module.backbone.denoise_loops(batch.answer, module._prefill(batch, None), None, None)
        ),
        "names": lambda: module._encoder_loss(batch, 2, None),
    }
    for what, loss in losses.items():
        module.zero_grad()
        loss().backward()
        for name, parameter in module.backbone.vision.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, (what, name)


def test_rows_of_a_pool_keep_their_pictures(task) -> None:
    objective, generator = Objective(rollouts=True, encoder_weight=0.0), torch.Generator().manual_seed(0)
    old, fresh = task.train_batch(0, 3), task.train_batch(1, 3)
    pool = replace(Pool.of(old, objective, generator), over=torch.tensor([False, True, False]))
    refilled = pool.refilled(fresh, objective, generator).batch
    for row, source in enumerate((old, fresh, old)):
        assert torch.equal(refilled.images.pixels[row], source.images.pixels[row])
        assert torch.equal(refilled.answer[row], source.answer[row])
    again = Pool.from_state_dict(pool.state_dict())
    assert torch.equal(again.batch.images.pixels, old.images.pixels) and again.batch.images.columns == 18


def test_generate_takes_the_pictures_of_a_batch(task, problems) -> None:
    model, batch = small(), task.encode(problems[:2])
    given_ = {"noise": batch.noise, "relations": batch.relations, "sampler": "one_pass", "seeds": 4}
    answer = generate(model, batch.prompt, task.constraint(problems[:2]), images=batch.images, **given_)
    assert answer.tokens.shape == (2, 81)
    run = cli.load_sampler("one_pass").run(model, batch, task.constraint(problems[:2]), 4)
    assert torch.equal(answer.tokens, run.tokens)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_model_without_a_tower_is_refused(task, problems) -> None:
    sampler = cli.load_sampler("one_pass")
    plain = random_backbone(**SHAPE)
    with pytest.raises(InputError, match="without a vision tower; use a model trained with pictures"):
        solve(plain, task, sampler, problems[:1], batch_size=1, seed=0)
    with pytest.raises(InputError, match="the model has no vision tower"):
        plain.prefill(torch.zeros(1, 81, dtype=torch.int64), images=task.encode(problems[:1]).images)


def test_pictures_that_do_not_fit_the_tower_are_refused(task, problems) -> None:
    batch = task.encode(problems[:1])
    for tower, message in (
        ({"patch_size": 6}, r"pictures of shape \(324, 432\); give \(324, 108\)"),
        ({"pooling_kernel_size": 1}, r"pictures of shape \(324, 432\); give \(81, 432\)"),
        ({"position_embedding_size": 17}, "18 columns and 18 rows of patches; give multiples of 2, at most 17"),
    ):
        with pytest.raises(InputError, match=message):
            cli.load_sampler("one_pass").run(small(**tower), batch, None, 0)
    odd = replace(batch, images=Pictures(batch.images.pixels, 12))
    with pytest.raises(InputError, match="pictures of 12 columns and 27 rows"):
        cli.load_sampler("one_pass").run(small(), odd, None, 0)


def test_the_shape_of_a_tower_is_saved_and_checked() -> None:
    config = small().config
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert "vision" not in preset("tiny").to_dict()
    assert sum(p.numel() for p in small().parameters()) == config.num_parameters
    for values, message in (
        ({**TOWER, "depth": 3}, "unknown keys model.vision.depth; known: head_dim"),
        ({**TOWER, "head_dim": 6}, "vision_config.head_dim is 6"),
        ({**TOWER, "hidden_size": 0}, "vision_config.hidden_size is 0"),
        ({**TOWER, "num_key_value_heads": 3}, "2 attention heads cannot share 3"),
        ({**TOWER, "text_size": 7}, "model.vision.text_size is 7; give 32"),
        (7, "model.vision is 7"),
    ):
        with pytest.raises(InputError, match=message):
            preset("tiny", vision=values)


def test_puzzles_that_were_drawn_are_compared_with_training(task, problems) -> None:
    trained = task.numbers.training_puzzles(9)
    again = pictured(Puzzle.of(trained.puzzles[0], "print", trained.solutions[0]), "print", np.random.default_rng(1))
    elsewhere = replace(problems[0], puzzle=None)
    assert task.overlap([problems[0], elsewhere, again]) == [2]
