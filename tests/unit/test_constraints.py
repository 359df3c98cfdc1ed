import pytest
import torch

from constrained_dg.constraints import (
    All,
    AllDifferent,
    Constraint,
    Count,
    DifferentAcross,
    Pinned,
    Sum,
    candidates_of,
    contradictory,
    listing,
)
from constrained_dg.errors import InputError
from tests.fakes import GRIDS, VOCAB, sudoku4

RULES = sudoku4()


def pinned(cells: dict[int, int], length: int = 16) -> Pinned:
    tokens, mask = torch.zeros(1, length, dtype=torch.int64), torch.zeros(1, length, dtype=torch.bool)
    for position, token in cells.items():
        tokens[0, position], mask[0, position] = token, True
    return Pinned(tokens, mask, VOCAB)


def test_solutions_are_accepted_without_blame_or_words():
    assert RULES.is_satisfied(GRIDS).all() and not RULES.violations(GRIDS).any()
    assert RULES.explain(GRIDS) == [[], [], []]


def test_blame_names_both_cells_of_a_clash():
    answer = GRIDS[:1].clone()
    answer[0, 0] = 3  # a second 3 in row 1 (cell 2), column 1 (cell 4) and box 1 (cell 4)
    assert RULES.violations(answer)[0].nonzero().flatten().tolist() == [0, 2, 4]
    assert RULES.explain(answer)[0] == [
        "row 1 holds 3 twice, at columns 1 and 3",
        "column 1 holds 3 twice, at rows 1 and 2",
        "box 1 holds 3 twice, at places 1 and 3",
    ]


def test_a_foreign_token_is_a_violation_told_once():
    answer = GRIDS[:1].clone()
    answer[0, 5] = 6
    assert RULES.violations(answer)[0].nonzero().flatten().tolist() == [5]
    assert RULES.explain(answer)[0] == ["row 2 holds 6 at column 2, which is not permitted there"]


def test_a_changed_clue_is_explained():
    answer = GRIDS[:1].clone()
    assert pinned({0: 1, 3: 2}).explain(answer) == [["position 4 must stay 2 but holds 4"]]


def test_elimination_removes_what_peers_hold():
    allowed = RULES.allowed(GRIDS[:1], torch.arange(16)[None] < 4, slice(4, 8))[0]  # row 1 = 1 2 3 4 is known
    assert [cell.nonzero().flatten().tolist() for cell in allowed] == [[3, 4], [3, 4], [1, 2], [1, 2]]


def test_propagation_finds_hidden_singles_and_solves():
    clues = torch.zeros(1, 16, dtype=torch.bool)
    clues[0, [0, 1, 4, 9, 11, 14]] = True
    left = RULES.propagate(candidates_of(GRIDS[:1], clues, VOCAB))
    assert torch.equal(left.to(torch.uint8).argmax(-1), GRIDS[:1]) and (left.sum(-1) == 1).all()


@pytest.mark.parametrize(
    "cells",
    [
        {0: 1, 1: 1},  # two clues clash
        {0: 1, 1: 2, 2: 3, 7: 4},  # cell 3 has nothing left
        {0: 6},  # a foreign clue
        {4: 1, 2: 2, 3: 3},  # the 1 of row 1 has no home
    ],
)
def test_contradictory_clues_leave_an_empty_set(cells):
    clues = pinned(cells)
    assert contradictory(RULES & clues, clues.tokens, clues.mask).tolist() == [True]


def test_a_token_without_a_home_empties_the_sets_of_its_group():
    candidates = torch.ones(1, 4, 3, dtype=torch.bool)
    candidates[0, :3, 2] = False  # three cells need three tokens, and nobody may be 2
    rule = AllDifferent(torch.tensor([[0, 1, 2]]), ["a"], (0, 3), 4, 3)
    assert rule.propagate(candidates).any(-1).tolist() == [[False, False, False, True]]


def test_positions_in_no_group_are_free():
    rule = AllDifferent(torch.tensor([[0, 2]]), ["ends"], (1, 3), 3, 5)
    answer = torch.tensor([[1, 4, 2]])
    assert rule.is_satisfied(answer).all()
    assert rule.allowed(answer, torch.zeros(1, 3, dtype=torch.bool), slice(0, 3))[0, 1].all()
    assert rule.propagate(torch.ones(1, 3, 5, dtype=torch.bool))[0, 1].all()


def test_combining_flattens_and_follows_rows():
    clues = Pinned(GRIDS, torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) < 0.5, VOCAB)
    both = (RULES & clues) & RULES
    assert len(both.parts) == 3 and both.rows == 3
    rows = torch.tensor([2, 0])
    assert both.select(rows).is_satisfied(GRIDS[rows]).all()
    one_by_one = All.stack([both.select(torch.tensor([row])) for row in range(3)])
    for twin, answer in ((one_by_one, GRIDS), (both.repeat(2), GRIDS.repeat_interleave(2, 0)), (both.to("cpu"), GRIDS)):
        assert twin.rows == len(answer) and twin.is_satisfied(answer).all()
        assert not twin.is_satisfied(answer.roll(2, 0)).any()


def test_listing_reads_like_a_sentence():
    texts = [listing("column", names) for names in ([2], [2, 8], [2, 5, 8])]
    assert texts == ["column 2", "columns 2 and 8", "columns 2, 5 and 8"]


GROUP = torch.tensor([[0, 1]])


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: AllDifferent(torch.tensor([[0, 9]]), ["a"], (0, 3), 4, 3), "positions 0 to 9"),
        (lambda: AllDifferent(torch.tensor([[0, 0]]), ["a"], (0, 3), 4, 3), "same position twice"),
        (lambda: AllDifferent(torch.tensor([0, 1]), ["a"], (0, 3), 4, 3), "shape"),
        (lambda: AllDifferent(GROUP, ["a"], (0, 4), 4, 3), r"\[0, 4\)"),
        (lambda: AllDifferent(GROUP, ["a"], (1, 2), 4, 3), "cannot all differ with 1"),
        (lambda: AllDifferent(GROUP, ["a", "b"], (0, 3), 4, 3), "2 names for 1 groups"),
        (lambda: AllDifferent.stack([RULES, AllDifferent(GROUP, ["a"], (0, 3), 16, VOCAB)]), "cannot stack"),
        (lambda: Pinned(torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool), 3), "do not fit"),
        (lambda: Pinned(torch.full((1, 2), 7), torch.ones(1, 2, dtype=torch.bool), 3), "outside the vocabulary of 3"),
        (lambda: Pinned.stack([pinned({}), pinned({}, length=4)]), "cannot stack"),
        (lambda: RULES & pinned({}, length=4), "length"),
        (lambda: pinned({}).repeat(2) & pinned({}).repeat(3), r"\[2, 3\] rows"),
        (lambda: All([]), "no constraint"),
        (lambda: All.stack([RULES & pinned({}), pinned({}) & RULES]), "different rules"),
        (lambda: RULES.violations(GRIDS[:, :9]), r"\(3, 9\)"),
        (lambda: RULES.violations(GRIDS.float()), "torch.float32"),
        (lambda: pinned({}).repeat(2).is_satisfied(GRIDS), "2 rows got an answer of 3 rows"),
    ],
)
def test_bad_input_is_named(build, words):
    with pytest.raises(InputError, match=words):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: DifferentAcross(torch.tensor([[0, 1]]), (1, 2), 4, 3),
        lambda: AllDifferent(torch.tensor([[0, 1], [1, 2], [0, 2]]), list("abc"), (0, 2), 3, 3),
        lambda: AllDifferent(torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]]), list("abcde"), (0, 2), 5, 2),
        lambda: AllDifferent(torch.tensor([[a, b] for b in range(4) for a in range(b)]), list("abcdef"), (0, 3), 4, 3),
    ],
)
def test_what_no_answer_can_satisfy_is_refused_when_it_is_made(build):
    with pytest.raises(InputError, match="permit"):
        build()


def test_a_rule_over_few_positions_is_swept_there_alone():
    """Cages that share no position stay apart; those on the same cells, and small ones that touch, are joined."""
    cages = [Sum(torch.arange(10), 5, 20, 81, positions=range(at, at + 3)) for at in range(0, 81, 3)]
    rule = All([*cages, Count([9], 0, 1, 81, 10, positions=range(3))])
    assert [product.active.tolist() for product in rule._plan.products] == [[a, a + 1, a + 2] for a in range(0, 81, 3)]
    assert rule.has_most_likely and rule.strength == "27 products of automata, counts and sums, each exact"
    touching = All([Count([0], 1, 1, 4, 3, positions=at) for at in ([0, 1], [2, 3], [1, 2])])
    assert [product.active.tolist() for product in touching._plan.products] == [[0, 1, 2, 3]]


def test_strength_says_what_a_rule_knows():
    class Own(Constraint):
        """No claim of its own."""

        length, num_classes = 2, 2

        def is_satisfied(self, answer):
            return answer[:, 0] == 0

        def allowed(self, answer, known, span):
            return super().allowed(answer, known, span)

    assert "rules out only" not in Own.strength and "see `allowed`" in Own.strength
