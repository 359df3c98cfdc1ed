"""Sudoku as a task: tokens, relations, batches, separation, rules and pictures."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch

from constrained_dg.errors import InputError
from tasks.sudoku import Puzzle, Sudoku, pool, solve
from tasks.sudoku.canonical import canonical
from tasks.sudoku.codec import BOX, from_text
from tasks.sudoku.generator import RESERVED
from tasks.sudoku.pool import is_reserved, training_grids, training_pool
from tasks.sudoku.symmetry import fingerprint
from tasks.sudoku.task import RELATIONS, TIERS, relations

SMALL = "12..34......2..1"


@pytest.fixture(scope="module")
def task():
    return Sudoku({4: 0.3, 9: 0.5, 16: 0.2}, puzzles=12, seed=1)


def tensors(batch):
    return [value for field in fields(batch) if isinstance(value := getattr(batch, field.name), torch.Tensor)]


def batch_of(task, size):
    return next(batch for step in range(200) if (batch := task.train_batch(step, 16)).prompt.shape[1] == size**2)


def test_tokens_of_a_puzzle(task):
    batch = task.encode([task.parse(SMALL)])
    assert batch.prompt[0, :6].tolist() == [3, 4, 2, 2, 5, 6]
    assert batch.answer[0, :6].tolist() == [3, 4, 3, 3, 5, 6]
    assert torch.equal(batch.pinned, batch.prompt != 2)
    assert batch.noise == (3, 7) and batch.answer.dtype == batch.prompt.dtype == torch.int64
    assert batch.relations.shape == (1, task.num_relations, 32, 32)
    assert task.decode(task.parse(SMALL), batch.answer[0]) == SMALL.replace(".", "1")
    sixteen = task.parse("G" + "." * 255)
    assert task.encode([sixteen]).prompt[0, 0] == 18 == task.vocab_size - 1
    assert task.shape_of(sixteen) == (256, 256) == (task.max_prompt, task.max_canvas)


def test_a_known_solution_stands_in_the_canvas(task):
    puzzle = task.held_out(1, 0)[1]
    assert task.decode(puzzle, task.encode([puzzle]).answer[0]) == Puzzle.of(puzzle.solution).text


@pytest.mark.parametrize("size", sorted(BOX))
def test_relations_in_plain_words(size):
    held = relations(size)[0]
    box, cells = BOX[size], size * size
    generator = np.random.default_rng(0)
    for a, b in [*generator.integers(2 * cells, size=(300, 2)).tolist(), [5, 5], [5, 5 + cells]]:
        (row, column), (other_row, other_column) = divmod(a % cells, size), divmod(b % cells, size)
        same_box = (row // box, column // box) == (other_row // box, other_column // box)
        expected = [row == other_row, column == other_column, same_box, a % cells == b % cells, True]
        assert held[:, a, b].tolist() == expected
    assert len(RELATIONS) == len(held) == 5


@pytest.mark.parametrize("size", sorted(BOX))
def test_training_examples_are_solved_puzzles(task, size):
    batch = batch_of(task, size)
    clues = [(row - 2).tolist() for row in batch.prompt]
    puzzles = [Puzzle.of(cells) for cells in clues]
    assert task.constraint(puzzles).is_satisfied(batch.answer).all()
    assert torch.equal(batch.answer[batch.pinned], batch.prompt[batch.pinned])
    assert torch.equal(batch.pinned, batch.prompt != 2)
    assert all(solve(cells)[1] == 1 for cells in clues)


def test_train_batch_is_pure():
    first, second = (Sudoku({4: 0.5, 9: 0.5}, puzzles=20, seed=1) for _ in range(2))
    second.train_batch(9, 4)
    for step in range(8):
        one, other = first.train_batch(step, 8, 2), second.train_batch(step, 8, 2)
        assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
        # Ranks agree on the size and on nothing else.
        elsewhere = first.train_batch(step, 8, 0)
        assert elsewhere.prompt.shape == one.prompt.shape and not torch.equal(elsewhere.prompt, one.prompt)
    steps = [first.train_batch(step, 8).answer for step in range(8)]
    assert len({tuple(canvas.flatten().tolist()) for canvas in steps}) == 8


def test_every_setting_changes_the_batches():
    def canvas(**settings):
        batch = Sudoku(puzzles=20, **settings).train_batch(0, 64)
        return batch.prompt, batch.answer

    base = canvas()
    for change in ({"seed": 1}, {"minimal": 0.0}, {"added": 5}, {"augment": False}, {"sizes": {4: 1}}, {"hard": 0.5}):
        assert not torch.equal(canvas(**change)[0], base[0]), change
    assert len({tuple(row.tolist()) for row in canvas(augment=False)[1]}) <= 20


def test_clue_counts_follow_the_mix():
    def clues(**settings):
        return (Sudoku(puzzles=50, **settings).train_batch(0, 800).prompt > 2).sum(1)

    assert clues(minimal=1.0).max() < 29
    mixed = clues(minimal=0.5, added=25)
    assert 0.4 < (mixed < 27).float().mean() < 0.65 and mixed.max() > 44
    assert clues(minimal=0.0, added=50).max() > 65


def test_the_shares_of_sizes_are_kept():
    task = Sudoku({"4": 1, 9: 3}, puzzles=5)
    nine = sum(task.train_batch(step, 1).prompt.shape[1] == 81 for step in range(400))
    assert 260 < nine < 340


def test_held_out_tiers_and_clue_counts(task):
    held = task.held_out(6, 3)
    assert held == task.held_out(6, 3) != task.held_out(6, 4)
    assert {puzzle.tier for puzzle in held} == {"4x4", "16x16", *TIERS[9]}
    assert {"28-35", "36-46", "minimal"} <= set(TIERS[9])
    for puzzle in held:
        assert sum(other.tier == puzzle.tier for other in held) == 6
        assert solve(puzzle.cells)[:2] == (puzzle.solution, 1)
        if "-" in puzzle.tier:
            low, high = map(int, puzzle.tier.split("-"))
            assert low <= puzzle.given <= high


def test_held_out_and_training_lie_on_different_sides(task):
    def reserved(cells, solution):
        if len(cells) == 16:
            return is_reserved(np.array(cells))
        return int(fingerprint(np.array(solution), BOX[round(len(cells) ** 0.5)])) % RESERVED == 0

    assert all(reserved(puzzle.cells, puzzle.solution) for puzzle in task.held_out(20, 0))
    for size in BOX:
        batch = batch_of(task, size)
        for prompt, canvas in zip((batch.prompt - 2).tolist(), (batch.answer - 2).tolist(), strict=True):
            assert not reserved(prompt, canvas)


def test_no_held_out_4x4_puzzle_equals_a_training_puzzle():
    """All 4x4 classes in reach: without the wall, hundreds would meet."""
    task = Sudoku({4: 1.0}, puzzles=3000)
    held = task.held_out(200, 0)
    known = {canonical(cells) for cells in task.training_puzzles(4).puzzles.tolist()}
    assert len(known) > 300
    assert not known & {canonical(puzzle.cells) for puzzle in held}
    assert task.overlap(held) == []


def test_overlap_finds_training_puzzles_in_disguise(task):
    for size in BOX:
        batch = batch_of(task, size)
        disguised = [Puzzle.of((row - 2).tolist()) for row in batch.prompt[:3]]
        fresh = [puzzle for puzzle in task.held_out(2, 0) if puzzle.size == size][:2]
        assert task.overlap([*fresh, *disguised]) == [len(fresh) + k for k in range(3)]
    assert task.overlap([task.parse("." * 81)]) == []


@pytest.mark.parametrize("size", [9, 16])
def test_the_solutions_of_base_puzzles_are_known_without_digging(size, monkeypatch):
    monkeypatch.setattr(pool, "_CHUNK", {9: 7, 16: 2})
    base = training_pool(size, 15 if size == 9 else 3, 5)
    marks = np.array([fingerprint(grid.astype(np.int64), BOX[size]) for grid in base.solutions])
    assert np.array_equal(training_grids(size, len(marks), 5, marks), base.solutions)
    assert np.array_equal(training_grids(size, len(marks), 5, marks[1:2]), base.solutions[1:2])


def test_overlap_of_reserved_puzzles_makes_no_base_puzzle(task, monkeypatch):
    held = [puzzle for puzzle in task.held_out(2, 0)]
    fresh = Sudoku({4: 0.3, 9: 0.5, 16: 0.2}, puzzles=12, seed=1)
    monkeypatch.setattr(Sudoku, "training_puzzles", None)
    monkeypatch.setattr("tasks.sudoku.task.training_grids", None)
    assert fresh.overlap(held) == []


def test_solutions_are_counted_and_giving_up_is_said(task):
    def text(*arguments):
        return str(task.solutions(*arguments))

    assert text(task.held_out(1, 0)[1]) == "exactly one solution"
    assert text("." * 16) == text("." * 81) == text("." * 256) == "at least 2 solutions"
    assert text("." * 16, 288) == "at least 288 solutions" and text("." * 16, 289) == "exactly 288 solutions"
    assert text("11" + "." * 14) == "no solution" and text("123." + "...4" + "." * 8) == "no solution"
    assert text("." * 16, 1) == "at least 1 solution"
    gave_up = task.solutions("." * 81, 10**9, 1000)
    assert not gave_up.complete and 0 < gave_up.count <= 1001
    assert str(gave_up) == f"{gave_up.count} known solutions, and perhaps more: the search gave up"
    for most in (0, -1, 1.5, 2**62):
        with pytest.raises(InputError, match="most="):
            task.solutions("." * 16, most)


def test_a_puzzle_is_remarked_on_where_its_solution_is_not_unique(task):
    assert task.remark(task.held_out(1, 0)[1]) == "the puzzle has exactly one solution"
    assert task.remark(task.parse("." * 81)) == "the puzzle has at least 2 solutions"


def test_overlap_names_what_it_cannot_decide_in_time(task):
    # 70 clues of a full grid: one solution or several, millions of guesses away.
    rows = (
        "...1C.G...8..9.2......8.B.5....1C..5.1.4..9..........327..F.8....",
        "..6D...9..4.81.A..C.E5.......49...4..C.............1....8........",
        "C..9.6.....A.....9...2.........D...8.....9.6G36.18A....D.........",
        "E37....6.........6...GAD...2.....2..............FB5...4.27.D.",
    )
    puzzle = task.parse("".join(rows))
    assert solve(puzzle.cells, 1000) == (None, 0, -1)
    assert task.overlap([puzzle]) == [0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sizes": {6: 1.0}}, "size 6; use 4, 9 or 16"),
        ({"sizes": {9: 0.0}}, "sizes"),
        ({"sizes": {9: 1.0, 4: -0.5}}, "sizes"),
        ({"sizes": 9}, "sizes=9"),
        ({"sizes": {"a": 1}}, "size 'a'"),
        ({"sizes": {9.5: 1}}, "size 9.5"),
        ({"sizes": {"9": 1, 9: 1}}, "name each size once"),
        ({"sizes": {9: "x"}}, "sizes={9: x}"),
        ({"sizes": {9: None}}, "sizes={9: None}"),
        ({"sizes": {9: 10**400}}, "sizes={9: 1000"),
        ({"minimal": "x"}, "minimal='x'"),
        ({"minimal": float("nan")}, "minimal=nan"),
        ({"augment": "maybe"}, "augment='maybe'"),
        ({"puzzles": 10**9}, "puzzles=1000000000; use an integer from 1 to 100,000,000"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
        ({"sizes": {9: float("inf")}}, "sizes={9: inf}"),
        ({"puzzles": 0}, "puzzles=0"),
        ({"puzzles": 1.5}, "puzzles=1.5"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"added": 1.5}, "added=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"minimal": 1.5}, "minimal=1.5"),
        ({"added": 51}, "added=51"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        Sudoku(**settings)


def test_held_out_refuses_nothing_to_make(task):
    with pytest.raises(InputError, match="per_tier=0"):
        task.held_out(0, 0)


def test_judge_reads_rules_and_clues_and_no_solution(task):
    puzzle = next(p for p in task.held_out(1, 0) if p.tier == "36-46")
    answer = task.encode([puzzle]).answer
    lying = Puzzle.of(puzzle.cells, solution=[1] * 81)
    assert task.constraint([lying]).is_satisfied(answer).item()
    # A valid grid of other clues: the rules hold, the clues do not.
    swapped = torch.where(answer == 3, 4, torch.where(answer == 4, 3, answer))
    rule = task.constraint([puzzle])
    assert not rule.is_satisfied(swapped).item()
    assert torch.equal(rule.violations(swapped), (swapped != answer) & task.encode([puzzle]).pinned)


def test_several_solutions_are_all_accepted(task):
    grid, *_ = solve([0] * 16)
    other = tuple(value % 4 + 1 for value in grid)
    tokens = torch.tensor([grid, other]) + 2
    empty = task.parse("." * 16)
    assert task.constraint([empty, empty]).is_satisfied(tokens).tolist() == [True, True]


def test_explanations_name_rows_columns_and_symbols(task):
    grid = list(from_text("1234341221434321"))
    puzzle = Puzzle.of([1, *[0] * 15])
    wrong = torch.tensor([[2, *grid[1:]]]) + 2
    sentences = task.constraint([puzzle]).explain(wrong)[0]
    assert sentences == [
        "row 1 holds 2 twice, at columns 1 and 2",
        "column 1 holds 2 twice, at rows 1 and 3",
        "box 1 holds 2 twice, at row 1 column 1 and row 1 column 2",
        "row 1 column 1 must stay 1 but holds 2",
    ]
    blank = torch.tensor([[2, *[cell + 2 for cell in grid[1:]]]])
    assert "row 1 holds blank at column 1, which is not permitted there" in task.constraint([puzzle]).explain(blank)[0]


def test_drawing_shows_boxes_and_marks_without_color(task):
    puzzle = task.parse(SMALL)
    answer = torch.tensor(from_text("1234341221434322")) + 2
    violations = task.constraint([puzzle]).violations(answer[None])[0]
    text = task.draw(puzzle, answer, violations)
    plain = text.replace("\x1b[1m", "").replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert plain.splitlines()[:3] == ["+-----+-----+", "| 1 2 | 3 4 |", "| 3 4 | 1 2!|"]
    assert plain.count("!") == int(violations.sum())
    assert "\x1b[1m1 \x1b[0m" in text and "\x1b[31m2!\x1b[0m" in text
    assert "| 1 2 | . . |" in task.draw(puzzle, None).replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_picture_colors_clues_answers_and_violations(task):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    puzzle = task.parse(SMALL)
    axes = Figure().subplots()
    violations = torch.zeros(16, dtype=torch.bool)
    violations[3] = True
    task.plot(axes, puzzle, torch.tensor(from_text("1234341221434321")) + 2, violations)
    texts = {(t.get_position(), t.get_text(), t.get_color()) for t in axes.texts}
    assert len(texts) == 16 and ((0.5, 0.5), "1", "black") in texts and ((2.5, 0.5), "3", "tab:blue") in texts
    assert [patch.get_xy() for patch in axes.patches] == [(3, 0)]


def test_importing_needs_no_script_or_picture_packages():
    banned = ["hydra", "wandb", "Bio", "matplotlib", "lightning"]
    code = f"import sys; sys.modules.update(dict.fromkeys({banned})); import tasks.sudoku"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- as text ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(task):
    """The same puzzles as text; 16x16 would not fit a canvas."""
    textual = pytest.importorskip("tests.textual")
    return Sudoku({4: 0.5, 9: 0.5}, puzzles=30, seed=1).in_text(textual.tokenizer(), 176)


def test_text_prompts_and_answers_are_those_of_the_recipe(written):
    puzzle = next(puzzle for puzzle in written.held_out(2, 0) if puzzle.size == 9)
    batch = written.encode([puzzle])
    text = written.tokenizer.raw.decode(batch.prompt[0][batch.mask[0]].tolist(), skip_special_tokens=False)
    given = " ".join(str(cell) for cell in puzzle.cells)
    assert text.startswith("<bos><|turn>system\n") and text.endswith(
        f"<turn|>\n<|turn>user\n{given}<turn|>\n<|turn>model\n"
    )
    assert written.tokenizer.decode(batch.answer[0]) == " ".join(str(cell) for cell in puzzle.solution)
    assert (batch.answer[0, 161:] == written.padding_id).all() and batch.answer.shape == (1, 176)
    assert not batch.pinned.any() and batch.noise == (0, written.vocab_size) and batch.relations is None
    assert written.shape_of(puzzle) == (batch.prompt.shape[1], 176)
    assert written.max_prompt == batch.prompt.shape[1]
    assert written.decode(puzzle, batch.answer[0]) == Puzzle.of(puzzle.solution).text


def test_text_trains_on_the_same_puzzles(written):
    for step in range(6):
        ours, theirs = written.train_batch(step, 4, 1), written.puzzles.train_batch(step, 4, 1)
        size = round(theirs.prompt.shape[1] ** 0.5)
        cells = [written.layout(size).cells(answer) for answer in ours.answer]
        assert cells == (theirs.answer - 2).tolist()
        puzzles = [Puzzle.of(row) for row in (theirs.prompt - 2).tolist()]
        assert torch.equal(ours.prompt, written.encode(puzzles).prompt)
        assert written.constraint(puzzles).is_satisfied(ours.answer).all()


def test_rules_hold_on_text_as_on_symbols(written, task):
    """Cell by cell, what is broken on symbols is broken on text, and nothing else; then the layout."""
    puzzle = next(puzzle for puzzle in written.held_out(1, 3) if puzzle.size == 4)
    solution = torch.tensor([puzzle.solution])
    rule, layout = written.constraint([puzzle]), written.layout(4)
    for cell in range(16):
        for value in range(1, 5):
            cells = solution.clone()
            cells[0, cell] = value
            answer = layout.answer(cells)
            assert rule.is_satisfied(answer).item() == (value == puzzle.solution[cell])
            expected = task.constraint([puzzle]).violations(cells + 2)
            assert torch.equal(rule.violations(answer)[:, layout.positions], expected)
    right = layout.answer(solution)
    for at, token in ((1, 9), (40, 9), (int(layout.positions[3]), 9), (175, written.blank_id)):
        wrong = right.clone()
        wrong[0, at] = token
        assert rule.violations(wrong).nonzero().tolist() == [[0, at]] and len(rule.explain(wrong)[0]) == 1
    none = torch.zeros_like(right, dtype=torch.bool)
    may = rule.of_tokens(rule.allowed(right, none, slice(0, 176)))
    assert may.gather(-1, right[..., None]).all()
    # Layout and clues are fixed by the rules, though nothing is pinned: free cells alone have a choice.
    choices = may.sum(-1)[0]
    free = {int(layout.positions[cell]) for cell in range(16) if not puzzle.cells[cell]}
    assert {at for at in range(176) if choices[at] > 1} <= free and (choices >= 1).all()


def test_an_unreadable_answer_is_shown_as_such(written):
    puzzle = written.parse(SMALL)
    garbage = torch.arange(176) + 3
    assert written.decode(puzzle, garbage).startswith("unreadable: ")
    drawn = written.draw(puzzle, garbage, torch.ones(176, dtype=torch.bool))
    assert "unreadable: " in drawn and "!" in drawn
    assert "unreadable" not in written.draw(puzzle, written.encode([puzzle]).answer[0])
    assert "| 1" in written.draw(puzzle, None).replace("\x1b[1m", "").replace("\x1b[0m", "")
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    written.plot(axes, puzzle, garbage)
    assert len(axes.texts) < 16


def test_a_tokenizer_without_digits_of_their_own_and_a_short_canvas_are_refused(written):
    from constrained_dg.text import Tokenizer
    from tests.textual import VOCAB, raw_tokenizer

    merging = Tokenizer(raw_tokenizer(split_digits=False), VOCAB)
    with pytest.raises(InputError, match="use a tokenizer that keeps digits apart"):
        Sudoku({4: 1.0}).in_text(merging, 176)
    with pytest.raises(InputError, match="9x9 grid takes 161 tokens as text, a canvas of this model holds 160"):
        Sudoku({9: 1.0}).in_text(written.tokenizer, 160)
    with pytest.raises(InputError, match="16x16 grid takes 511 tokens"):
        written.encode([Puzzle.of([0] * 256)])
