"""Text: the chat format, prompts side by side, and the task of a user's own pairs."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from constrained_dg.cli import load_sampler
from constrained_dg.constraints import Regex
from constrained_dg.errors import InputError
from constrained_dg.evaluation import check_sampler, solve
from constrained_dg.model import Backbone, preset
from constrained_dg.text import BOS, MULTIPLE, TURN, TURN_END, Tokenizer, pad_left
from tasks.sudoku import Sudoku
from tasks.sudoku.picture_task import PictureSudoku
from tasks.text import Pair, Text
from tests.textual import SPECIAL, VOCAB, raw_tokenizer, tokenizer, write_pairs

CANVAS = 8


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    return tokenizer()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl", 80)


@pytest.fixture
def task(pairs: Path, letters: Tokenizer) -> Text:
    return Text(str(pairs), prompt_length=64, canvases=4).in_text(letters, CANVAS)


# -- tokenizer --------------------------------------------------------------------------------------------------------


def test_a_chat_is_bos_turns_and_an_open_turn_of_the_model(letters: Tokenizer) -> None:
    tokens = letters.chat(" 1 2\n", "be brief")
    assert letters.raw.decode(tokens, skip_special_tokens=False) == (
        f"{BOS}{TURN}system\nbe brief{TURN_END}\n{TURN}user\n1 2{TURN_END}\n{TURN}model\n"
    )
    assert tokens[0] == letters.raw.token_to_id(BOS) and tokens.count(letters.raw.token_to_id(TURN)) == 3
    assert letters.raw.decode(letters.chat("1"), skip_special_tokens=False) == (
        f"{BOS}{TURN}user\n1{TURN_END}\n{TURN}model\n"
    )


@pytest.mark.parametrize("end", ["<eos>", "<turn|>"])
def test_an_answer_is_read_up_to_its_end(letters: Tokenizer, end: str) -> None:
    tokens = letters.encode(f"4 2 ü{end}7<eos>")
    assert letters.decode(tokens) == letters.decode(torch.tensor(tokens)) == "4 2 ü"
    assert letters.decode(letters.encode("4 2")) == "4 2"
    assert letters.fill([7], 3) == [7, letters.eos_id, letters.eos_id]


def test_settings_of_the_file_cut_and_pad_nothing(tmp_path: Path) -> None:
    raw = raw_tokenizer()
    raw.enable_truncation(3)
    raw.enable_padding(length=50)
    raw.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer.load(tmp_path, VOCAB).encode("1 2 3 4 5")) == 9


def test_a_tokenizer_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer\.json in"):
        Tokenizer.load(tmp_path, VOCAB)
    path = tmp_path / "tokenizer.json"
    raw_tokenizer().save(str(path))
    size = raw_tokenizer().get_vocab_size()
    assert Tokenizer.load(tmp_path, size).vocab_size == size
    with pytest.raises(InputError, match=rf"token ids up to {size - 1}, the model a vocabulary of {size - 1}"):
        Tokenizer.load(tmp_path, size - 1)
    path.write_text(path.read_text()[:500])
    with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path, VOCAB)
    with pytest.raises(InputError, match=r"has no <eos>, <turn\|>"):
        Tokenizer(raw_tokenizer([token for token in SPECIAL if token not in ("<eos>", TURN_END)]), VOCAB)


def fallback_tokenizer() -> Tokenizer:
    """As Gemma's: spaces written as U+2581, characters that it does not know as byte tokens."""
    import tokenizers

    bytes_alone = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [*bytes_alone, *"abcdefgh\u2581ü", "\u2581a", "ab", "abc", "\u2581\u2581", "<0xZZ>", "\ufffd"]
    model = tokenizers.models.BPE(
        {piece: index for index, piece in enumerate(["<unk>", *pieces])},
        [("\u2581", "a"), ("a", "b"), ("ab", "c"), ("\u2581", "\u2581")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    raw = tokenizers.Tokenizer(model)
    raw.normalizer = tokenizers.normalizers.Replace(" ", "\u2581")
    decoders = tokenizers.decoders
    raw.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    raw.add_special_tokens([token for token in SPECIAL if token != "<unk>"])
    raw.add_tokens(["<table>"])
    return Tokenizer(raw, VOCAB)


@pytest.mark.parametrize("make", [tokenizer, fallback_tokenizer])
@given(text=st.text())
@example("4 2 ü \u2581\n\t\x00 🙂 <0x41> abc  aab\ufffd")
def test_bytes_of_tokens_join_to_the_text(make, text: str) -> None:
    text = text.replace("<", "").replace("\u2581", "")  # special tokens, and the sign that stands for a space
    kind = _made(make)
    assert kind.texts().decode(kind.encode(text)) == text.encode()


_made = cache(lambda make: make())


@pytest.mark.parametrize("make", [tokenizer, fallback_tokenizer])
def test_special_and_unknown_tokens_are_not_text(make) -> None:
    kind = make()
    data = kind.texts()
    assert len(data) == VOCAB
    for token in SPECIAL:
        assert data[kind.raw.token_to_id(token)] is None
    known = set(kind.raw.get_vocab().values())
    assert [index for index in range(VOCAB) if index not in known and data[index] is not None] == []
    assert set(data) >= {bytes([byte]) for byte in range(256)}
    if make is fallback_tokenizer:
        index = kind.raw.token_to_id
        assert data[index("<0xC3>")] == b"\xc3"
        assert data[index("\u2581a")] == b" a" and data[index("<table>")] == b"<table>"
        assert data[index("<0xZZ>")] == b"<0xZZ>" and data[index("\ufffd")] == "\ufffd".encode()


def test_a_rule_over_the_texts_of_a_tokenizer_takes_text_alone() -> None:
    """`.` takes every character, also in two tokens, but no special token."""
    kind = fallback_tokenizer()
    rule = Regex("...", kind.texts(), 3)
    allowed = {index for index in range(VOCAB) for token in [torch.tensor([[index, 0, 0]])] if _starts(rule, token)}
    expected = {index for index, text in enumerate(kind.texts()) if text and len(text.decode(errors="ignore")) <= 3}
    assert allowed <= expected and {kind.raw.token_to_id(token) for token in ("a", "ü", "\u2581")} <= allowed
    assert rule.is_satisfied(torch.tensor([[kind.raw.token_to_id(token) for token in "aüb"]])).all()


def _starts(rule: Regex, token: torch.Tensor) -> bool:
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    by_class = rule.allowed(token, nothing, slice(0, 3))
    return bool(rule.of_tokens(by_class[0])[0, token[0, 0]])


def test_decoders_of_other_kinds_are_refused() -> None:
    import tokenizers

    raw = raw_tokenizer()
    raw.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(InputError, match="decoder has the step 'WordPiece'"):
        Tokenizer(raw, VOCAB).texts()


def test_prompts_are_padded_on_the_left_to_few_lengths() -> None:
    tokens, mask = pad_left([[5], [6, 7, 8]], pad=9)
    assert tokens.shape == mask.shape == (2, MULTIPLE)
    assert tokens[0].tolist() == [9] * (MULTIPLE - 1) + [5] and tokens[1, -4:].tolist() == [9, 6, 7, 8]
    assert mask.sum(1).tolist() == [1, 3] and mask[:, -1].all() and not mask[:, 0].any()
    assert pad_left([[1] * (MULTIPLE + 1)], 0)[0].shape == (1, 2 * MULTIPLE)


# -- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", r"line 2 is '\[1\]'"),
        ("[" * 100_000, "line 2 is not JSON"),
        ('{"prompt": ' + "9" * 5000 + ', "answer": "a"}', "line 2 is not JSON"),
        ('{"prompt": "a", "answer": "b\\ud800"}', r"line 2: 'answer' holds '\\ud800', half of a surrogate pair"),
        ('{"prompt": "a", "answer": [' + "1," * 5000 + "1]}", r"line 2: 'answer' is \[1, 1"),
        ('{"prompt": "a", "answer": "b", "' + "k" * 5000 + '": "c"}', "line 2 has an unknown key 'kkk"),
        ('{"prompt": "a"}', "line 2 has no 'answer'"),
        ('{"answer": "a"}', "line 2 has no 'prompt'"),
        ('{"prompt": 3, "answer": "a"}', "line 2: 'prompt' is 3"),
        ('{"prompt": "a", "answer": null}', "line 2: 'answer' is None"),
        ('{"prompt": " ", "answer": "a"}', "line 2: 'prompt' is empty"),
        ('{"prompt": "a", "answer": "b", "sytem": "c"}', "line 2 has an unknown key 'sytem'"),
        ('{"prompt": "a", "answer": "b", "system": 1}', "line 2: 'system' is 1"),
        (
            json.dumps({"prompt": "7 " * 80, "answer": "b"}),
            "line 2: the prompt has .* tokens; task.prompt_length is 64",
        ),
        (json.dumps({"prompt": "a", "answer": "7" * 32}), "line 2: the answer has 32 tokens .*; 4 canvases hold 32"),
    ],
)
def test_a_bad_line_is_named_with_its_number(line: str, named: str, tmp_path: Path, letters: Tokenizer) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n' + line + "\n")
    task = Text(str(path), prompt_length=64, canvases=4).in_text(letters, CANVAS)
    for use in (lambda: task.read(str(path)), lambda: task.held_out(1, 0)):
        with pytest.raises(InputError, match=f"pairs.jsonl {named}") as caught:
            use()
        assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_files_that_hold_nothing_to_learn_are_refused(tmp_path: Path, letters: Tokenizer) -> None:
    def refusal(content: bytes) -> str:
        path = tmp_path / "pairs.jsonl"
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            Text(str(path)).in_text(letters, CANVAS).train_batch(0, 2)
        return str(caught.value)

    assert "holds no pairs" in refusal(b"\n \n")
    assert "cannot be read" in refusal(b"\xff\xfe")
    held = next(f"p{n}" for n in range(100) if Pair.of(f"p{n}").held_out)
    other = next(f"p{n}" for n in range(100) if not Pair.of(f"p{n}").held_out)
    assert "none of the 1 pairs" in refusal(json.dumps({"prompt": held, "answer": "1"}).encode())
    assert "is held out" in refusal(json.dumps({"prompt": other, "answer": "1"}).encode())
    with pytest.raises(InputError, match="no file '/nowhere'"):
        Text("/nowhere").in_text(letters, CANVAS).held_out(1, 0)
    with pytest.raises(InputError, match="has no data"):
        Text().in_text(letters, CANVAS).held_out(1, 0)


@pytest.mark.parametrize("packed", [False, True])
def test_a_packed_file_and_a_byte_order_mark_are_read(packed: bool, tmp_path: Path, letters: Tokenizer) -> None:
    path = tmp_path / ("pairs.jsonl" + ".gz" * packed)
    data = '\ufeff{"prompt": "a", "answer": "b"}\r\n'.encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    [pair] = Text(str(path)).in_text(letters, CANVAS).read(str(path))
    assert (pair.prompt, pair.answer) == ("a", "b")


def test_a_prompt_that_cannot_be_written_is_refused(task: Text) -> None:
    for text in ("", " ", "a\udce4"):
        with pytest.raises(InputError, match=r"the prompt (is empty|holds)"):
            task.parse(text)


@pytest.mark.parametrize(
    "values", [{"prompt_length": 0}, {"canvases": 1.5}, {"canvases": 10**9}, {"seed": -1}, {"seed": 2**63}]
)
def test_settings_out_of_range_are_refused(values: dict) -> None:
    with pytest.raises(InputError, match=f"task.{next(iter(values))}"):
        Text("x", **values)


# -- training batches -------------------------------------------------------------------------------------------------


def test_equal_prompts_never_cross_and_a_tenth_is_held_out(tmp_path: Path, letters: Tokenizer) -> None:
    prompts = [f"number {n}" for n in range(300)]
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "answer": f"{n}"}) + "\n" for n in (1, 2) for p in prompts))
    task = Text(str(path)).in_text(letters, CANVAS)
    held = {pair.prompt for pair in task.held_out(1000, 0)}
    assert 15 < len(held) < 50 and len(task.held_out(1000, 0)) == 2 * len(held)
    trained = {pair.prompt for pair, *_ in task.pairs if not pair.held_out}
    assert not held & trained and len(held | trained) == 300
    few = task.held_out(5, 1)
    assert len(few) == 5 and few == task.held_out(5, 1) != task.held_out(5, 2)


def test_a_batch_is_a_pure_function_of_step_size_and_rank(pairs: Path, letters: Tokenizer, task: Text) -> None:
    again = Text(str(pairs), prompt_length=64, canvases=4).in_text(letters, CANVAS)
    again.train_batch(7, 3)

    def rows(of: Text, step: int, size: int = 16, rank: int = 0) -> list:
        return of.train_batch(step, size, rank).prompt.tolist()

    assert rows(task, 2) == rows(again, 2) and rows(task, 2) not in (rows(task, 3), rows(task, 2, rank=1))


def test_every_canvas_of_an_answer_is_learned_behind_the_clean_ones(task: Text) -> None:
    """Each row, put together again, is a training pair cut at a canvas boundary; all canvases are drawn."""
    known = {}
    for pair, prompt, answer in task.pairs:
        if not pair.held_out:
            known[tuple(prompt)] = answer
    seen = set()
    for step in range(40):
        batch = task.train_batch(step, 8)
        assert batch.prompt.shape[1] % MULTIPLE == 0 and not batch.pinned.any() and batch.noise == (0, VOCAB)
        for prompt, mask, canvas in zip(batch.prompt, batch.mask, batch.answer.tolist(), strict=True):
            assert (prompt[~mask] == task.blank_id).all() and (mask == mask.sort().values).all()
            tokens = prompt[mask].tolist()
            (start,) = [known_prompt for known_prompt in known if tuple(tokens[: len(known_prompt)]) == known_prompt]
            written = [*tokens[len(start) :], *canvas]
            answer = known[start]
            end = (len(answer) // CANVAS + 1) * CANVAS
            assert written == task.tokenizer.fill(answer, end)[: len(written)] and len(written) % CANVAS == 0
            seen.add((len(written) // CANVAS, end // CANVAS))
    assert {(1, 2), (2, 2)} <= seen


def test_an_answer_that_fills_its_canvas_gets_another_for_its_end(tmp_path: Path, letters: Tokenizer) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"p{n}", "answer": "7" * CANVAS}) + "\n" for n in range(50)))
    task = Text(str(path), canvases=2).in_text(letters, CANVAS)
    rows = torch.cat([task.train_batch(step, 8).answer for step in range(4)]).tolist()
    assert {tuple(row) for row in rows} == {tuple(letters.encode("7" * CANVAS)), (letters.eos_id,) * CANVAS}


# -- evaluation -------------------------------------------------------------------------------------------------------


def test_what_a_row_is_given_does_not_depend_on_the_rows_beside_it(task: Text) -> None:
    short, long = Pair.of("a", "b"), Pair.of("a " * 30, "b")
    pairs = [short, *[pair for pair in task.held_out(9, 0) if task.shape_of(pair) == task.shape_of(short)]]
    together = task.encode(pairs)
    for row, pair in enumerate(pairs):
        alone = task.encode([pair])
        assert torch.equal(alone.prompt[0], together.prompt[row]) and torch.equal(alone.mask[0], together.mask[row])
        assert alone.prompt.shape[1:] + alone.answer.shape[1:] == task.shape_of(pair)
    assert len(pairs) > 3 and task.shape_of(long) != task.shape_of(short)
    # The reference is nowhere in what a sampler sees.
    assert (together.answer == task.padding_id).all() and together.answer.shape[1] == 4 * CANVAS == task.max_canvas


def test_the_judge_compares_text_up_to_its_end(task: Text) -> None:
    pairs = [Pair.of("p", "4 2"), Pair.of("p", " 4 2\n"), Pair.of("p", "4 3"), Pair.of("p")]
    rule = task.constraint(pairs)
    letters = task.tokenizer
    answer = torch.tensor([letters.fill(letters.encode(" 4 2<eos>junk"), 4 * CANVAS)] * 4)
    assert rule.is_satisfied(answer).tolist() == [True, True, False, False]
    blamed = rule.violations(answer)
    assert blamed.any(1).tolist() == [False, False, True, True]
    assert rule.explain(answer) == [[], [], ["the reference is '4 3'"], ["there is no reference answer"]]
    assert rule.select(torch.tensor([2, 0])).is_satisfied(answer[:2]).tolist() == [False, True]
    assert type(rule).stack([rule, rule]).rows == 8
    assert rule.allowed(answer, torch.zeros_like(answer, dtype=torch.bool), slice(0, 3)).all()
    assert rule.vocab_size == VOCAB and rule.of_tokens(torch.ones(2, 1)).shape == (2, VOCAB)


def test_text_stays_on_one_line_in_a_table_and_whole_in_a_terminal(task: Text) -> None:
    pair = Pair.of('say "1"\nand 2')
    assert pair.text == 'say "1"\\nand 2' and task.parse("p").answer is None
    answer = torch.tensor(task.tokenizer.fill(task.tokenizer.encode("1\n2"), 4 * CANVAS))
    assert task.decode(pair, answer) == "1\\n2" and task.draw(pair, answer) == "1\n2"
    garbage = torch.arange(4 * CANVAS) + VOCAB - 4 * CANVAS  # the last of them the tokenizer does not know
    assert isinstance(task.decode(pair, garbage), str)


@pytest.mark.parametrize("name", ["validity", "guaranteed", "search", "candidates", "symmetry"])
def test_samplers_that_read_rules_are_refused(name: str, task: Text) -> None:
    with pytest.raises(InputError, match=f"{name!r} reads the rules"):
        solve(None, task, load_sampler(name), task.held_out(1, 0), batch_size=1, seed=0)
    check_sampler(Sudoku({4: 1.0}, puzzles=10), load_sampler(name))
    check_sampler(task, load_sampler("plain"))
    check_sampler(task, load_sampler("autoregressive"))


def test_samplers_that_need_what_a_task_has_not_are_refused() -> None:
    alone = Sudoku({4: 1.0}, puzzles=10, prompt=False)
    with pytest.raises(InputError, match="sampler 'autoregressive' needs a prompt: problems of this 'sudoku' stand in"):
        check_sampler(alone, load_sampler("autoregressive"))
    with pytest.raises(InputError, match="sampler 'views' without pictures: 'sudoku' has none"):
        check_sampler(alone, load_sampler("views"))
    with pytest.raises(InputError, match="sampler 'sets' was given no symmetries: 'sudoku/picture' has none"):
        check_sampler(PictureSudoku(puzzles=10), load_sampler("sets"))
    check_sampler(alone, load_sampler("sets"))


class Speller(Backbone):
    """Certain of one text, canvas after canvas, whatever it is shown."""

    def __init__(self, task: Text, text: str) -> None:
        super().__init__(preset("tiny", vocab_size=VOCAB, canvas_length=CANVAS))
        self.init_weights(torch.Generator().manual_seed(0))
        self.predicted = torch.tensor(task.tokenizer.fill(task.tokenizer.encode(text), task.max_canvas))

    def denoise(self, canvas, cache, signal=None, relations=None):
        from_prompt = cache.length - cache.length // MULTIPLE * MULTIPLE
        window = self.predicted[from_prompt : from_prompt + canvas.shape[1]]
        return 50.0 * torch.nn.functional.one_hot(window, VOCAB).float().expand(len(canvas), -1, -1).contiguous()


def test_answers_of_several_canvases_are_solved_by_comparison_alone(task: Text) -> None:
    text = "one two three four"
    assert CANVAS < len(task.tokenizer.encode(text)) < 4 * CANVAS
    problems = [Pair.of("p", text), Pair.of("p", "something else"), Pair.of("q r s", text)]
    outcomes = solve(Speller(task, text), task, load_sampler("plain"), problems, batch_size=2, seed=0)
    assert [outcome.solved for outcome in outcomes] == [True, False, True]
    assert {outcome.answer for outcome in outcomes} == {text}
    assert outcomes[0].violations == 0 < outcomes[1].violations
    # Canvases behind the end are not denoised.
    assert outcomes[0].passes < 2 * 4
