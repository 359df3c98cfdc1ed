import pytest
import torch

from constrained_dg.errors import InputError
from constrained_dg.sampling import Autoregressive, Guide, Status, generate
from tests.fakes import GRIDS, VOCAB, Fake, FakeCache, sudoku_batch


class Reader(Fake):
    """Continues with the solution of its row, one token a call; the cache is written in place."""

    def prefill(self, prompt, mask=None, relations=None):
        self.fed = prompt
        return FakeCache(prompt[:, 0], prompt.shape[1])

    def next_token(self, tokens, cache, relations=None):
        self.calls += 1
        self.fed = torch.nn.functional.pad(self.fed, (0, 1))
        self.fed[cache.row, -1:] = tokens  # row i asks for grid i
        return 9.0 * torch.nn.functional.one_hot(GRIDS[cache.row, self.fed.shape[1] - 2], VOCAB)


NO_CLUES = torch.zeros(3, 16, dtype=torch.bool)


def test_left_to_right_reads_what_it_wrote():
    batch, rules = sudoku_batch([0, 1, 2], NO_CLUES)
    model = Reader()
    result = Autoregressive().run(model, batch, rules)
    assert torch.equal(result.tokens, GRIDS) and result.status == [Status.SOLVED] * 3
    assert result.passes.tolist() == [16] * 3 and model.calls == 16
    assert torch.equal(model.fed, torch.cat([batch.prompt, GRIDS[:, :-1]], 1))
    expected = 16 * (9 - torch.tensor([9.0, *[0] * 6]).logsumexp(0))
    assert torch.allclose(result.log_probability, expected, rtol=1e-4)


def test_pinned_cells_are_forced_and_not_counted():
    batch, rules = sudoku_batch([0, 1, 2], NO_CLUES | (torch.arange(16) < 15))
    result = Autoregressive().run(Fake(), batch, rules)
    assert torch.equal(result.tokens[:, :15], GRIDS[:, :15]) and result.free_tokens.tolist() == [1] * 3
    assert torch.allclose(result.log_probability, -torch.tensor(float(VOCAB)).log())


def test_the_end_of_an_answer():
    prompt = torch.tensor([[0, 5], [1, 5]])
    result = generate(Reader(), prompt, sampler=Autoregressive(), canvas_length=8, eos=4, pad=0)
    assert result.tokens.tolist() == [[1, 2, 3, 4, 0, 0, 0, 0], [2, 1, 4, 0, 0, 0, 0, 0]]
    assert result.free_tokens.tolist() == [4, 3] and result.passes.tolist() == [4, 3]


def test_each_pass_is_recorded_as_a_canvas_of_one_token():
    batch, rules = sudoku_batch([0, 1, 2], NO_CLUES | (torch.arange(16) < 2))
    heard = []
    result = Autoregressive(guide=Guide(masks=True)).run(Fake(), batch, rules, trace=True, on_step=heard.append)
    assert len(result.trace) == 16 and all(a is b for a, b in zip(result.trace, heard, strict=True))
    for at, record in enumerate(result.trace):
        assert (record.start, record.pass_index, record.rows.tolist()) == (at, 0, [0, 1, 2])
        assert torch.equal(record.best[:, 0], result.tokens[:, at]) and record.stopped.all()
        assert record.accepted.tolist() == [[at >= 2]] * 3 and not record.renoised.any()
        before = torch.where(torch.arange(16) < at, result.tokens, 0)
        known = batch.pinned | (torch.arange(16) < at)
        allowed = rules.allowed(
            torch.where(known, torch.where(batch.pinned, batch.answer, before), 1), known, slice(at, at + 1)
        )
        may = allowed[:, 0].sum(-1)
        assert torch.equal(record.conflict[:, 0], (may == 0) & (at >= 2))
        wide = torch.where(may == 0, VOCAB, may).float()
        assert torch.allclose(record.entropy[:, 0], wide.log(), atol=1e-5), "uniform logits under the masks"


def test_rows_that_have_ended_are_in_no_record():
    prompt, heard = torch.tensor([[0, 5], [1, 5]]), []
    options = {"canvas_length": 8, "eos": 4, "pad": 0, "on_step": heard.append}
    result = generate(Reader(), prompt, sampler=Autoregressive(), **options)
    assert [record.rows.tolist() for record in heard] == [[0, 1]] * 3 + [[0]]
    assert result.passes.tolist() == [4, 3]


def test_a_prompt_of_one_token_is_refused():
    with pytest.raises(InputError, match="fewer than 2 tokens"):
        generate(Fake(), torch.zeros(1, 1, dtype=torch.int64), sampler=Autoregressive(), canvas_length=4)


def test_with_masks_each_token_is_one_that_the_rules_allow_behind_those_before_it():
    batch, rules = sudoku_batch([0, 1, 2], NO_CLUES | (torch.arange(16) % 3 == 0))
    result = Autoregressive(guide=Guide(masks=True)).run(Fake(), batch, rules)
    for at in range(16):
        known = batch.pinned | (torch.arange(16) < at)
        allowed = rules.allowed(result.tokens, known, slice(at, at + 1))[:, 0]
        written = rules.class_of(result.tokens[:, at])
        # Equal logits: the first allowed token; where the rules leave none, the mask is lifted.
        expected = torch.where(allowed.any(-1), allowed.int().argmax(-1), written)
        assert torch.equal(torch.where(batch.pinned[:, at], written, expected), written)


def test_masks_need_rules_and_a_guide_must_be_one():
    plain, masked = Autoregressive(), Autoregressive(guide=Guide(masks=True))
    batch, _ = sudoku_batch([0, 1, 2], NO_CLUES)
    assert torch.equal(masked.run(Reader(), batch).tokens, plain.run(Reader(), batch).tokens)
    assert plain.rule_uses == () and masked.rule_uses == ("guide",)
    with pytest.raises(InputError, match="guide is True"):
        Autoregressive(guide=True)
