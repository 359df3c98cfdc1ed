"""The sampler that looks at each picture several times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constrained_dg.errors import InputError
from constrained_dg.model.images import Pictures
from constrained_dg.sampling import Candidates, Diffusion, Views, named
from constrained_dg.sampling.views import MOST, SeveralViews, views
from constrained_dg.vision.processor import cut_patches
from tasks.sudoku.picture_task import PATCH, SIDE, PictureSudoku
from tests.fakes import Oracle, sudoku_batch
from tests.unit.test_picture_task import small

ONE_PASS, SEVERAL = named("one_pass"), Views("views", named("one_pass"), 3)


@pytest.fixture(scope="module")
def task() -> PictureSudoku:
    return PictureSudoku(puzzles=8)


@pytest.fixture(scope="module")
def problems(task) -> list:
    return task.held_out(1, 5)


def drawn(image: np.ndarray) -> Pictures:
    """An (H, W, 3) picture in patches."""
    return Pictures(cut_patches(torch.tensor(image).permute(2, 0, 1), PATCH)[None], image.shape[1] // PATCH)


@settings(max_examples=10)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 100))
def test_the_first_view_is_the_picture_and_the_others_are_near_it(rows: int, columns: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows * PATCH, columns * PATCH, 3), dtype=np.uint8)
    pictures = drawn(pixels)
    seen = views(pictures, 3)
    assert seen.columns == columns and seen.pixels.shape == (3, rows * columns, 3 * PATCH**2)
    assert seen.pixels.dtype == torch.uint8 and torch.equal(seen.pixels[0], pictures.pixels[0])
    assert not torch.equal(seen.pixels[1], seen.pixels[0]) and not torch.equal(seen.pixels[1], seen.pixels[2])
    plain = views(drawn(np.full_like(pixels, 77)), 3)
    assert (plain.pixels == 77).all()


def test_a_view_moves_what_is_drawn_by_a_few_pixels() -> None:
    """A dot in the middle of the picture: in each view there is one dot, of the same weight, at most 3 % away."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[100:104, 120:124] = 200
    seen = views(drawn(image), MOST).pixels.view(MOST, 18, 18, PATCH, PATCH, 3)
    ink = seen.permute(0, 1, 3, 2, 4, 5).reshape(MOST, SIDE, SIDE, 3)[..., 0].double()
    weight = ink.sum((1, 2))
    assert ((weight / weight[0] - 1).abs() < 0.2).all()
    where = torch.arange(SIDE) + 0.5
    middle = torch.stack([(ink.sum(2) @ where.double()) / weight, (ink.sum(1) @ where.double()) / weight], 1)
    away = (middle - torch.tensor([102.0, 122.0])).norm(dim=1)
    assert away[0] < 1e-6 and away[1:].min() > 0 and away.max() < 0.03 * SIDE


def test_logits_are_the_mean_of_the_log_probabilities_of_each_view(task, problems) -> None:
    """Against a slow twin: one view after the other; for all parts of a denoiser, and after rows are chosen."""
    model, batch, count = small(), task.encode(problems[:3]), 3
    several = SeveralViews(model, count)
    canvas = torch.randint(3, 21, (3, 81), generator=torch.Generator().manual_seed(0))
    signal = model.self_condition(torch.rand(3, 81, model.vocab_size))
    cache = several.prefill(batch.prompt, None, batch.relations, images=batch.images)
    seen = views(batch.images, count)
    alone = []
    for view in range(count):
        pictures = seen.select(torch.arange(3) * count + view)
        alone.append(model.prefill(batch.prompt, None, batch.relations, images=pictures))

    def mean(each) -> torch.Tensor:
        return torch.stack([each(cache).log_softmax(-1) for cache in alone]).mean(0)

    logits = several.denoise(canvas, cache, signal, batch.relations)
    torch.testing.assert_close(logits, mean(lambda c: model.denoise(canvas, c, signal, batch.relations)))
    rows = torch.tensor([2, 0])
    chosen = several.denoise(canvas[rows], cache.select(rows), signal[rows], batch.relations)
    torch.testing.assert_close(chosen, logits[rows])
    twice = several.denoise(canvas.repeat_interleave(2, 0), cache.fork(2), None, batch.relations)
    torch.testing.assert_close(twice[::2], several.denoise(canvas, cache, None, batch.relations))
    torch.testing.assert_close(twice[::2], twice[1::2])
    assert cache.length == alone[0].length
    cache.reserve(82)
    cache = several.commit(canvas, cache)
    alone = [model.commit(canvas, each) for each in alone]
    assert cache.length == alone[0].length
    last = several.next_token(canvas[:, :1], cache)
    torch.testing.assert_close(last, mean(lambda c: model.next_token(canvas[:, :1], c)))


@pytest.mark.parametrize("inner", ["one_pass", "sets_restarts"])
def test_one_view_is_the_sampler_itself(task, problems, inner: str) -> None:
    model, batch, rules = small(), task.encode(problems[:2]), task.constraint(problems[:2])
    ours = Views("views", named(inner), 1).run(model, batch, rules, 3, max_passes=4)
    theirs = named(inner).run(model, batch, rules, 3, max_passes=4)
    assert torch.equal(ours.tokens, theirs.tokens) and torch.equal(ours.passes, theirs.passes)
    assert ours.status == theirs.status


def test_a_row_depends_on_its_picture_and_seed_alone(task, problems) -> None:
    model, batch = small(), task.encode(problems[:3])
    together = SEVERAL.run(model, batch, task.constraint(problems[:3]), torch.tensor([5, 6, 7]))
    for row in range(3):
        only = torch.tensor([row])
        alone = SEVERAL.run(model, batch.select(only), task.constraint(problems[:1]), torch.tensor([5 + row]))
        assert torch.equal(alone.tokens[0], together.tokens[row])


def test_passes_of_all_views_count(task, problems) -> None:
    model, batch, rules = small(), task.encode(problems[:2]), task.constraint(problems[:2])
    assert SEVERAL.run(model, batch, rules, 0).passes.tolist() == [3, 3]
    sampler = Views("views", named("sets_restarts"), 3)
    result = sampler.run(model, batch, rules, 0, max_passes=14, trace=True)
    assert int(result.passes.max()) <= 12 and (result.passes % 3 == 0).all() and (result.passes > 0).all()
    assert int(result.passes.sum()) == 3 * sum(len(record.rows) for record in result.trace)
    many = Views("views", Candidates("candidates", Diffusion(max_passes=2)), 2).run(model, batch, rules, 0)
    assert many.passes.tolist() == [2 * 2 * 16, 2 * 2 * 16]


def test_it_searches_where_its_sampler_does() -> None:
    assert named("views").rule_uses == ("complete",) and named("views").inner == named("one_pass_completed")
    assert Views("views", ONE_PASS).with_search().sampler == ONE_PASS.with_search()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Views("v", ONE_PASS, 0), "count is 0; give a number of views from 1 to 64"),
        (lambda: Views("v", ONE_PASS, 65), "count is 65"),
        (lambda: Views("v", named("search")), "give a sampler with a model"),
        (lambda: Views("v", SEVERAL), "no views of its own"),
    ],
)
def test_bad_settings_are_refused(build, words) -> None:
    with pytest.raises(InputError, match=words):
        build()


def test_bad_calls_are_refused_before_any_pass(task, problems) -> None:
    batch, rules = sudoku_batch([0], torch.zeros(1, 16, dtype=torch.bool))
    oracle = Oracle()
    with pytest.raises(InputError, match="'views' without pictures; use it on a task with pictures"):
        SEVERAL.run(oracle, batch, rules)
    assert oracle.calls == 0
    pictured = task.encode(problems[:1])
    with pytest.raises(InputError, match="max_passes=2 for 3 views; give 3 or more"):
        SEVERAL.run(small(), pictured, None, max_passes=2)
    with pytest.raises(InputError, match="pictures of 12 columns and 27 rows"):
        SEVERAL.run(small(), replace(pictured, images=Pictures(pictured.images.pixels, 12)), None)


def test_the_memory_of_all_views_is_counted() -> None:
    model = small()
    several = SeveralViews(model, 4)
    assert several.memory_needed(2, 81, 81, (100, 10)) == model.memory_needed(8, 81, 81, (400, 40))
