"""Requirements of amino-acid sequences and the tasks around them, against `re` and Biopython."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constrained_dg.constraints import Count, check_constraint, complete
from constrained_dg.constraints.guarded import contradictory
from constrained_dg.errors import InputError
from constrained_dg.evaluation import solve, summarise
from constrained_dg.model import Backbone, preset
from constrained_dg.sampling import Search
from constrained_dg.sampling.base import Status
from constrained_dg.sampling.named import named
from constrained_dg.task import without_colors
from experiments.amino_acid.rule_sets.contradictions import unsatisfiable
from tasks.amino_acid import Design, Infill, Peptides, kmer, natural, properties, rule_sets
from tasks.amino_acid.files import read_fasta
from tasks.amino_acid.judge import broken
from tasks.amino_acid.prompts import prompt_of
from tasks.amino_acid.prosite import parse_pattern
from tasks.amino_acid.residues import EOS, NOISE, OPEN, RESIDUES, VOCABULARY, sequence_of, tokens_of
from tasks.amino_acid.rules import rule_of
from tasks.amino_acid.specification import Requirements, parse_requirements

FULL = (
    "length=30 contains=N-{P}-[ST]-{P} at=3:[KR]-K avoids=C composition=KR:3..8 charge=1..5 hydropathy=-2..0.5 "
    "mass=..4500"
)
sequences = st.text(RESIDUES, min_size=1, max_size=40)


def solved(text: str, seed: int = 0, budget: int = 64) -> tuple[str | None, bool]:
    """What the completer makes of requirements from random log-probabilities, and whether it proved that none is."""
    requirements = parse_requirements(text)
    tokens, given_ = requirements.pinned()
    scores = torch.randn(requirements.canvas, VOCABULARY, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    made = complete(rule_of(requirements), torch.tensor(tokens), torch.tensor(given_), log_probs=scores, budget=budget)
    return None if made.answer is None else sequence_of(made.answer.tolist()), made.exhausted


def random_model() -> Backbone:
    return Backbone(preset("tiny", vocab_size=VOCABULARY, canvas_length=256)).init_weights(
        torch.Generator().manual_seed(0)
    ).eval()  # fmt: skip


@given(sequences)
def test_sums_are_those_of_biopython(sequence):
    from Bio.SeqUtils import molecular_weight
    from Bio.SeqUtils.ProtParam import ProteinAnalysis

    analysis = ProteinAnalysis(sequence)
    assert properties.charge(sequence) == pytest.approx(analysis.charge_at_pH(7.0), abs=1e-9)
    assert properties.hydropathy(sequence) == pytest.approx(analysis.gravy(), abs=1e-9)
    assert properties.mass(sequence) == pytest.approx(molecular_weight(sequence, "protein"), abs=1e-6)
    mono_mass = molecular_weight(sequence, "protein", monoisotopic=True)
    assert properties.mono_mass(sequence) == pytest.approx(mono_mass, abs=1e-6)
    for ph in (0, 4.2, 7.4, 14):
        assert properties.charge(sequence, ph) == pytest.approx(analysis.charge_at_pH(ph), abs=1e-9)


@given(sequences, st.integers(0, 30))
def test_tokens_and_back(sequence, more):
    tokens = tokens_of(sequence, len(sequence) + more)
    assert sequence_of(tokens) == sequence and tokens.count(EOS) == more


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        "length=12..20 composition=KR:20%..30% composition=DE:..3 hydropathy=..0.5",
        "sequence=MK??A?? kind=other charge=0.5.. contains=A-x",
        "length=5 mass=500..600.25 charge=-1",
        "length=9 charge=2..5@7.4 mono_mass=900..1000.5",
        "length=9 charge=..5@0 contains=<{C}*>",
    ],
)
def test_a_line_of_requirements_says_the_same_again(text):
    assert parse_requirements(parse_requirements(text).text) == parse_requirements(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no length", "length=40"]),
        ("length=0", ["length=0..0", "1 to 250"]),
        ("length=40..30", ["length=40..30"]),
        ("length=251", ["251", "250"]),
        ("length=3.5", ["length=3.5", "whole"]),
        ("length=40 length=30", ["length= is given twice"]),
        ("length=40 color=red", ["'color=red'", "contains="]),
        ("length=40 avoids", ["'avoids'"]),
        ("length=40 contains=J-x", ["'J'", "not a residue"]),
        ("length=40 contains=A--C", ["A--C", "PROSITE"]),
        ("length=5 contains=A-x(8)-C", ["A-x(8)-C needs 10 residues", "at most 5"]),
        ("length=11 at=8:A-x(3)-C", ["at=A-x(3)-C needs 12 residues", "at most 11"]),
        ("length=40 at=x:A", ["at=x:A"]),
        ("length=40 composition=KR", ["composition=KR"]),
        ("length=40 composition=KB:3..8", ["composition of 'KB'"]),
        ("length=40 composition=K:8..3", ["composition=K:8..3", "smaller number first"]),
        ("length=40 composition=K:50..60", ["composition=K:50..60", "at most 40"]),
        ("length=40 charge=5..2", ["charge=5..2", "smaller number first"]),
        ("length=40 charge=..", ["charge=.."]),
        ("length=40 mass=heavy", ["mass=heavy", "two numbers"]),
        ("length=40 kind=virus", ["kind=virus", "antimicrobial"]),
        ("sequence=MKXA", ["unknown residue", "X", "?"]),
        ("sequence=MK?A length=9", ["4 residues", "length=9"]),
        ("length=40 charge=2..5@", ["charge=2..5@", "only a charge has a pH"]),
        ("length=40 charge=2..5@15", ["pH 15", "0 to 14"]),
        ("length=40 hydropathy=1@7.4", ["hydropathy=1@7.4", "only a charge has a pH"]),
        ("length=40 charge=2.3.4", ["charge=2.3.4", "two numbers"]),
        ("length=40 mass=5e3", ["mass=5e3", "two numbers"]),
        ("length=40 at=" + "9" * 5000 + ":A", ["at=999", "a position up to"]),
        ("length=40 at=²:A", ["at=²:A"]),
        ("length=" + "9" * 5000, ["length=999", "12 digits"]),
        ("length=40 charge=" + "9" * 5000 + "..", ["charge=999", "12 digits"]),
        ("length=40 " + "x" * 5000, ["requirement 'xxx"]),
        ("length=40 contains=A(" + "9" * 5000 + ")", ["bad repetition"]),
        ("length=40 composition=K:3.2..3.8 composition=K:41", ["composition=K:41"]),
    ],
)
def test_bad_requirements_are_named_in_one_line(text, words):
    with pytest.raises(InputError) as error:
        parse_requirements(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    for word in words:
        assert word in str(error.value)


#: A zinc finger: 12,955 states.
PS00028 = "C-x(2,4)-C-x(3)-[LIVMFYWC]-x(8)-H-x(3,5)-H"


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        "length=20..40 contains=C-x(2,4)-C avoids=N-{P}-[ST]-{P} composition=KR:20%..30% charge=3..6 hydropathy=..0.5",
        "length=25..30 hydropathy=0.1..0.15 charge=1.2..1.6",
        "sequence=MK????????C?????W?? contains=H-x-H charge=2..4 avoids=C-x(3)-C",
        "length=30..34 charge=0..0.4@5.5 mono_mass=3500..3500.5 contains=<{C}*>",
        "length=100 contains=G-[LIVM]-x(3)-E-[LIV]-T-[LF]-R charge=-3..-2 hydropathy=-0.2..-0.15 mass=11000..11010",
        f"length=40..60 contains={PS00028}",
        f"length=50 contains={PS00028} charge=3..5 hydropathy=-0.3..-0.2",
    ],
)
@pytest.mark.parametrize("seed", [0])
def test_what_the_completer_finds_keeps_all_by_biopython_and_re(text, seed):
    sequence, _ = solved(text, seed)
    assert sequence is not None and broken(parse_requirements(text), sequence) == []


@pytest.mark.parametrize(
    "text",
    [
        "length=30 avoids=A composition=A:1..3",
        "length=30 contains=C-x-C avoids=C",
        "length=30 composition=KR:60%..100% composition=DE:45%..100%",
        "length=30 composition=KRH:0..2 charge=4.5..9",
        "length=8 contains=A-A-A-A-A contains=W-W-W-W-W",
        "length=9 contains=<{C}*> contains=C",
        "length=9 composition=K:3.2..3.8",
        "length=10..20 composition=W:90%..100% mass=..1500",
        "sequence=CC???? avoids=C",
        f"length=30 contains={PS00028} composition=H:0..1",
        f"length=24 contains={PS00028} hydropathy=4.2..",
        # Each two of these three are possible together (experiments/amino_acid/rule_sets/joint.py).
        "length=120 composition=KR:29.18%..100% hydropathy=1.475.. mass=16248.954..",
        "length=53 contains=[GWC]-x(3,6)-[K]-x(5,6)-[IFL]-x(4,5)-[QLI] mass=9756.0787..",
    ],
)
def test_what_contradicts_itself_is_proved_so(text):
    assert solved(text) == (None, True)
    made = solve(None, Design(), Search(), [Design().parse(text)], batch_size=1, seed=0)
    assert made[0].status is Status.UNSATISFIABLE


@settings(max_examples=8)
@given(st.integers(0, 2**32), st.sampled_from(rule_sets.RULES))
def test_the_planted_sequence_meets_its_requirements(seed, rules):
    draws = np.random.default_rng(seed)
    pool = natural.uniprot(True)
    sequence = pool[int(draws.integers(len(pool)))][:80]
    requirements = rule_sets.planted(sequence, rules, draws)
    assert broken(requirements, sequence) == []
    rule, tokens = rule_of(requirements), torch.tensor([tokens_of(sequence, requirements.canvas)])
    assert bool(rule.is_satisfied(tokens)) and rule.explain(tokens) == [[]]
    assert not bool(contradictory(rule, tokens, torch.zeros_like(tokens, dtype=torch.bool)))


@settings(max_examples=8)
@given(st.integers(0, 2**32), st.sampled_from(rule_sets.RULES))
def test_the_judge_agrees_with_biopython_and_re_on_sequences_near_by(seed, rules):
    """Of the planted sequence with a few residues changed, and cut or lengthened."""
    draws = np.random.default_rng(seed)
    pool = natural.uniprot(True)
    sequence = pool[int(draws.integers(len(pool)))][:60]
    requirements = rule_sets.planted(sequence, rules, draws)
    letters = list(sequence)
    for at in draws.integers(len(letters), size=int(draws.integers(0, 4))):
        letters[at] = RESIDUES[int(draws.integers(20))]
    changed = "".join(letters)[: len(letters) - int(draws.integers(0, 3))]
    tokens = torch.tensor([tokens_of(changed, requirements.canvas)])
    faults = rule_of(requirements).explain(tokens)[0]
    assert bool(rule_of(requirements).is_satisfied(tokens)) == (broken(requirements, changed) == []) == (faults == [])
    assert bool(rule_of(requirements).violations(tokens).any()) == (faults != [])


def test_each_kind_of_rule_holds_every_invariant():
    for text in ("length=6 contains=C-x-C", "length=4..6 charge=0.5..1.5", "length=6 avoids=K-R at=2:[DE]"):
        check_constraint(rule_of(parse_requirements(text)), examples=4)


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_rule_sets_made_unsatisfiable_are(seed):
    draws = np.random.default_rng(seed)
    pool = natural.uniprot(True)
    sequence = pool[int(draws.integers(len(pool)))][:50]
    made, why = unsatisfiable(rule_sets.planted(sequence, "motif", draws), draws)
    rule = rule_of(made)
    tokens, given_ = (torch.tensor([each]) for each in made.pinned())
    assert why and bool(contradictory(rule, tokens, given_))


@pytest.mark.parametrize("kind", [Design, Infill, Peptides])
def test_batches_are_natural_sequences_and_the_same_again(kind):
    task = kind()
    known = {sequence for sequence, _ in task.pool(False)}
    held_out = {sequence for sequence, _ in task.pool(True)}
    assert not known & held_out
    for step in range(4):
        batch, again, other = task.train_batch(step, 6), task.train_batch(step, 6), task.train_batch(step, 6, rank=1)
        assert torch.equal(batch.answer, again.answer) and torch.equal(batch.pinned, again.pinned)
        assert not torch.equal(batch.answer, other.answer)
        assert batch.answer.shape == other.answer.shape
        written = [sequence_of(row) for row in batch.answer.tolist()]
        assert set(written) <= known
        for row, sequence, pinned in zip(batch.prompt.tolist(), written, batch.pinned.tolist(), strict=True):
            prompt = prompt_of("protein", len(sequence), properties.charge(sequence), properties.hydropathy(sequence))
            assert all(token in (OPEN, right) for token, right in zip(row[1:5], prompt[1:], strict=True))
            assert not all(pinned[: len(sequence)])
            if row[1] != OPEN:
                assert all(pinned[len(sequence) :])
            if kind is Infill:  # what is given stands in the prompt, joined with its place on the canvas
                canvas = tokens_of(sequence, batch.answer.shape[1])
                assert row[5:] == [token if given_ else OPEN for token, given_ in zip(canvas, pinned, strict=True)]
                joined = batch.relations[0, 0][: len(row), len(row) :].nonzero().tolist()
                assert joined == [[5 + at, at] for at in range(len(canvas))]
        assert bool(((batch.answer >= NOISE[0]) & (batch.answer < NOISE[1])).all())


def test_infill_keeps_what_is_given_and_tells_recovery_beside_the_baseline():
    task, model = Infill(), random_model()
    few = natural.uniprot(False)[::10]
    task._baselines = {"kmer": kmer.Kmer(few), "mix": kmer.Context(few)}
    problems = task.held_out(2, 0)
    made = solve(model, task, named("exact"), problems, batch_size=4, seed=0, max_passes=2)
    for outcome in made:
        template = outcome.problem.requirements.template
        assert outcome.solved and re.fullmatch(template.replace("?", "."), outcome.answer)
    row = summarise("exact", made, task, model)[-1]["metrics"]
    masked = sum(problem.requirements.template.count("?") for problem in problems)
    names = ["recovery", "recovery_kmer", "recovery_mix", "perplexity", "perplexity_kmer", "perplexity_mix"]
    assert {row[name]["n"] for name in names} == {masked}
    right = sum(
        a == b
        for o in made
        for a, b, hidden in zip(o.answer, o.problem.reference, o.problem.requirements.template, strict=True)
        if hidden == "?"
    )
    assert row["recovery"]["value"] == pytest.approx(right / masked)
    assert max(row[f"perplexity_{name}"]["value"] for name in ("kmer", "mix")) < 20 < row["perplexity"]["value"] + 2
    assert task.overlap(problems) == []
    trained = replace(problems[0], reference=natural.uniprot(False)[0])
    assert task.overlap([trained]) == [0]


@pytest.mark.parametrize("sampler", ["exact", "restarts", "plain"])
def test_complete_sequences_are_judged_alone_and_beside_others(sampler):
    """Nothing is left to write in a whole batch, in one row of it, or where what is given breaks a rule."""
    task, model = Infill(), random_model()
    for texts, verdicts in (
        (["sequence=MKVLA", "sequence=MKVLW"], [Status.SOLVED] * 2),
        (["sequence=MKVLA avoids=K", "sequence=MKVLW"], [Status.UNSATISFIABLE, Status.SOLVED]),
        (["sequence=MKVLA", "sequence=MKV?W avoids=K"], [Status.SOLVED, Status.UNSATISFIABLE]),
    ):
        problems = [task.parse(text) for text in texts]
        outcomes = solve(model, task, named(sampler), problems, batch_size=2, seed=0, max_passes=2)
        assert [outcome.status for outcome in outcomes] == verdicts
        assert outcomes[0].answer == "MKVLA"


def test_each_task_is_compared_with_the_sampler_it_needs():
    assert Design.samplers == Infill.samplers == Peptides.samplers == ("exact",)


def test_design_is_measured_by_biopython_and_written_as_fasta(tmp_path):
    task, model = Design(), random_model()
    problems = [task.parse("length=30 avoids=C charge=1..3")] * 5
    made = solve(model, task, named("exact"), problems, batch_size=5, seed=0, max_passes=2)
    row = summarise("exact", made, task)[-1]["metrics"]
    assert row["independent_valid"]["value"] == row["independent_share"]["value"] == 1.0
    assert row["unique"]["value"] == 1.0 and 0 < row["residue_divergence"]["value"] < 1
    task.save(tmp_path, {"exact": made})
    assert [sequence for _, sequence in read_fasta(tmp_path / "exact.fasta")] == [o.answer for o in made]


def test_a_judge_that_lies_is_caught_by_the_independent_check():
    task = Design()
    [made] = solve(None, task, Search(), [task.parse("length=30 avoids=C")], batch_size=1, seed=0)
    lie = replace(made, answer="C" * 30)
    assert task.measure([lie])["independent_valid"]["value"] == 0.0


def test_a_drawing_shows_where_patterns_match_and_what_sums_are():
    task = Design()
    problem = task.parse("length=12 contains=K-x-K avoids=C composition=K:2..3 charge=..1")
    answer = torch.tensor(tokens_of("AKAKACAAAAAA", 32))
    text = task.draw(problem, answer, rule_of(problem.requirements).violations(answer[None])[0])
    lines = without_colors(text).splitlines()
    assert lines[0] == "   1 AKAKACAAAAAA" and lines[1].startswith("      ^^^") and "contains=K-x-K" in lines[1]
    assert "ok contains=K-x-K: matches 2-4" in lines and "no avoids=C: matches 6-6" in lines
    assert any(line.startswith("ok K: 2, required 2 to 3") for line in lines)
    assert any(line.startswith("no charge: 1.7") for line in lines)
    assert "\x1b[31mC" in text and task.decode(problem, answer) == "AKAKACAAAAAA"


def test_files_of_requirements_and_of_sequences(tmp_path):
    (tmp_path / "rules.txt").write_text("# mine\nlength=30 avoids=C\n\nlength=20..25 charge=2..4\n")
    assert [p.tier for p in Design().read(str(tmp_path / "rules.txt"))] == ["rules", "rules"]
    (tmp_path / "bad.txt").write_text("length=30\nlength=30 avoids=J\n")
    with pytest.raises(InputError, match=r"bad.txt line 2: .*'J'"):
        Design().read(str(tmp_path / "bad.txt"))
    (tmp_path / "some.fasta").write_text(">one\nMK??AW\n>two\n" + natural.uniprot(True)[0] + "\n")
    given_, masked = Infill().read(str(tmp_path / "some.fasta"))
    assert given_.tier == "given" and given_.requirements.template == "MK??AW" and given_.reference is None
    assert masked.reference == natural.uniprot(True)[0] and "?" in masked.requirements.template
    assert masked == Infill().read(str(tmp_path / "some.fasta"))[1]
    (tmp_path / "empty.fasta").write_text("")
    with pytest.raises(InputError, match="holds no record"):
        Infill().read(str(tmp_path / "empty.fasta"))
    with pytest.raises(InputError, match="at most 64"):
        Peptides().parse("length=65")


def test_shares_are_counts_where_the_length_is_known():
    rule = rule_of(parse_requirements("length=30 composition=KR:10%..20%"))
    [count] = [part for part in rule.parts if isinstance(part, Count)]
    assert (count.low, count.high) == (3, 6)


def test_requirements_refuse_a_motif_that_reaches_behind_the_end():
    with pytest.raises(InputError, match="needs 7 residues"):
        Requirements(length=(6, 6), places=((5, parse_pattern("A-A-A")),))


def test_held_out_rule_sets_can_be_met_and_rows_have_rules_of_their_own():
    task = Peptides()
    problems = [problem for problem in task.held_out(2, 3) if problem.requirements.canvas == 32]
    rule, batch = task.constraint(problems), task.encode(problems)
    assert rule.rows == len(problems) > 1 and batch.prompt.shape == (len(problems), 5)
    assert not contradictory(rule, batch.answer, batch.pinned).any()
    avoids = task.constraint([task.parse("length=9 avoids=C"), task.parse("length=9 avoids=D")])
    answer = torch.tensor([tokens_of("ACDEFGHIK", 32), tokens_of("ACEFGHIKL", 32)])
    assert avoids.is_satisfied(answer).tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("length=5..9 composition=C:0%..0%", "AAAAAA", "AAACAA"),
        ("length=5..9 composition=AG:100%..100%", "AGAGAG", "AGAGAK"),
        ("length=5..9 hydropathy=4.5..4.5", "IIIIII", "IIIIIV"),
        ("length=5..9 composition=K:1.5..2.5", "AAAKKA", "AAKAAA"),
        ("length=5..9 composition=K:1.5..2.5", "AAAKKA", "KKKAAA"),
    ],
)
def test_shares_of_nothing_and_of_all_bind_where_the_length_is_open(text, good, bad):
    requirements = parse_requirements(text)
    for sequence, right in ((good, True), (bad, False)):
        assert bool(rule_of(requirements).is_satisfied(torch.tensor([tokens_of(sequence, 32)]))) is right
        assert (broken(requirements, sequence) == []) is right
    sequence, _ = solved(text)
    assert broken(requirements, sequence) == []


@pytest.mark.parametrize("rule", ["contains", "avoids"])
def test_a_pattern_that_is_too_large_is_refused_and_never_called_unsatisfiable(rule):
    with pytest.raises(InputError, match="needs more than 32,768 states"):
        parse_requirements(f"length=60 {rule}=[DE]-x(20)-[KR]-x(20)-W")
