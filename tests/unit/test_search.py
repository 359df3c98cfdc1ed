from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.constraints import Constraint, Pinned, Predicate, TokenClasses, Vocabulary, complete, lowering
from constrained_dg.constraints.proposals import Proposals
from constrained_dg.errors import InputError
from tests.fakes import GRIDS, HIGH, LOW, VOCAB, sudoku4

RULES = sudoku4()
NOTHING = torch.zeros(16, dtype=torch.bool)


@cache
def every_grid() -> torch.Tensor:
    """All 288 4x4 grids, by filling one cell after the other."""
    grids = [[]]
    for cell in range(16):
        peers = [p for group in RULES.groups.tolist() if cell in group for p in group if p < cell]
        grids = [[*g, t] for g in grids for t in range(LOW, HIGH) if all(g[p] != t for p in peers)]
    return torch.tensor(grids)


def test_there_are_288_grids():
    assert len(every_grid()) == 288 and RULES.is_satisfied(every_grid()).all()


cells = st.dictionaries(st.integers(0, 15), st.integers(LOW, HIGH - 1), max_size=9)


@given(cells, st.booleans())
def test_search_agrees_with_brute_force(cells, through_pinned):
    answer, known = torch.zeros(16, dtype=torch.int64), NOTHING.clone()
    for position, token in cells.items():
        answer[position], known[position] = token, True
    rule = RULES & Pinned(answer[None], known[None], VOCAB) if through_pinned else RULES
    found = complete(rule, answer, NOTHING if through_pinned else known)
    possible = (every_grid()[:, known] == answer[known]).all(-1).any()
    assert (found.answer is not None) == possible and found.exhausted != possible
    if possible:
        assert RULES.is_satisfied(found.answer[None]).all() and (found.answer == answer)[known].all()


def test_the_model_orders_the_search():
    for grid in every_grid()[::37]:
        log_probs = torch.nn.functional.one_hot(grid, VOCAB).float().log_softmax(-1)
        assert torch.equal(complete(RULES, grid, NOTHING, log_probs=log_probs).answer, grid)


def test_what_the_model_rules_out_is_still_searched():
    log_probs = torch.full((16, VOCAB), -torch.inf)
    assert complete(RULES, GRIDS[0], NOTHING, log_probs=log_probs).answer is not None


def test_a_spent_budget_proves_nothing():
    for budget in (0, 1e-9):
        found = complete(RULES, GRIDS[0], NOTHING, budget=budget)
        assert found.answer is None and not found.exhausted
    whole = complete(RULES, GRIDS[0], NOTHING)
    assert whole.answer is not None and 0 < whole.work < 0.1
    again = complete(RULES, GRIDS[0], NOTHING, budget=2 * whole.work)
    assert torch.equal(again.answer, whole.answer) and (again.work, again.nodes) == (whole.work, whole.nodes)


def test_an_answer_that_the_model_rules_out_is_no_proof_that_none_exists():
    """Every answer has -inf somewhere; and the likeliest of the others is still found beside them."""
    log_probs = torch.zeros(16, VOCAB)
    log_probs[0], log_probs[5] = -torch.inf, torch.arange(VOCAB) * 1.0
    found = complete(RULES, GRIDS[0], NOTHING, log_probs=log_probs)
    assert found.answer is not None and not found.exhausted and found.score == -torch.inf
    assert found.answer[5] == HIGH - 1
    clues = GRIDS[0].clone()
    clues[1] = clues[0]
    assert complete(RULES, clues, torch.arange(16) < 2, log_probs=log_probs).exhausted


def test_propagation_alone_costs_no_nodes():
    known = NOTHING.clone()
    known[[0, 1, 4, 9, 11, 14]] = True
    found = complete(RULES, GRIDS[0], known, budget=0)
    assert torch.equal(found.answer, GRIDS[0]) and found.nodes == 0


def test_a_time_limit_ends_the_search():
    found = complete(RULES, GRIDS[0], NOTHING, time_limit=1e-9)
    assert found.answer is None and not found.exhausted


def test_bad_input_is_named():
    for words, arguments in {
        "budget is -1": {"budget": -1},
        r"log_probs hold nan at \[\[2, 1\]\]": {
            "log_probs": torch.zeros(16, VOCAB).index_put_((torch.tensor(2), torch.tensor(1)), torch.tensor(torch.nan))
        },
        r"log_probs have shape \(3, 3\)": {"log_probs": torch.zeros(3, 3)},
        r"log_probs hold -2000000.0 at \[\[0, 0\]\]; give -inf, or": {"log_probs": torch.full((16, VOCAB), -2e6)},
        r"log_probs hold 1.0\d+e\+16": {"log_probs": torch.full((16, VOCAB), 1e16)},
        "log_probs hold inf": {"log_probs": torch.full((16, VOCAB), torch.inf)},
        "time_limit is nan; give seconds": {"time_limit": float("nan")},
        "time_limit is -1": {"time_limit": -1},
        "answer hold 99 to 99, of torch.int64; give tokens from 0 to": {"answer": torch.full((16,), 99)},
        r"tokens hold 0.0 to 0.0, of torch.float32": {"tokens": torch.zeros(16, VOCAB)},
        r"tokens hold 0 at \[\[0, 1\]\], a token of another class": {"tokens": torch.zeros(16, VOCAB).long()},
        r"known has shape \(16,\) and type torch.int64": {"known": NOTHING.long()},
        "other_than hold 50 to 50": {"other_than": torch.full((1, 16), 50)},
        r"other_than has shape \(16,\); give \(N, 16\)": {"other_than": GRIDS[0]},
    }.items():
        with pytest.raises(InputError, match=words):
            complete(**{"constraint": RULES, "answer": GRIDS[0], "known": NOTHING} | arguments)
    with pytest.raises(InputError, match="2 rows"):
        complete(Pinned(GRIDS[:2], GRIDS[:2] > 0, VOCAB), GRIDS[0], NOTHING)


class Guessing(Constraint):
    """Five equal tokens; its repair returns given answers."""

    length, num_classes = 5, 4

    def __init__(self, guess, moves=7):
        self.guess, self.moves = guess, moves

    def is_satisfied(self, answer):
        return (answer == answer[:, :1]).all(1)

    def repair(self, draft, candidates, log_probs):
        return (None if self.guess is None else torch.tensor(self.guess)), self.moves


@pytest.mark.parametrize("wrap", [lambda rule: rule, lambda rule: rule & Vocabulary(torch.ones(1, 5, 4).bool())])
def test_a_repair_that_the_judge_accepts_needs_no_branch(wrap):
    found = complete(wrap(Guessing([2] * 5)), torch.tensor([2, 0, 0, 0, 0]), torch.tensor([True] + [False] * 4))
    assert found.answer.tolist() == [2] * 5 and found.nodes == 7


@pytest.mark.parametrize("guess", [None, [2, 2, 2, 2, 1], [3] * 5])
def test_a_repair_that_fails_or_lies_or_moves_a_known_token_is_passed_over(guess):
    known = torch.tensor([True] + [False] * 4)
    found = complete(Guessing(guess), torch.tensor([2, 0, 0, 0, 0]), known)
    slow = complete(Guessing(None, 0), torch.tensor([2, 0, 0, 0, 0]), known)
    assert found.answer.tolist() == slow.answer.tolist() == [2] * 5
    assert slow.nodes > 0 and found.nodes == slow.nodes + 7


def test_the_repair_of_a_rule_on_a_part_leaves_the_rest():
    rule = Guessing([1] * 5).on(torch.tensor([1, 2, 4, 5, 6]), TokenClasses.of(5, [[0], [1], [2], [3]]), 7)
    answer = torch.tensor([4, 0, 1, 4, 2, 3, 0])
    found = complete(rule, answer, torch.zeros(7, dtype=torch.bool))
    assert found.answer.tolist() == [4, 1, 1, 4, 1, 1, 1] and found.nodes == 7


class Slow(Guessing):
    """Writes until the time is up, or the model is too large."""

    def lower(self, into):
        while True:
            into.clause([into.new_literal() for _ in range(99)])


@pytest.mark.parametrize(("limit", "entries"), [(0.1, lowering.MOST_ENTRIES), (None, 1000)])
def test_what_is_found_stays_where_no_likelier_answer_can_be_sought(limit, entries, monkeypatch):
    monkeypatch.setattr(lowering, "MOST_ENTRIES", entries)
    log_probs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    arguments = {"log_probs": log_probs, "improve": True, "time_limit": limit}
    found = complete(Slow([2] * 5), torch.tensor([2, 0, 0, 0, 0]), torch.zeros(5, dtype=torch.bool), **arguments)
    assert found.answer.tolist() == [2] * 5 and not found.proved and found.bound == torch.inf
    assert found.score == pytest.approx(float(log_probs[:, 2].sum()))


def test_a_repair_that_is_likelier_by_less_than_the_rounding_is_proved_as_well(monkeypatch):
    monkeypatch.setattr(Proposals, "_hints", lambda self: {})  # or the solver would find the same
    for token in range(1, 4):
        log_probs = torch.full((5, 4), -1e-7)
        log_probs[:, token], log_probs[:, 0] = 0, -1
        arguments = {"log_probs": log_probs, "improve": True}
        found = complete(Guessing([token] * 5), torch.tensor([0, 0, 0, 0, 1]), torch.arange(5) < 0, **arguments)
        assert found.answer.tolist() == [token] * 5 and found.proved


def test_the_draft_stays_where_the_solver_finds_nothing_likelier():
    """The judge alone knows two answers of 4**12: the draft, and a less likely one."""
    draft = torch.arange(12) % 4
    rule = Predicate(lambda answer: answer in (draft.tolist(), [3] * 12), 12, 4)
    log_probs = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    for budget in (1e-6, 0.01):
        found = complete(rule, draft, draft < 0, log_probs=log_probs, improve=True, budget=budget)
        assert torch.equal(found.answer, draft) and not found.proved and found.bound > found.score


class Wandering(Constraint):
    """One answer of 4**12, which no cut reveals; its repair is a long search that finds it from the third draft on."""

    length, num_classes = 12, 4

    def __init__(self, finds_at=3):
        self.finds_at, self.drafts = finds_at, []

    def is_satisfied(self, answer):
        return (answer == torch.arange(12) % 4).all(1)

    def repair(self, draft, candidates, log_probs):
        self.drafts.append(draft.tolist())
        return (torch.arange(12) % 4 if len(self.drafts) >= self.finds_at else None), 200_000


def test_a_long_repair_begins_again_from_other_drafts_where_the_solver_is_at_a_loss():
    start, known = torch.tensor([0] * 12), torch.arange(12) == 0
    rules = [Wandering(), Wandering()]
    for rule in rules:
        found = complete(rule, start, known, budget=1.0)
        assert found.answer.tolist() == [0, 1, 2, 3] * 3 and not found.exhausted
        assert found.nodes >= 600_000 and 0.3 < found.work < 0.8  # two repairs after the solver's share
        assert len(rule.drafts) == 3 and rule.drafts[1] != rule.drafts[2] and all(each[0] == 0 for each in rule.drafts)
    assert rules[0].drafts == rules[1].drafts
    never = Wandering(finds_at=99)
    found = complete(never, start, known, budget=1.0)
    assert found.answer is None and not found.exhausted and len(never.drafts) == 5  # 0.7 of 200,000 moves each
    short = Wandering(finds_at=99)
    complete(short, start, known, budget=1.0, time_limit=1e-9)
    assert not short.drafts


class Faulty(Vocabulary):
    """Cannot say what is likeliest, and cannot repair."""

    def most_likely(self, log_probs):
        raise MemoryError

    def repair(self, draft, candidates, log_probs):
        raise KeyError(3)


def test_a_search_goes_on_where_most_likely_and_repair_raise(caplog):
    rule = Faulty(torch.tensor([[[True, False, True], [False, True, True]]]))
    found = complete(rule, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool))
    assert found.answer is not None and rule.is_satisfied(found.answer[None]).all()
    assert "most_likely raised MemoryError" in caplog.text and "repair raised KeyError" in caplog.text
