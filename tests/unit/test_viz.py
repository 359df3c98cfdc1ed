import json
from dataclasses import replace

import pytest
import torch
from test_evaluation import PROBLEMS, TinyTask

from constrained_dg.evaluation import solve
from constrained_dg.sampling import Diffusion, Status, Violations
from constrained_dg.viz import pictures, trace
from tasks.sudoku import Sudoku
from tests.fakes import Restless

SAMPLER = Diffusion(renoise=Violations(), max_passes=6)


@pytest.fixture
def settled():
    records = []
    made = solve(Restless(1), TinyTask(), SAMPLER, PROBLEMS[:3:2], batch_size=2, seed=1, on_step=records.append)
    return made, records


def test_frames_agree_with_the_records_and_the_outcome(settled):
    made, records = settled
    task, problems = TinyTask(), [o.problem for o in made]
    batch, constraint = task.encode(problems), task.constraint(problems)
    for row, outcome in enumerate(made):
        frames = trace.frames_of(records, batch, constraint, row, blank=0)
        assert len(frames) == outcome.passes and [f.number for f in frames] == list(range(1, len(frames) + 1))
        assert torch.equal(frames[-1].best, outcome.tokens)
        assert int(frames[-1].violations.sum()) == outcome.violations
        for frame in frames:
            pinned = batch.pinned[row]
            assert torch.equal(frame.accepted ^ frame.renoised, ~pinned)
            assert torch.equal(frame.shown[pinned], batch.answer[row][pinned])
            hidden = frame.shown == 0
            assert torch.equal(frame.shown[~hidden], frame.best[~hidden])
            assert not bool((hidden & (frame.accepted | pinned)).any()) and frame.entropy >= 0
        shown = json.loads(json.dumps(trace.to_json(outcome.problem, outcome, frames)))
        assert shown["passes"][-1]["best"] == outcome.tokens.tolist() and shown["status"] == str(outcome.status)


def test_frames_of_several_canvases():
    records = []
    task = TinyTask()
    batch, constraint = task.encode(PROBLEMS[:1]), task.constraint(PROBLEMS[:1])
    made = SAMPLER.run(Restless(1), batch, constraint, 5, canvas_length=4, on_step=records.append)
    frames = trace.frames_of(records, batch, constraint, 0, blank=0)
    assert len(frames) == int(made.passes[0]) and torch.equal(frames[-1].best, made.tokens[0])
    assert [f.number for f in frames] == list(range(1, len(frames) + 1))


def test_chosen_keeps_first_and_last():
    assert trace.chosen(range(100), 3) == [0, 50, 99]
    assert trace.chosen(range(3), 8) == [0, 1, 2] and trace.chosen([], 4) == []


def test_pictures_and_text(tmp_path):
    task = Sudoku(sizes={4: 1.0})
    problems = task.held_out(3, 0)

    class Zero(Restless):
        vocab_size = task.vocab_size

        def logits(self, canvas, cache, signal):
            return torch.zeros(*canvas.shape, self.vocab_size)

    records = []
    made = solve(Zero(), task, Diffusion(max_passes=2), problems[:1], batch_size=1, seed=0, on_step=records.append)
    frames = trace.frames_of(records, task.encode(problems[:1]), task.constraint(problems[:1]), 0, task.blank_id)
    text = trace.draw_frame(task, problems[0], frames[0], color=False)
    assert "\x1b" not in text and text.startswith("pass 1: ") and "accepted" in text
    assert "\x1b" in trace.draw_frame(task, problems[0], frames[0], color=True)

    trace.plot_frames(tmp_path / "settling.png", task, problems[0], frames)
    outcomes = {"plain": made, "again": made}
    pictures.solve_rate_by_passes(tmp_path / "passes.png", outcomes)
    assert pictures.solve_rate_by_given(tmp_path / "given.png", outcomes)
    pictures.answers(tmp_path / "answers.png", task, outcomes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["answers.png", "given.png", "passes.png", "settling.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in tmp_path.iterdir())


def test_no_picture_by_given_without_given(tmp_path, settled):
    assert not pictures.solve_rate_by_given(tmp_path / "given.png", {"plain": settled[0]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", range(1, 9))
def test_no_answer_is_drawn_twice_and_none_left_out_where_there_is_room(tmp_path, settled, count):
    drawn = []

    class Drawn(TinyTask):
        def plot(self, axes, problem, answer, violations=None):
            drawn.append(id(answer))

    one = settled[0][0]
    several = [replace(one, tokens=one.tokens.clone(), status=Status.UNSOLVED) for _ in range(3)]
    pictures.answers(tmp_path / "answers.png", Drawn(), {"any": several}, count)
    assert len(drawn) == len(set(drawn)) == min(count, 3)
