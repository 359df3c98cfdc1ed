import json
from dataclasses import replace

import pytest
import torch

from constrained_dg.constraints import Pinned
from constrained_dg.errors import InputError
from constrained_dg.evaluation import COMMON_METRICS, solve, summarise, tiers_of
from constrained_dg.intervals import mean_interval, wilson
from constrained_dg.sampling import Diffusion, Search, Status
from constrained_dg.task import Batch, Problem, Task
from tests.fakes import VOCAB, Oracle, Restless, sudoku4

GRID = (1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1)


class TinyTask:
    """4x4 puzzles on the tokens of the fakes; the first prompt token names the grid the fakes know. Two shapes."""

    name, blank_id, ends, compares, vision, max_prompt, symmetric = "tiny", 0, (), False, None, 3, Task.symmetric

    def shape_of(self, problem):
        return (3 if problem.tier == "long" else 2), 16

    def encode(self, problems):
        cells = torch.tensor([[int(c) for c in p.text] for p in problems])
        length = self.shape_of(problems[0])[0]
        prompt = torch.tensor([[0] + [6] * (length - 1)] * len(problems))
        return Batch(prompt, cells.clamp(min=1), cells > 0, None, (1, 5))

    def constraint(self, problems):
        cells = torch.tensor([[int(c) for c in p.text] for p in problems])
        return sudoku4() & Pinned(cells, cells > 0, VOCAB)

    def agrees(self, problems, answers):
        return torch.ones(len(answers), dtype=torch.bool)

    def decode(self, problem, answer):
        return "".join(map(str, answer.tolist()))


def problem(blanks, tier="9"):
    return Problem(tier, "".join("0" if at in blanks else str(value) for at, value in enumerate(GRID)))


PROBLEMS = [problem(range(k, k + 4 + k), ("9", "long", "17")[k % 3]) for k in range(6)]


def test_solve_keeps_the_order_and_groups_shapes():
    shown = []
    made = solve(Oracle(), TinyTask(), Diffusion(), PROBLEMS, batch_size=2, seed=3, progress=shown.append)
    assert [o.problem for o in made] == PROBLEMS
    assert all(o.solved and o.answer == "".join(map(str, GRID)) and o.violations == 0 for o in made)
    assert sorted(len(part) for part in shown) == [2, 2, 2] and len({o.seed for o in made}) == 6
    for part in shown:
        assert len({TinyTask().shape_of(o.problem) for o in part}) == 1


@pytest.mark.parametrize("sampler", [Diffusion(), Diffusion(judge_stop=True, max_passes=5)])
def test_a_problem_depends_on_seed_and_index_alone(sampler):
    def run(seed, batch_size, problems=PROBLEMS):
        made = solve(Restless(2), TinyTask(), sampler, problems, batch_size=batch_size, seed=seed)
        return [(o.answer, o.seed, o.passes, o.status) for o in made]

    assert run(1, 1) == run(1, 6) == run(1, 4)
    assert run(1, 1)[:3] == run(1, 3, PROBLEMS[:3])
    assert [row[1] for row in run(1, 6)] != [row[1] for row in run(2, 6)]


def test_solve_counts_what_the_sampler_did():
    steps = []
    liar = Oracle(lies=(0, 1))
    [made] = solve(
        liar, TinyTask(), Diffusion(), PROBLEMS[:1], batch_size=8, seed=0, max_passes=3, on_step=steps.append
    )
    assert (made.status, made.passes, len(steps)) == (Status.UNSOLVED, liar.calls, liar.calls) and made.passes <= 3
    assert made.violations > 0 and made.tokens_per_pass == pytest.approx(4 / made.passes)
    assert int(TinyTask().constraint(PROBLEMS[:1]).violations(made.tokens[None]).sum()) == made.violations


def test_search_needs_no_model_and_proves():
    clash = Problem("9", "11" + "0" * 14)
    made = solve(None, TinyTask(), Search(), [*PROBLEMS, clash], batch_size=4, seed=0)
    assert [o.status for o in made] == [Status.SOLVED] * 6 + [Status.UNSATISFIABLE]
    assert {(o.passes, o.tokens_per_pass) for o in made} == {(0, 0.0)}


def test_solve_refuses_a_batch_size_of_zero():
    with pytest.raises(InputError, match="batch_size is 0"):
        solve(None, TinyTask(), Search(), PROBLEMS, batch_size=0, seed=0)
    assert solve(None, TinyTask(), Search(), [], batch_size=1, seed=0) == []


def test_summarise():
    made = solve(Oracle(), TinyTask(), Diffusion(), PROBLEMS, batch_size=6, seed=0)
    made = [replace(o, passes=k + 1, tokens_per_pass=6 / (k + 1), seconds=0.5) for k, o in enumerate(made)]
    made[0] = replace(made[0], status=Status.UNSATISFIABLE, violations=4)
    rows = summarise("mine", made)
    assert [row["tier"] for row in rows] == [*tiers_of(made), "all"] == ["9", "17", "long", "all"]
    last = rows[-1]
    assert (last["sampler"], last["n"], last["solved"]) == ("mine", 6, pytest.approx(5 / 6))
    assert last["ci95"] == list(wilson(5, 6)) and last["seconds"] == 0.5
    assert last["mean_passes"] == 21 / 6 and last["tokens_per_pass"] == pytest.approx(36 / 21)
    assert last["metrics"]["violations"] == {"value": 4 / 6, "n": 6, "ci95": list(mean_interval([4, 0, 0, 0, 0, 0]))}
    assert last["metrics"]["passes_of_solved"]["value"] == 4 and last["metrics"]["unsatisfiable"]["value"] == 1 / 6
    assert "passes_of_solved" not in rows[0]["metrics"]  # one solved row has no interval
    json.dumps(rows, allow_nan=False)
    assert summarise("mine", []) == []


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [
        (["30", "17", "9"], ["9", "17", "30"]),
        (["hardest", "clue17", "level_easy", "clue9"], ["clue9", "clue17", "hardest", "level_easy"]),
        (["minimal", "47-80", "22-24"], ["22-24", "47-80", "minimal"]),
        (["", "1", "a1b", "a"], ["", "1", "a", "a1b"]),
    ],
)
def test_tiers_in_reading_order(tiers, expected):
    made = solve(None, TinyTask(), Search(), [problem((0,), tier) for tier in tiers], batch_size=9, seed=0)
    assert tiers_of(made) == expected


def test_a_task_adds_metrics_of_its_own_to_every_row():
    class Measured(TinyTask):
        def measure(self, outcomes, model=None):
            return {"long": {"value": sum(o.problem.tier == "long" for o in outcomes), "n": len(outcomes)}}

    problems = [problem({3}), problem({4}, "long"), problem({5}, "long")]
    outcomes = solve(None, Measured(), Search(), problems, batch_size=4, seed=0)
    rows = {row["tier"]: row["metrics"]["long"] for row in summarise("search", outcomes, Measured())}
    assert rows == {"9": {"value": 0, "n": 1}, "long": {"value": 2, "n": 2}, "all": {"value": 2, "n": 3}}
    # Without the task every row has the metrics that reports call common, and no other.
    assert all(set(row["metrics"]) == set(COMMON_METRICS) for row in summarise("search", outcomes)[1:])
