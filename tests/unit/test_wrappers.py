"""Several tries at one problem."""

from dataclasses import replace

import pytest
import torch

import constrained_dg
from constrained_dg.cli import ROOT, load_sampler
from constrained_dg.errors import InputError
from constrained_dg.evaluation import solve
from constrained_dg.sampling import (
    Candidates,
    Completer,
    Diffusion,
    EntropyBound,
    Guide,
    Restarts,
    Status,
    Symmetry,
    Violations,
)
from tasks.sudoku import Sudoku
from tests.fakes import VOCAB, Anything, Fake, Restless, sudoku_batch

EAGER = Diffusion("eager", Guide(True), renoise=Violations(), judge_stop=True, max_passes=2)
CLUES = torch.rand(6, 16, generator=torch.Generator().manual_seed(4)) < 0.45


def test_attempts_stop_at_the_first_that_is_accepted_and_passes_add_up():
    batch, rules = sudoku_batch(list(range(6)), CLUES)
    seeds = torch.arange(6)
    once = EAGER.run(Restless(4), batch, rules, seeds)
    more = Restarts("restarts", EAGER, attempts=9).run(Restless(4), batch, rules, seeds, trace=True)
    solved = [status is Status.SOLVED for status in once.status]
    assert 0 < sum(solved) < 6 and sum(s is Status.SOLVED for s in more.status) > sum(solved)
    for row in range(6):
        own = [record for record in more.trace if row in record.rows.tolist()]
        assert more.passes[row] == len(own)
        if solved[row]:
            assert more.passes[row] == once.passes[row] and torch.equal(more.tokens[row], once.tokens[row])
        if more.status[row] is Status.UNSOLVED:
            assert more.passes[row] == 18


@pytest.mark.parametrize("most, passes", [(1, 1), (2, 2), (5, 5), (100, 18)])
def test_the_passes_of_all_attempts_are_bounded_together(most, passes):
    batch, rules = sudoku_batch([0], torch.zeros(1, 16, dtype=torch.bool))
    answer = Restarts("restarts", EAGER, attempts=9).run(Fake(), batch, rules, 1, max_passes=most)
    assert answer.status == [Status.UNSOLVED] and answer.passes.tolist() == [passes]


def test_of_attempts_that_all_fail_the_likeliest_is_kept():
    batch, rules = sudoku_batch([0, 1], torch.zeros(2, 16, dtype=torch.bool))
    several = [
        Restarts("restarts", EAGER, attempts=n).run(Restless(1), batch, rules, 3).log_probability for n in (1, 2, 5)
    ]
    assert (several[0] <= several[1]).all() and (several[1] <= several[2]).all() and several[0].sum() < several[2].sum()


class Changing(Fake):
    """Says what it is given for each pass: (token, certainty)."""

    def __init__(self, *passes):
        super().__init__()
        self.passes = passes

    def logits(self, canvas, cache, signal):
        token, certainty = self.passes[self.calls - 1]
        return certainty * (torch.arange(VOCAB) == token).float().expand(*canvas.shape, VOCAB)


class Fours(Anything):
    """Accepts an answer of fours alone."""

    def is_satisfied(self, answer):
        return (answer == 4).all(-1)

    def violations(self, answer):
        return answer != 4


@pytest.mark.parametrize("passes", [((3, 30.0), (4, 2.0)), ((3, 2.0), (4, 30.0))])
def test_an_accepted_answer_beats_a_likelier_one_that_was_rejected(passes):
    """The first attempt writes threes, which are rejected; the second fours, which are accepted, and less likely."""
    batch = sudoku_batch([0], torch.zeros(1, 16, dtype=torch.bool))[0]
    sampler = Restarts("restarts", Diffusion(max_passes=1), attempts=5)
    made = sampler.run(Changing(*passes), batch, Fours(), 0)
    assert made.status == [Status.SOLVED] and (made.tokens == 4).all() and made.passes.tolist() == [2]
    alone = Diffusion(max_passes=1).run(Changing(passes[1]), batch, Fours(), made.seeds)
    assert torch.equal(alone.log_probability, made.log_probability)


def test_a_listener_hears_of_the_callers_rows():
    batch, rules = sudoku_batch(list(range(6)), CLUES)
    heard = []
    made = Restarts("restarts", EAGER, attempts=4).run(Restless(4), batch, rules, 2, on_step=heard.append)
    counts = torch.bincount(torch.cat([record.rows for record in heard]), minlength=6)
    assert torch.equal(counts, made.passes)


def test_the_search_comes_after_all_attempts_and_proves_what_it_must():
    clues = torch.zeros(2, 16, dtype=torch.bool)
    batch, rules = sudoku_batch([0, 1], clues)
    sampler = Restarts("guaranteed", EAGER, attempts=2, complete=Completer())
    answer = sampler.run(Fake(), batch, rules, 1)
    assert answer.status == [Status.SOLVED] * 2 and answer.passes.tolist() == [4, 4]
    assert answer.class_log_probs is None
    bounded = replace(sampler, complete=Completer(budget=0)).run(Fake(), batch, rules, 1)
    assert bounded.status == [Status.UNSOLVED] * 2


def test_candidates_come_from_one_prefill():
    class Counting(Restless):
        prefills = 0

        def prefill(self, prompt, mask=None, relations=None):
            Counting.prefills += len(prompt)
            return super().prefill(prompt, mask, relations)

    batch, rules = sudoku_batch(list(range(6)), CLUES)
    answer = Candidates("candidates", EAGER, 8).run(Counting(4), batch, rules, 1)
    assert Counting.prefills == 6
    assert sum(s is Status.SOLVED for s in answer.status) > sum(
        s is Status.SOLVED for s in EAGER.run(Restless(4), batch, rules, 1).status
    )


def test_moved_puzzles_are_the_same_puzzles():
    task = Sudoku(sizes={4: 1, 9: 1, 16: 1})
    for problems in ([p for p in task.held_out(2, 0) if p.size == size] for size in (4, 9, 16)):
        batch = task.encode(problems)
        seeds = torch.arange(len(problems))
        moved = task.symmetric(batch, seeds)
        assert moved.constraint.is_satisfied(moved.batch.answer).all()  # the solutions are known
        assert torch.equal(moved.moves.undo(moved.batch.answer), batch.answer)
        assert not torch.equal(moved.batch.answer, batch.answer)
        assert torch.equal(moved.batch.pinned.sum(1), batch.pinned.sum(1))
        alone = task.symmetric(task.encode(problems[1:2]), seeds[1:2])
        assert torch.equal(alone.batch.answer[0], moved.batch.answer[1])


def test_symmetry_solves_puzzles_as_they_were_given():
    run = constrained_dg.load(ROOT / "experiments" / "sudoku" / "small")
    problems = [p for p in run.task.held_out(2, 5) if p.size == 9]
    sampler = replace(load_sampler("symmetry"), attempts=3)
    for outcome in solve(run.model, run.task, sampler, problems, batch_size=8, seed=1):
        rules = run.task.constraint([outcome.problem])
        assert outcome.solved == bool(rules.is_satisfied(outcome.tokens[None]))
        assert all(c in (".", a) for c, a in zip(outcome.problem.text, outcome.answer, strict=True))


def test_seeds_of_ones_own():
    run = constrained_dg.load(ROOT / "experiments" / "sudoku" / "small")
    [problem] = [p for p in run.task.held_out(1, 3) if p.tier == "minimal"]
    outcomes = solve(run.model, run.task, EAGER, [problem] * 2, batch_size=2, seed=0, seeds=[7, 9])
    assert [o.seed for o in outcomes] == [7, 9]
    with pytest.raises(InputError, match="differ in number"):
        solve(run.model, run.task, EAGER, [problem] * 2, batch_size=2, seed=0, seeds=[7])


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: Restarts("r", EAGER, attempts=0), "attempts is 0"),
        (lambda: Restarts("r", replace(EAGER, complete=Completer())), "each attempt of 'r' would search"),
        (lambda: Restarts("r", Candidates("c", EAGER)), "give a diffusion sampler"),
        (lambda: Candidates("c", EAGER, 0), "candidates is 0"),
        (lambda: Symmetry("s", EAGER).run(Fake(), *sudoku_batch([0], CLUES[:1])), "was given no symmetries"),
        (lambda: Diffusion().run(Fake(), sudoku_batch([0], CLUES[:1])[0], attempts=2), "unknown"),
        (lambda: Diffusion(accept=lambda *_: None), "accept is <function"),
        (lambda: Diffusion(complete=7), "complete is 7"),
        (lambda: EntropyBound("x"), "entropy bound is 'x'"),
    ],
)
def test_bad_input_is_named(build, words):
    with pytest.raises(InputError, match=words):
        build()


@pytest.mark.parametrize("name, passes", [("symmetry", 1), ("sets", 2)])
def test_drafts_of_moved_attempts_are_those_of_the_problem(name, passes):
    """A listener sees the given cells where they are given, and at last the answer."""
    run = constrained_dg.load("sudoku")
    puzzles = [run.task.parse(text) for text in ("1...............", "..3.........4...", "12..3...........")]
    batch, rules = run.task.encode(puzzles), run.task.constraint(puzzles)
    sampler = load_sampler(name)
    sampler = replace(sampler, sampler=replace(sampler.sampler, max_passes=passes), max_passes=40)
    records = []
    answer = sampler.run(run.model, batch, rules, 3, symmetric=run.task.symmetric, on_step=records.append)
    assert (answer.passes > passes).any()
    for record in records:
        given, pinned = batch.answer[record.rows], batch.pinned[record.rows]
        for tokens in (record.best, record.canvas):
            assert torch.equal(tokens[pinned], given[pinned])
        assert not (record.accepted & pinned).any() and not (record.renoised & pinned).any()
        if record.sets is not None:
            held = record.sets.gather(-1, (record.best - batch.noise[0])[..., None])[..., 0]
            assert (record.sets.sum(-1)[record.accepted] == 1).all()
            assert held[record.stopped[:, None] & record.accepted].all()
    for row in range(3):
        last = [record for record in records if row in record.rows.tolist()][-1]
        if answer.status[row] is Status.SOLVED:
            assert torch.equal(last.best[last.rows.tolist().index(row)], answer.tokens[row])
