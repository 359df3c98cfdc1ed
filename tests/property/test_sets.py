"""Set states: each function against a slow twin, and what a sampler of sets keeps in every pass."""

import itertools
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.diffusion.sets import (
    as_distribution,
    doubt,
    draw_canvas,
    eliminated,
    full_sets,
    most_certain,
    pinned_at,
    undecided,
    within_range,
    without_unlikeliest,
)
from constrained_dg.errors import InputError
from constrained_dg.sampling import Diffusion, Guide, Restarts, Sets, Status, named
from constrained_dg.sampling.lessons import Lessons
from constrained_dg.task import Batch, Moves
from tests.fakes import GRIDS, HIGH, LOW, VOCAB, Fake, Oracle, Restless, sudoku_batch
from tests.property.examples import fewer, many

ROWS, CELLS, LOWEST, SIZE = 2, 5, 3, 4


@st.composite
def states(draw):
    """Sets (2, 5, 4) of tokens 3 to 6, perhaps empty; pinned positions hold one of these tokens, or a foreign one."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    pinned = torch.rand(ROWS, CELLS, generator=generator) < 0.3
    canvas = torch.randint(0, 9, (ROWS, CELLS), generator=generator)
    sets = full_sets(canvas, pinned, (LOWEST, LOWEST + SIZE))
    sets &= pinned[..., None] | (torch.rand(sets.shape, generator=generator) < draw(st.sampled_from([0.3, 0.7, 1.0])))
    return canvas, pinned, sets, generator


def living_of(sets: torch.Tensor, row: int, cell: int) -> list[int]:
    return [LOWEST + k for k in range(SIZE) if sets[row, cell, k]]


CELLS_OF = list(itertools.product(range(ROWS), range(CELLS)))


@many
@given(states())
def test_full_sets_hold_every_token_or_the_clue(state):
    canvas, pinned, _, _ = state
    full = full_sets(canvas, pinned, (LOWEST, LOWEST + SIZE))
    for row, cell in CELLS_OF:
        every = range(LOWEST, LOWEST + SIZE)
        clue = [int(canvas[row, cell])] if int(canvas[row, cell]) in every else []
        assert living_of(full, row, cell) == (clue if pinned[row, cell] else list(every))


@many
@given(states(), st.floats(0.01, 0.9))
def test_elimination_is_token_by_token(state, below):
    _, pinned, sets, generator = state
    probabilities = torch.rand(sets.shape, generator=generator)
    after = eliminated(sets, probabilities, pinned, below)
    for row, cell in CELLS_OF:
        kept = [
            t for t in living_of(sets, row, cell) if pinned[row, cell] or probabilities[row, cell, t - LOWEST] >= below
        ]
        assert living_of(after, row, cell) == kept
        assert bool(undecided(after, pinned)[row, cell]) == (len(kept) > 1 and not pinned[row, cell])


@many
@given(states())
def test_the_surest_position_is_undecided_and_none_is_surer(state):
    _, pinned, sets, generator = state
    probabilities = torch.rand(sets.shape, generator=generator)
    at, some = most_certain(sets, probabilities, pinned)
    for row in range(ROWS):
        open_ = [cell for cell in range(CELLS) if not pinned[row, cell] and len(living_of(sets, row, cell)) > 1]
        assert bool(some[row]) == bool(open_)
        if open_:
            surest = [max(float(probabilities[row, c, t - LOWEST]) for t in living_of(sets, row, c)) for c in open_]
            assert int(at[row]) == open_[surest.index(max(surest))]


@many
@given(states())
def test_pins_draws_and_distributions(state):
    canvas, pinned, sets, generator = state
    at = torch.randint(0, CELLS, (ROWS,), generator=generator)
    token = torch.randint(0, SIZE, (ROWS,), generator=generator)
    which = torch.rand(ROWS, generator=generator) < 0.5
    after = pinned_at(sets, at, token, which)
    uniform = torch.rand(ROWS, CELLS, generator=generator)
    drawn = draw_canvas(sets, canvas, pinned, LOWEST, uniform)
    distribution, conditioned = as_distribution(sets, canvas, pinned, LOWEST, 9)
    for row, cell in CELLS_OF:
        tokens, here = living_of(sets, row, cell), bool(which[row]) and int(at[row]) == cell
        assert living_of(after, row, cell) == ([LOWEST + int(token[row])] if here else tokens)
        if pinned[row, cell]:
            tokens = [int(canvas[row, cell])]
        rank = int(uniform[row, cell] * len(tokens))
        assert int(drawn[row, cell]) == (tokens[rank] if tokens else LOWEST)
        wanted = torch.tensor([(t in tokens) / max(1, len(tokens)) for t in range(9)])
        assert torch.allclose(distribution[row, cell], wanted)
    for row in range(ROWS):
        noise = all(pinned[row, cell] or len(living_of(sets, row, cell)) == SIZE for cell in range(CELLS))
        assert bool(conditioned[row]) == (not noise)


def test_a_draw_is_uniform_over_the_living_tokens():
    sets = torch.tensor([True, False, True, True]).expand(1, 6000, 4)
    drawn = draw_canvas(sets, torch.zeros(1, 6000).long(), torch.zeros(1, 6000).bool(), 3, torch.rand(1, 6000))
    share = torch.bincount(drawn[0] - 3, minlength=4) / 6000
    assert torch.allclose(share, torch.tensor([1 / 3, 0, 1 / 3, 1 / 3]), atol=0.04)


@fewer
@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 3))
def test_sets_only_get_smaller_and_the_canvas_is_drawn_from_them(seed, masks, pins):
    clues = torch.rand(3, 16, generator=torch.Generator().manual_seed(seed)) < 0.2
    batch, rules = sudoku_batch([0, 1, 2], clues)
    sampler = Diffusion("any", Guide(masks), sets=Sets(0.02, pins), judge_stop=True, max_passes=20)
    records = []
    made = sampler.run(Restless(3), batch, rules, seeds=seed, on_step=records.append)
    assert records and records[0].sets is not None
    before = {row: full_sets(batch.answer, clues, batch.noise)[row] for row in range(3)}
    for record in records:
        sizes = record.sets.sum(-1)
        free = ~clues[record.rows]
        assert torch.equal(record.accepted, free & (sizes == 1)) and torch.equal(record.conflict, free & (sizes == 0))
        assert (record.canvas == batch.answer[record.rows])[~free].all()
        for at, row in enumerate(record.rows.tolist()):
            assert not (record.sets[at] & ~before[row]).any()
            inside = before[row].gather(1, record.canvas[at, :, None] - LOW)[:, 0]
            assert inside.all()
            # The answer so far is alive too. A pass on pure noise eliminates one token, another one decides at least
            # `pins` positions.
            assert before[row].gather(1, record.best[at, :, None] - LOW).all()
            decided, was = (s.sum(-1) <= 1 for s in (record.sets[at], before[row]))
            if bool((before[row].all(-1) | clues[row]).all()) and free[at].any():
                assert masks or int((before[row] & ~record.sets[at]).sum()) == 1
            else:
                assert int(decided.sum()) >= min(16, int(was.sum()) + pins)
            before[row] = record.sets[at]
        over = record.conflict.any(-1) | (record.accepted | ~free).all(-1)
        assert (record.stopped | ~over).all()
    assert (made.passes <= 17).all()


def test_a_model_that_knows_solves_in_one_pass_and_one_that_errs_conflicts():
    batch, rules = sudoku_batch([0, 1, 2], torch.rand(3, 16, generator=torch.Generator().manual_seed(1)) < 0.3)
    made = named("elimination").run(Oracle(), batch, rules)
    assert made.status == [Status.SOLVED] * 3 and made.passes.tolist() == [1] * 3
    # Sure of a wrong token: everything is decided, and the judge says no.
    lying = next(at for at in range(16) if not batch.pinned[:, at].any())
    made = named("elimination").run(Oracle(lies=(lying,)), batch, rules)
    assert made.status == [Status.UNSOLVED] * 3 and made.passes.tolist() == [2] * 3
    # Sure that no token of the range can stand anywhere: a conflict by the model's own word, but not on pure noise.
    records, foreign = [], Oracle()
    foreign.predicted[:] = HIGH
    named("elimination").run(foreign, batch, rules, on_step=records.append)
    first, record = records
    assert not first.conflict.any() and not first.stopped.any()
    assert torch.equal(record.conflict, ~batch.pinned) and record.stopped.all()


def test_where_the_rules_decide_the_rest_what_is_left_is_the_answer():
    """A grid but for four cells where two tokens can change places: one pin decides all. The arg-max of a model that
    knows nothing, the same token four times, is no answer."""
    grid = GRIDS[0].view(4, 4)
    corners = next(
        (r * 4 + c, r * 4 + d, s * 4 + c, s * 4 + d)
        for r, s in itertools.combinations(range(4), 2)
        for c, d in itertools.combinations(range(4), 2)
        if grid[r, c] == grid[s, d] and grid[r, d] == grid[s, c] and (r // 2 == s // 2) != (c // 2 == d // 2)
    )
    clues = torch.ones(1, 16, dtype=torch.bool)
    clues[0, list(corners)] = False
    batch, rules = sudoku_batch([0], clues)
    records = []
    sampler = Diffusion("any", Guide(masks=True), sets=Sets(0.02, 1), judge_stop=True, max_passes=5)
    made = sampler.run(Fake(), batch, rules, on_step=records.append)
    assert made.status == [Status.SOLVED] and made.passes.tolist() == [1]
    assert torch.equal(records[0].best, made.tokens) and records[0].stopped.all()


@many
@given(states())
def test_probabilities_of_the_range_and_doubt_are_sums(state):
    _, pinned, _, generator = state
    probabilities = torch.rand(ROWS, CELLS, 9, generator=generator).softmax(-1)
    inside, outside = within_range(probabilities, (LOWEST, LOWEST + SIZE))
    for row, cell in CELLS_OF:
        values = probabilities[row, cell].tolist()
        total = sum(values[LOWEST : LOWEST + SIZE])
        wanted = torch.tensor([value / total for value in values[LOWEST : LOWEST + SIZE]])
        assert torch.allclose(inside[row, cell], wanted)
        assert float(outside[row, cell]) == pytest.approx(1 - total, abs=1e-5)
    for row in range(ROWS):
        free = [float(outside[row, cell]) for cell in range(CELLS) if not pinned[row, cell]]
        assert float(doubt(outside, pinned)[row]) == pytest.approx(sum(free) / max(1, len(free)), abs=1e-5)


@many
@given(states())
def test_the_unlikeliest_token_of_each_row_goes(state):
    _, pinned, sets, generator = state
    probabilities = torch.rand(sets.shape, generator=generator)
    gone = sets & ~without_unlikeliest(sets, probabilities, pinned)
    for row in range(ROWS):
        living = [
            (float(probabilities[row, cell, t - LOWEST]), cell, t - LOWEST)
            for cell in range(CELLS)
            if not pinned[row, cell]
            for t in living_of(sets, row, cell)
        ]
        assert gone[row].nonzero().tolist() == ([list(min(living)[1:])] if living else [])


def test_attempts_share_the_passes_of_a_row():
    """Attempts of sets end early, so rows make as many as their passes allow, and none makes more passes."""
    clues = torch.zeros(4, 16, dtype=torch.bool)
    clues[:, 0] = True
    batch, rules = sudoku_batch([0, 1, 2, 0], clues)
    inner = Diffusion("any", sets=Sets(pins=3), max_passes=9)
    attempts = []
    sampler = Restarts("again", inner, attempts=1000, max_passes=40)
    made = sampler.run(Restless(), batch, rules, on_step=lambda r: attempts.append((r.pass_index, r.rows.tolist())))
    unsolved = [row for row, status in enumerate(made.status) if status is Status.UNSOLVED]
    assert unsolved and (made.passes <= 40).all() and all(made.passes[row] == 40 for row in unsolved)
    for row in unsolved:
        assert sum(index == 0 and row in rows for index, rows in attempts) > 40 // 9
    # Each row alone does the same.
    for row in range(4):
        at = torch.tensor([row])
        alone = sampler.run(Restless(), batch.select(at), rules.select(at), made_seeds(4)[at])
        assert torch.equal(alone.tokens[0], made.tokens[row]) and alone.passes[0] == made.passes[row]


@st.composite
def moves(draw):
    """Moves of 2 problems with 5 positions, which rename tokens 3 to 6 among themselves."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    order = torch.stack([torch.randperm(CELLS, generator=generator) for _ in range(ROWS)])
    rename = torch.arange(9).repeat(ROWS, 1)
    for row in rename:
        row[LOWEST : LOWEST + SIZE] = LOWEST + torch.randperm(SIZE, generator=generator)
    return Moves(order, rename)


@many
@given(states(), moves())
def test_sets_move_as_their_tokens_do_and_back(state, moved):
    _, _, sets, generator = state
    there = moved.sets(sets, LOWEST)
    for row, cell in CELLS_OF:
        old = living_of(sets, row, int(moved.order[row, cell]))
        assert living_of(there, row, cell) == sorted(int(moved.rename[row, token]) for token in old)
    counts = torch.randint(0, 5, sets.shape, generator=generator)
    assert torch.equal(moved.undo_sets(moved.sets(counts, LOWEST), LOWEST), counts)


@many
@given(st.integers(0, 2**32), st.lists(st.tuples(moves(), st.booleans()), min_size=1, max_size=4), st.integers(1, 2))
def test_lessons_are_the_first_pins_of_failed_attempts_and_the_sets_before_them(seed, attempts, copies):
    generator = torch.Generator().manual_seed(seed)
    canvas = torch.full((3, CELLS), LOWEST)
    kept = Lessons.none(Batch(canvas, canvas, canvas < 0, None, (LOWEST, LOWEST + SIZE)))
    every = [(row, cell, k) for row in range(3) for cell in range(CELLS) for k in range(SIZE)]
    counts, start, failures = dict.fromkeys(every, 0), dict.fromkeys(every, True), [0, 0, 0]
    for moved, fails in attempts:
        rows, fresh = torch.randperm(3, generator=generator)[:ROWS], torch.rand(ROWS, generator=generator) < 0.3
        attempt = kept.of_attempt(rows, fresh, moved, LOWEST, copies)
        assert torch.equal(attempt.counts, moved.sets(kept.counts[rows], LOWEST).repeat_interleave(copies, 0))
        first, before = set(), {}
        for at in torch.randperm(ROWS * copies, generator=generator).tolist():
            row = at // copies

            def origin(cell: int, k: int, row: int = row, rows: torch.Tensor = rows, moved: Moves = moved):
                """Where a token of the moved problem stands in the original one."""
                old = LOWEST + int((moved.rename[row, LOWEST : LOWEST + SIZE] == LOWEST + k).nonzero())
                return int(rows[row]), int(moved.order[row, cell]), old - LOWEST

            began = attempt.start[at].clone()
            for cell, k in itertools.product(range(CELLS), range(SIZE)):
                assert began[cell, k] == (start[origin(cell, k)] or bool(fresh[row]))
            passes = [(torch.rand(2, 3, SIZE, generator=generator) < 0.5) for _ in range(3)]
            passes[0][0] &= torch.rand(1, generator=generator) < 0.5
            for pins, sets in passes:  # over the positions 0 to 2
                attempt.note(torch.tensor([at]), slice(0, 3), pins[None], sets[None])
            pins, sets = next((each for each in passes if each[0].any()), (passes[0][0], began[:3]))
            first |= {origin(cell, k) for cell, k in pins.nonzero().tolist()}
            if at % copies == 0:  # the start is that of the first copy
                held = torch.cat([sets, began[3:]])
                before |= {origin(cell, k): bool(held[cell, k]) for cell in range(CELLS) for k in range(SIZE)}
        kept.learn(attempt, rows, moved, LOWEST, torch.tensor([fails, False]))
        for at in every:
            if fails and at[0] == int(rows[0]):
                counts[at] += at in first
                start[at] = before[at]
        failures[int(rows[0])] += fails
    assert {at: int(kept.counts[at]) for at in every} == counts and kept.failures.tolist() == failures
    assert {at: bool(kept.start[at]) for at in every} == start
    trust = kept.trust(torch.tensor([2, 0]), slice(1, 3), 0.5)
    assert all(trust[0, cell, k] == 0.5 ** counts[2, cell + 1, k] for cell in range(2) for k in range(SIZE))


class Stubborn(Oracle):
    """Knows everything, but is sure of a wrong token at position 5 until other free positions are decided."""

    signals: ClassVar[list] = []

    def logits(self, canvas, cache, signal):
        self.signals.append(signal)
        known = super().logits(canvas, cache, signal)
        wrong = LOW + (self.predicted[cache.row, 5] - LOW + 1) % (HIGH - LOW)
        decided = torch.zeros(len(canvas)) if signal is None else (signal.amax(-1) == 1).sum(-1) - 1  # but for the clue
        known[:, 5] += (decided <= 0)[:, None] * 2 * self.certainty * torch.nn.functional.one_hot(wrong, VOCAB)
        return known


def test_a_wrong_token_that_the_model_is_sure_of_is_not_pinned_first_for_ever():
    clues = torch.zeros(3, 16, dtype=torch.bool)
    clues[:, 0] = True
    batch, rules = sudoku_batch([0, 1, 2], clues)
    model = Stubborn(certainty=2.0)
    solved = {}
    for fade in (0.5, 1.0):
        model.signals.clear()
        attempt = Diffusion("any", sets=Sets(0.001, pins=1, fade=fade), judge_stop=True, max_passes=20)
        records = []
        made = Restarts("again", attempt, attempts=5).run(model, batch, rules, on_step=records.append)
        solved[fade] = [status is Status.SOLVED for status in made.status]
        # Only the first attempt has a pass on pure noise, unless nothing is remembered.
        dead = [int((~record.sets).sum()) for record in records if record.pass_index == 0]
        seen = [model.signals[at] for at, record in enumerate(records) if record.pass_index == 0][1:]
        assert all(
            (signal is None) == (fade == 1) and (fade == 1 or signal[:, 1:, LOW:HIGH].min() == 0) for signal in seen
        )
        assert len(dead) == (2 if fade < 1 else 5) and all((n == dead[0]) == (fade == 1) for n in dead[1:])
    assert solved == {0.5: [True] * 3, 1.0: [False] * 3}


def test_each_failure_makes_elimination_more_careful():
    clues = torch.zeros(3, 16, dtype=torch.bool)
    clues[:, 0] = True
    batch, rules = sudoku_batch([0, 1, 2], clues)

    class Doubtful(Oracle):
        def logits(self, canvas, cache, signal):
            known = super().logits(canvas, cache, signal)
            known[:, 5, LOW:HIGH] = torch.tensor([0.5, 0.496, 0.003, 0.001]).log()
            return known

    alive = []

    def look(record):
        if record.pass_index == (len(alive) == 0):  # the first pass with pins: the second of the first attempt
            alive.append(record.sets[:, 5].tolist())

    attempt = Diffusion("any", sets=Sets(0.01, pins=1), judge_stop=True, max_passes=20)
    made = Restarts("again", attempt, attempts=7).run(Doubtful(lies=(9,), certainty=3.0), batch, rules, on_step=look)
    assert made.status == [Status.UNSOLVED] * 3
    # 0.01 / (1 + f / 2) is 0.0033 after four failures and 0.0029 after five.
    assert alive == [[[True, True, f >= 5, False]] * 3 for f in range(7)]


def made_seeds(rows: int) -> torch.Tensor:
    from constrained_dg import rng

    return rng.row_seeds(0, rows)


def test_what_does_not_fit_is_refused():
    batch, rules = sudoku_batch([0], torch.zeros(1, 16, dtype=torch.bool))
    for bad in (
        {"below": 0},
        {"below": 1},
        {"below": "x"},
        {"pins": 0},
        {"pins": 1.5},
        {"conflict": 0},
        {"fade": 0},
        {"fade": 2},
    ):
        with pytest.raises(InputError, match=next(iter(bad))):
            Sets(**bad)
    with pytest.raises(InputError, match="rng"):
        named("elimination").run(Oracle(), batch, rules, rng="transformers")
    wide = Oracle()
    wide.vocab_size = 5000
    text = Batch(batch.prompt, batch.answer, batch.pinned, None, (0, 5000))
    with pytest.raises(InputError, match="5000 tokens"):
        named("elimination").run(wide, text)
