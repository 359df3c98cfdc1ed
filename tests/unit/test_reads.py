"""`read` with a tokenizer of a checkpoint."""

import pytest
import torch

import constrained_dg
from constrained_dg.constraints import Regex
from constrained_dg.errors import InputError
from tests.fakes import Fake

textual = pytest.importorskip("tests.textual")


class Sure(Fake):
    """Knows one text, and is as sure of it as it is told."""

    vocab_size = textual.VOCAB
    canvas_length = 32

    def __init__(self, tokens: list[int], certainty: float) -> None:
        super().__init__()
        self.tokens, self.certainty = torch.tensor(tokens), certainty

    def logits(self, canvas, cache, signal):
        assert canvas.shape[1] == 32
        logits = torch.zeros(*canvas.shape, self.vocab_size)
        logits[:, torch.arange(len(self.tokens)), self.tokens] = self.certainty
        return logits


SLOTS = ["Urgent:", ["n", "y"], ", paid:", ["n", "y"]]


def test_what_a_model_is_sure_of_is_read():
    kind = textual.tokenizer()
    model = Sure(kind.encode("Urgent:y, paid:n"), 3.0)
    reading = constrained_dg.read(model, ["One.", "Another one."], SLOTS, tokenizer=kind, passes=3)
    assert reading.answers == [["y", "n"]] * 2 and model.calls == 3
    sure = 1 / (1 + torch.tensor(-3.0).exp().item())
    assert torch.allclose(reading.confidence, torch.full((2, 2), sure).double(), atol=1e-5)
    assert torch.allclose(reading.spread, torch.zeros(2, 2).double(), atol=1e-5)
    assert constrained_dg.read(model, "One.", SLOTS, tokenizer=kind).spread.isnan().all()


def test_a_rule_moves_what_is_read_jointly():
    kind = textual.tokenizer()
    model = Sure(kind.encode("Urgent:y, paid:n"), 3.0)
    same = Regex("nn|yy", ["n", "y"], 2)
    reading = constrained_dg.read(model, "One.", SLOTS, same, tokenizer=kind)
    assert torch.allclose(reading.probabilities, torch.full((1, 2, 2), 0.5).double(), atol=1e-5)
    assert reading.answers[0] in (["n", "n"], ["y", "y"])


def test_a_score_has_a_mean():
    kind = textual.tokenizer()
    reading = constrained_dg.read(Sure(kind.encode("score 4"), 50.0), "One.", ["score ", range(1, 6)], tokenizer=kind)
    assert reading.answers == [[4]] and reading.means.item() == pytest.approx(4.0)


def test_a_rule_over_other_slots_is_refused():
    kind = textual.tokenizer()
    with pytest.raises(InputError, match="the rule is over 3 positions and 2 classes; its positions are the 2 slots"):
        constrained_dg.read(Sure([1], 1.0), "One.", SLOTS, Regex("nnn", ["n", "y"], 3), tokenizer=kind)
