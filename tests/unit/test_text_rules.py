"""Rules on text over tokens: JSON, grammars, holes, the cache, what is refused, and `generate` with a tokenizer."""

import json
import re
from enum import Enum
from functools import reduce

import pytest
import torch

from constrained_dg import generate, solve
from constrained_dg.constraints import Count, Grammar, Holes, Json, Regex, json_text
from constrained_dg.constraints.language.pattern import matches
from constrained_dg.errors import InputError
from constrained_dg.sampling import Status
from constrained_dg.texts import Texts
from tests.fakes import Fake

BYTES = [bytes([byte]) for byte in range(256)]
#: Bytes, some longer texts, and an end and padding that are no text.
TEXTS = Texts([*BYTES, b'{"', b'": ', b", ", b'", "', b"true", b"name", b'"}', "é".encode(), None, None])
END = ([264], 265)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def written(rule, length: int, seed: int = 0) -> str:
    """The likeliest answer under a random distribution."""
    scores = torch.randn(1, length, rule.num_classes, generator=torch.Generator().manual_seed(seed))
    classes, exists = rule.most_likely(scores)
    assert exists.all()
    return TEXTS.decode(rule.tokens_of(classes)[0].tolist()).decode()


def test_answers_fit_the_schema_and_keep_its_order():
    rule = Json(PERSON, TEXTS, 40, END)
    for seed in range(20):
        answer = json.loads(written(rule, 40, seed))
        assert list(answer) == ["name", "age"] and len(answer["name"]) <= 5 and 0 <= answer["age"] <= 120
    assert json_text({"age": 7.0, "name": "é\n"}, PERSON) == '{"name": "é\\n", "age": 7}'


def test_a_rule_on_text_joins_others():
    rule = Json(PERSON, TEXTS, 40, END) & Count([ord("7")], 2, 2, 40, len(TEXTS))
    answer = solve(rule)
    assert answer.status == [Status.SOLVED]
    text = TEXTS.decode(answer.tokens[0].tolist()).decode()
    assert text.count("7") == 2 and set(json.loads(text)) == {"name", "age"}


def test_types_and_models_are_schemas():
    from pydantic import BaseModel

    class Colour(Enum):
        RED = "red"
        BLUE = "blue"

    class Car(BaseModel):
        colour: Colour
        doors: int

    assert Colour(json.loads(written(Json(Car, TEXTS, 40, END), 40))["colour"])
    assert written(Json(Colour, TEXTS, 9, END), 9) in ('"red"', '"blue"')
    assert isinstance(json.loads(written(Json(list[bool], TEXTS, 12, END), 12)), list)


def test_two_rules_that_begin_with_themselves_and_each_other_nest_to_a_depth():
    """Each alone is a repeat; together they are recursion, which counts."""
    rule = Grammar('start: x\nx: x "a" | y\ny: y "b" | x "c" | "d"', ["a", "b", "c", "d", ""], 5, recursion=3)
    texts = ["d", "dcc", "daaba", "dbca", "dacac", "ad", "dd", "cd"]
    answers = torch.tensor([["abcd".index(each) for each in text] + [4] * (5 - len(text)) for text in texts])
    assert rule.is_satisfied(answers).tolist() == [True, True, False, True, True, False, False, False]


def test_grammars_repeat_freely_and_nest_to_a_depth():
    grammar = """
        start: sum
        sum: value ("+" value)*
        value: DIGIT+ | "(" sum ")"
        DIGIT: /[0-9]/
        %ignore " "
    """
    rule = Grammar(grammar, TEXTS, 30, END, recursion=2)

    def fits(text: str) -> bool:
        tokens = torch.tensor([[*text.encode(), *[264] * (30 - len(text))]])
        return bool(rule.is_satisfied(tokens))

    assert fits("1+2+3+4+5+67") and fits("(1+2) + 3") and not fits("1+") and not fits("((1))")


def test_a_terminal_may_look_around_within_itself_alone():
    """Lark matches terminals within the text, so that what one sees beyond its ends would count."""
    rule = Grammar("start: S S\nS: /<.*?(?<!a)>|(?=.b)ab\\B[bc]/", ["<", "a", "b", ">", "c", ""], 8)
    texts = {"<><b>": True, "<a><>": False, "<a>>abb": True, "abcabb": True, "ab<>": False}
    answers = torch.tensor([["<ab>c".index(each) for each in text] + [5] * (8 - len(text)) for text in texts])
    assert rule.is_satisfied(answers).tolist() == list(texts.values())


@pytest.mark.parametrize("pattern", [r"ab\b", "^ab", "(?<!a)b", "b(?!a)", r"\Bb", "(?m:ab$)", "a(?=b)"])
def test_a_terminal_that_depends_on_the_text_around_it_is_refused(pattern):
    with pytest.raises(InputError, match="terminal A matches depends on the text around it"):
        Grammar(f"start: (A | B)*\nA: /{pattern}/\nB: /[ab]/", ["a", "b", ""], 5)


def test_holes_keep_what_is_given():
    rule = Holes(["def f(", Regex("[a-z]{1,3}"), "):\n    return ", None, "\n"], TEXTS, 48, END)
    for seed in range(5):
        text = written(rule, 48, seed)
        head, _, rest = text.partition("(")
        assert head == "def f" and rest.partition(")")[2].startswith(":\n    return ") and text.endswith("\n")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Json({"minimum": 3, "maximum": 1, "type": "integer"}, TEXTS, 9), "no text fits the schema"),
        (lambda: Json(PERSON, TEXTS, 9, END), "needs at least 11 tokens, and there are 9"),
        (lambda: Json({"type": "nothing"}, TEXTS, 9), "the schema is not valid"),
        (lambda: Json("{", TEXTS, 9), "the schema is not JSON"),
        (lambda: Json(3, TEXTS, 9), "has no schema|the schema is"),
        (lambda: Json({"$schema": "https://example.com/own"}, TEXTS, 9), r"\$schema is 'https://example.com/own'"),
        (lambda: Json({"$ref": "other.json"}, TEXTS, 9), r"uses \$ref, and 'other.json' leads nowhere"),
        (lambda: Json({"allOf": [{"$ref": "#"}]}, TEXTS, 9), "recursion without a bound"),
        (lambda: Json({"unevaluatedItems": False}, TEXTS, 9), "uses unevaluatedItems"),
        (lambda: Json({"multipleOf": 0.5}, TEXTS, 9), "uses multipleOf, and 0.5"),
        (lambda: Json({"format": "regex", "type": "string"}, TEXTS, 9), "uses format, 'regex'"),
        (lambda: Json({"uniqueItems": True, "type": "array"}, TEXTS, 9), "uses uniqueItems"),
        (lambda: Json(True, TEXTS, 9, depth=99), "depth is 99"),
        (lambda: Json({"type": "boolean"}, ["t", "r", "u", "e"], 5, END), r"end is \(\[264\], 265\)"),
        (lambda: Json({"const": 1}, ["a", "b"], 5), "none writes b'1'"),
        (lambda: Json(True, TEXTS), "texts and length go together"),
        (lambda: Json(True).is_satisfied(torch.zeros(1, 1)), "has no texts yet"),
        (lambda: Grammar("start: x", TEXTS, 5), "the grammar cannot be read"),
        (lambda: Grammar('start: "a"', TEXTS, 5, recursion=0), "recursion is 0"),
        (lambda: Holes([], TEXTS, 5), "a part is missing"),
        (lambda: Holes([3], TEXTS, 5), r"a part is \[3\]"),
        (lambda: Json({"const": {1}}, TEXTS, 9), "the schema is not JSON"),
        (lambda: Json('{"maximum": 1e999}', TEXTS, 9), "inf is no number of JSON"),
        (lambda: json_text({1, 2}), r"\{1, 2\} is no JSON"),
        (lambda: json_text([{1: 2}]), r"the instance has keys such as \[1\]"),
        (lambda: json_text(reduce(lambda inner, _: [inner], range(5000), 1)), "nested too deeply"),
        (lambda: Regex(b"a", TEXTS, 5), "the pattern is b'a'"),
        (lambda: Regex("a", [], 5), "there are no texts"),
        (lambda: Regex("a", TEXTS, "5"), "length is '5'"),
        (lambda: Regex("a{20}", BYTES, 9), "needs at least 20 tokens, and there are 9"),
        (lambda: Regex("(a{1000}){1000}", BYTES, 9), "no text fits the pattern .* within 9 tokens"),
        (lambda: Regex("a+", ["a", "b", "b"], 9, ([0], 2)), "the tokens write no text that fits"),
        (lambda: Regex("(?!)", BYTES, 9), "no text fits the pattern"),
        (lambda: Grammar(3, TEXTS, 5), r"the grammar or its start is \[3\]"),
        (lambda: Holes(None, TEXTS, 5), "the parts are None"),
        (lambda: Holes(["\ud800"], TEXTS, 5), r"a part is \['\\ud800'\]"),
        (lambda: Texts(["a", 3]), r"a token writes \[3\]"),
    ],
)
def test_what_cannot_be_made_is_named(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_a_rule_comes_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONSTRAINED_DG_CACHE", str(tmp_path))
    texts = Texts([*TEXTS, *[f"word {number}" for number in range(5000)]])
    first = Json(PERSON, texts, 40, END)
    files = list(tmp_path.glob("*.npz"))
    assert len(files) == 1
    monkeypatch.setattr("constrained_dg.constraints.language.cache.TokenAutomaton.of", None)  # must not be called
    again = Json(PERSON, texts, 40, END)
    answers = torch.randint(256, (50, 40), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.is_satisfied(answers), first.is_satisfied(answers))
    assert torch.equal(again.classes.table, first.classes.table) and again.machine.states == first.machine.states
    monkeypatch.undo()
    monkeypatch.setenv("CONSTRAINED_DG_CACHE", str(tmp_path))
    files[0].write_bytes(b"cut short")
    assert Json(PERSON, texts, 40, END).machine.states == first.machine.states


def test_generate_takes_a_schema_a_tokenizer_and_a_text():
    tokenizers = pytest.importorskip("tokenizers")
    assert tokenizers
    from tests.textual import VOCAB, tokenizer

    class Text(Fake):
        vocab_size = VOCAB
        canvas_length = 32

        def logits(self, canvas, cache, signal):
            return torch.zeros(*canvas.shape, self.vocab_size)

        def self_condition(self, probabilities, mask=None):
            return None

    kind = tokenizer()
    answer = generate(
        Text(),
        ["Who?", "And who is that?"],
        Json(PERSON),
        tokenizer=kind,
        guarantee=True,
        max_passes=2,
        max_new_tokens=64,
    )
    assert answer.status == [Status.SOLVED] * 2
    for row in answer.tokens:
        assert set(json.loads(kind.decode(row))) == {"name", "age"}
    with pytest.raises(InputError, match="the pattern 'a' has no texts"):
        generate(Text(), [[1, 2]], Regex("a"))
    with pytest.raises(InputError, match="the prompt is the text 'Who"):
        generate(Text(), "Who?")


class Never(Fake):
    """A model of the small tokenizer that counts its passes."""

    canvas_length = 8

    @property
    def vocab_size(self):
        from tests.textual import VOCAB

        return VOCAB


DEEP = {"type": "object", "properties": {"in": {"$ref": "#"}}, "required": ["in"]}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda: Json({"type": "string", "enum": [1, 2]}), "no text fits the schema"),
        (lambda: Json({"allOf": [{"minimum": 3}, {"maximum": 2}], "type": "integer"}), "no text fits the schema"),
        (lambda: Json(DEEP), "no text fits the schema"),
        (
            lambda: Json({"type": "array", "items": {"type": "integer"}, "minItems": 9}),
            "needs at least 27 tokens, and there are 8",
        ),
        (lambda: Json({"minimum": "three"}), "the schema is not valid"),
        (lambda: Json({"anyOf": [{"$ref": "#"}, {"type": "null"}]}), "recursion without a bound"),
        (lambda: Json({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), "recursion without a bound"),
        (lambda: Regex("a{9}"), "needs at least 9 tokens, and there are 8"),
        (lambda: Holes(["a long text that does not fit", None]), "needs at least"),
    ],
)
def test_a_rule_that_cannot_be_met_is_refused_before_the_first_pass(rule, words):
    pytest.importorskip("tokenizers")
    from tests.textual import tokenizer

    model = Never()
    with pytest.raises(InputError, match=words) as caught:
        generate(model, "Who?", rule(), tokenizer=tokenizer())
    assert model.calls == 0 and "\n" not in str(caught.value)


def test_a_vocabulary_without_a_byte_is_named_before_the_first_pass():
    with pytest.raises(InputError, match=r"the tokens write no text that fits the schema: none writes b'\{'"):
        Json({"type": "object"}, ["a", "b", '"'], 5)


def test_a_rule_that_waits_can_be_shown():
    assert repr(Json(True)) == "<Json that waits for texts>" and "9 positions" in repr(Regex("a*", TEXTS, 9, END))


REPEATS = ["[a-z]{1,1000}", "(?:ab|cd){1000}", ".{0,1000}", "(?:abc|a|b){1,1000}", "(?i:k){1000}", "(?:é|漢|🙂){1000}"]
LARGE = [r"\w{1000}", "(?:a{1,1000}){1,1000}", "(?:a|b)*a(?:a|b){1000}", r"(?:[^\d\s]{1,1000},){1000}"]


@pytest.mark.parametrize("pattern", REPEATS)
def test_counted_repeats_up_to_a_thousand_are_exact(pattern):
    dfa = matches(pattern)
    for text in ("a", "ab", "k", "é🙂", "漢", "abc"):
        for times in (0, 1, 499, 500, 999, 1000, 1001):
            written = text * times
            assert dfa.accepts(written.encode()) == (re.fullmatch(pattern, written) is not None)


@pytest.mark.parametrize("pattern", LARGE)
def test_repeats_that_are_too_large_are_refused_by_size(pattern):
    with pytest.raises(InputError, match=r"needs more than [0-9,]+ states"):
        matches(pattern)


@pytest.mark.parametrize(
    "rule, said",
    [
        (lambda: Regex("a" * 200_000), r"'a{200}'\.\.\. has 200,000 characters; write at most 131,072"),
        (lambda: Regex("(" + "a" * 9999), r"^'\(a{199}'\.\.\. is not a valid regular expression"),
        (lambda: Json({"anyOf": [{} for _ in range(9000)]}).compiled, "holds 9,001 objects; write at most 8,192"),
        (lambda: Json({"items": [{"maximum": float("nan")}]}).compiled, "nan is no number of JSON"),
        (lambda: Json('{"default": -Infinity}').compiled, "-inf is no number of JSON"),
    ],
)
def test_what_is_too_large_or_no_json_is_refused_by_its_size_or_value(rule, said):
    with pytest.raises(InputError, match=said) as refused:
        rule()
    assert len(str(refused.value)) < 400


def test_an_automaton_with_too_many_moves_over_a_vocabulary_is_refused(monkeypatch):
    monkeypatch.setattr("constrained_dg.constraints.language.vocabulary.MOST_MEMBERS", 1000)
    assert Regex("[^a]" * 3).over(TEXTS, 4, END)
    with pytest.raises(InputError, match="more than 1,000 moves on the tokens of this vocabulary"):
        Regex("".join(f"[^{letter}]" for letter in "abcdefghijkl")).over(TEXTS, 14, END)
