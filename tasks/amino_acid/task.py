"""Amino-acid sequences under rules: designing them, restoring stretches of them, and peptides of a kind.

The prompt names the kind of sequence, how many residues it has, its net charge and its hydropathy, each or none of
these; where stretches are restored, the residues that are kept follow, and a relation joins each place of them with its
place on the canvas: nothing else would tell kept residues from noise. The canvas holds residues and is filled up with
EOS.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from constrained_dg.constraints import ByRow, Constraint
from constrained_dg.errors import check, is_count
from constrained_dg.evaluation import Outcome
from constrained_dg.files import read_text
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch, Problem, Task

from . import distances, kmer, natural, properties, prosite
from .files import read_fasta, write_fasta
from .requirements import Requirements, parse_requirements
from .residues import (
    EOS,
    FIRST_KIND,
    FIRST_NUMBER,
    FIRST_RESIDUE,
    KINDS,
    LONGEST,
    NOISE,
    NUMBERS,
    OPEN,
    PAD,
    RESIDUES,
    VOCABULARY,
    canvas_length,
    sequence_of,
    tokens_of,
)
from .rule_sets import RULES, planted

_RED, _GREEN, _OFF = "\x1b[31m", "\x1b[32m", "\x1b[0m"
_LINE = 60
#: Sequences whose nearest training sequence is looked for: aligning takes 40 ms each.
_ALIGNED = 100
#: Prompt: kind, residues (two numbers), charge, hydropathy.
PROMPT = 5


@dataclass(frozen=True)
class SequenceProblem(Problem):
    """A sequence to write.

    Attributes:
        requirements: what it must be.
        reference: the natural sequence that a template was made from, never shown to the model; or None.
    """

    requirements: Requirements
    reference: str | None = None

    @classmethod
    def of(cls, tier: str, requirements: Requirements, reference: str | None = None) -> SequenceProblem:
        return cls(tier, requirements.text, requirements, reference)


def prompt_of(kind: str, residues: int | None, charge: float | None, hydropathy: float | None) -> list[int]:
    """The five tokens of a prompt; None leaves one open."""
    middle = NUMBERS // 2
    steps = [
        None if charge is None else round(charge) + middle,
        None if hydropathy is None else round(4 * hydropathy) + middle,
    ]
    numbers = [None, None] if residues is None else list(divmod(residues, 16))
    numbers += [None if step is None else min(max(step, 0), NUMBERS - 1) for step in steps]
    told = [OPEN if number is None else FIRST_NUMBER + number for number in numbers]
    return [FIRST_KIND + KINDS.index(kind), *told]


class Sequences(Task):
    """What designing, restoring and peptides share.

    Args:
        seed: of the batches; not negative.

    Raises:
        InputError: a value out of range.
    """

    vocab_size = VOCABULARY
    blank_id = PAD
    padding_id = EOS
    num_relations = 0
    longest: ClassVar[int] = LONGEST
    #: Whether stretches of training sequences are free and the rest is given, in the prompt too.
    restores: ClassVar[bool] = False

    def __init__(self, seed: int = 0) -> None:
        check(is_count(seed), f"seed={seed!r}", "use an integer that is not negative")
        self.seed = seed
        self.max_canvas = canvas_length(self.longest)
        self.max_prompt = PROMPT + self.restores * self.max_canvas
        self._nearest: dict[str, float] = {}
        self._told: dict[tuple[int | str, str], np.ndarray] = {}

    def pool(self, held_out: bool) -> Sequence[tuple[str, str]]:
        """Natural sequences with their kind."""
        return [(sequence, KINDS[0]) for sequence in natural.uniprot(held_out)]

    @cached_property
    def _training(self) -> dict[int, list[tuple[str, str]]]:
        """Training sequences by the canvas they need."""
        groups: dict[int, list[tuple[str, str]]] = {}
        for sequence, kind in self.pool(False):
            groups.setdefault(canvas_length(len(sequence)), []).append((sequence, kind))
        return dict(sorted(groups.items()))

    def train_batch(self, step: int, batch_size: int, rank: int = 0) -> Batch:
        """The batch of one optimiser step, a pure function of (seed, step, batch_size, rank)."""
        # The canvas depends on the step alone: ranks that wait for each other should have equal work.
        sizes = np.array([len(group) for group in self._training.values()])
        drawn = np.random.default_rng((self.seed, step)).choice(len(sizes), p=sizes / sizes.sum())
        canvas, group = list(self._training.items())[drawn]
        draws = np.random.default_rng((self.seed, step, rank, batch_size))
        prompts, canvases, pinned = [], [], []
        for at in draws.integers(len(group), size=batch_size):
            sequence, kind = group[at]
            # How long it is stays open for one in five that are written from nothing.
            known = self.restores or draws.random() < 0.8
            told = [value if draws.random() < 0.5 and not self.restores else None for value in _properties(sequence)]
            prompts.append(prompt_of(kind, len(sequence) if known else None, *told))
            canvases.append(tokens_of(sequence, canvas))
            given = np.arange(canvas) >= len(sequence) if known else np.zeros(canvas, bool)
            if self.restores:
                given[: len(sequence)] = [letter != "?" for letter in _hidden(sequence, draws)]
            pinned.append(given)
        return self._batch(torch.tensor(prompts), torch.tensor(canvases), torch.from_numpy(np.stack(pinned)))

    def _batch(self, prompt: IntTensor, canvas: IntTensor, pinned: BoolTensor) -> Batch:
        if not self.restores:
            return Batch(prompt, canvas, pinned, None, NOISE)
        prompt = torch.cat([prompt, torch.where(pinned, canvas, OPEN)], 1)
        at = torch.cat([torch.full((PROMPT,), -1), torch.arange(canvas.shape[1]).repeat(2)])
        same_place = (at[:, None] == at) & (at >= 0)
        return Batch(prompt, canvas, pinned, same_place[None, None], NOISE)

    def encode(self, problems: Sequence[SequenceProblem]) -> Batch:
        """Prompts (B, 5), or (B, 5 + T) with what is kept, and canvases (B, T) with EOS where nothing is given."""
        given = [problem.requirements.pinned() for problem in problems]
        tokens, pinned = (torch.tensor([each[k] for each in given]) for k in (0, 1))
        prompt = torch.tensor([_prompt(problem.requirements) for problem in problems])
        return self._batch(prompt, tokens, pinned)

    def shape_of(self, problem: SequenceProblem) -> tuple[int, int]:
        canvas = problem.requirements.canvas
        return PROMPT + self.restores * canvas, canvas

    def constraint(self, problems: Sequence[SequenceProblem]) -> Constraint:
        return ByRow([problem.requirements.rule() for problem in problems])

    def parse(self, text: str) -> SequenceProblem:
        """One problem from the command line; see `requirements`."""
        requirements = parse_requirements(text)
        high = requirements.length[1]
        check(high <= self.longest, f"{high} residues", f"task {self.name} was trained on at most {self.longest}")
        return SequenceProblem.of("given", requirements)

    def read(self, path: str) -> list[SequenceProblem]:
        """Problems of a text file, requirements on each line; # begins a comment line. Their tier is the file's name.

        Raises:
            InputError: naming the file and the line.
        """
        lines = read_text(path, "give a text file with requirements on each line").splitlines()
        lines = ["" if line.startswith("#") else line for line in lines]
        return [replace(problem, tier=Path(path).stem) for problem in self.problems_of(path, lines)]

    def decode(self, problem: SequenceProblem, answer: IntTensor) -> str:
        return sequence_of(answer.tolist())

    def save(self, folder: Path, outcomes: dict[str, Sequence[Outcome]]) -> None:
        """The solved sequences of each sampler as FASTA, named by their problem's number."""
        for sampler, made in outcomes.items():
            path = folder / f"{sampler}.fasta"
            path.unlink(missing_ok=True)  # of the same report, when fewer samplers were done
            solved = [(f"{at} {o.problem.text}", o.answer) for at, o in enumerate(made, 1) if o.solved and o.answer]
            if solved:
                write_fasta(path, solved)

    def measure(self, outcomes: Sequence[Outcome], model: Any = None) -> dict[str, dict[str, Any]]:
        """How many answers keep all rules by `re` and Biopython alone ("independent_valid": of those called solved,
        "independent_share"), and how natural, diverse and novel they are; see `distances`."""
        told, made = self._checked(outcomes), [o.answer for o in outcomes if o.answer]
        if len(made) < 4:
            return told
        kinds = {o.problem.requirements.kind for o in outcomes}
        known = [sequence for sequence, kind in self.pool(False) if kind in kinds]
        few = made[:_ALIGNED]
        fresh = [sequence for sequence in few if sequence not in self._nearest]
        if fresh:
            self._nearest |= zip(fresh, natural.nearest(fresh, known).tolist(), strict=True)
        novel = [1 - self._nearest[sequence] for sequence in few]
        return told | {
            "residue_divergence": distances.residue_divergence(made, known),
            "pair_divergence": distances.pair_divergence(made, known),
            "diversity": distances.diversity(made),
            "unique": distances.unique(made),
            "novelty": distances.mean(novel),
        }

    @staticmethod
    def _checked(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
        """How many answers keep all rules by `re` and Biopython: of all, and of those called solved."""
        fine = [bool(o.answer) and not o.problem.requirements.broken(o.answer) for o in outcomes]
        solved = [good for o, good in zip(outcomes, fine, strict=True) if o.solved]
        told = {"independent_share": distances.share(sum(fine), len(fine))}
        return told | ({"independent_valid": distances.share(sum(solved), len(solved))} if solved else {})

    def draw(self, problem: SequenceProblem, answer: IntTensor | None, violations: BoolTensor | None = None) -> str:
        """Lines of 60 residues with a ruler; violating residues red; below, where patterns match, and the sums."""
        requirements = problem.requirements
        if answer is None:
            return problem.text
        tokens = answer.tolist()
        letters = [RESIDUES[t - FIRST_RESIDUE] if FIRST_RESIDUE <= t < FIRST_KIND else "." for t in tokens]
        letters = letters[: requirements.length[1]]
        marked = [False] * len(letters) if violations is None else violations.tolist()[: len(letters)]
        sequence, tracks = sequence_of(tokens), []
        for name, pattern, wanted in _patterns(requirements):
            spans = prosite.occurrences(pattern, sequence)
            spans = [span for span in spans if not isinstance(wanted, int) or span[0] == wanted - 1]
            tracks.append((name, spans, bool(spans) == (wanted != "avoids"), wanted == "avoids"))
        lines = []
        for begin in range(0, len(letters), _LINE):
            part = range(begin, min(begin + _LINE, len(letters)))
            lines.append(
                f"{begin + 1:>4} " + "".join(f"{_RED}{letters[k]}{_OFF}" if marked[k] else letters[k] for k in part)
            )
            for name, spans, fine, _ in tracks:
                row = "".join("^" if any(b <= k < e for b, e in spans) else " " for k in part)
                if row.strip():
                    lines.append(f"     {_GREEN if fine else _RED}{row}{_OFF} {name}")
        for name, spans, fine, _ in tracks:
            places = ", ".join(f"{b + 1}-{e}" for b, e in spans) or "nowhere"
            lines.append(f"{_verdict(fine)} {name}: matches {places}")
        return "\n".join(lines + _sums(requirements, sequence))

    def plot(
        self, axes: Any, problem: SequenceProblem, answer: IntTensor | None, violations: BoolTensor | None = None
    ) -> None:
        """Residues in lines of ten, colored by what they are; violating ones framed."""
        axes.axis("off")
        if answer is None:
            super().plot(axes, problem, answer, violations)
            return
        tokens = answer.tolist()[: problem.requirements.length[1]]
        marked = [False] * len(tokens) if violations is None else violations.tolist()
        wide = 10 if len(tokens) <= 60 else 20
        for at, token in enumerate(tokens):
            x, y = at % wide, -(at // wide)
            letter = RESIDUES[token - FIRST_RESIDUE] if FIRST_RESIDUE <= token < FIRST_KIND else "·"
            box = {
                "boxstyle": "square,pad=0.1",
                "facecolor": _color(letter),
                "edgecolor": "red" if marked[at] else "none",
            }
            axes.text(x, y, letter, ha="center", va="center", family="monospace", fontsize=6, bbox=box)
        axes.set_xlim(-1, wide)
        axes.set_ylim(-(len(tokens) // wide) - 1, 1)


class Design(Sequences):
    """New sequences of 20 to 250 residues under rules. For arguments see `Sequences`."""

    name = "amino_acid/design"

    def held_out(self, per_tier: int, seed: int) -> list[SequenceProblem]:
        """Rule sets that some held-out sequence meets: `per_tier` for each kind of rules."""
        check(per_tier >= 1, f"per_tier={per_tier}", "use at least 1")
        check(seed >= 0, f"seed={seed}", "use a number that is not negative")
        pool, problems = self.pool(True), []
        for number, rules in enumerate(RULES):
            draws = np.random.default_rng((seed, number))
            for at in draws.integers(len(pool), size=per_tier):
                sequence, kind = pool[at]
                problems.append(SequenceProblem.of(rules, planted(sequence, rules, draws, name=kind)))
        return problems


class Peptides(Design):
    """Peptides, antimicrobial or other, of at most 64 residues, under rules. For arguments see `Sequences`."""

    name = "amino_acid/peptides"
    longest = 64

    def pool(self, held_out: bool) -> Sequence[tuple[str, str]]:
        pairs = natural.peptides(held_out)
        kinds = {1: "antimicrobial", 0: "other"}
        return [(text, kinds[label]) for text, label in pairs if 5 <= len(text) <= self.longest]


class Infill(Sequences):
    """Masked stretches of natural sequences, restored under rules; what is kept never changes. For arguments see
    `Sequences`."""

    name = "amino_acid/infill"
    num_relations = 1
    restores = True
    #: Tiers: what is masked of a sequence.
    TIERS: ClassVar[tuple[str, ...]] = ("stretches of 5 to 20", "half")

    @cached_property
    def _baselines(self) -> dict[str, kmer.Kmer | kmer.Context]:
        return {"kmer": kmer.Kmer(natural.uniprot(False)), "mix": kmer.Context(natural.uniprot(False))}

    def held_out(self, per_tier: int, seed: int) -> list[SequenceProblem]:
        """Held-out sequences with stretches masked, and with half of the residues masked."""
        check(per_tier >= 1, f"per_tier={per_tier}", "use at least 1")
        check(seed >= 0, f"seed={seed}", "use a number that is not negative")
        draws = np.random.default_rng((seed, 7))
        pool = natural.uniprot(True)
        chosen = [pool[int(at)] for at in draws.permutation(len(pool))[:per_tier]]
        return [self._problem(tier, sequence, draws) for tier in self.TIERS for sequence in chosen]

    def _problem(self, tier: str, sequence: str, draws: np.random.Generator) -> SequenceProblem:
        template = _half(sequence, draws) if tier == "half" else _stretches(sequence, draws)
        return SequenceProblem.of(tier, _template(template), sequence)

    def read(self, path: str) -> list[SequenceProblem]:
        """Sequences of a FASTA file: those with ? as they are; of others stretches are masked, always the same.

        Other files are read as requirements, a line each (`Sequences.read`).
        """
        if not re.search(r"\.(fasta|fa|faa)(\.gz)?$", path):
            return super().read(path)
        problems = []
        for number, (name, sequence) in enumerate(read_fasta(path)):
            check(len(sequence) <= LONGEST, f"{path}, {name} has {len(sequence)} residues", f"give at most {LONGEST}")
            if "?" in sequence:
                problems.append(SequenceProblem.of("given", _template(sequence)))
            else:
                problems.append(self._problem(self.TIERS[0], sequence, np.random.default_rng(number)))
        return problems

    def overlap(self, problems: Sequence[SequenceProblem]) -> list[int]:
        """Which references are like a training sequence (`natural.Similar`), as indices."""
        known = natural.Similar(natural.uniprot(False))
        return [at for at, problem in enumerate(problems) if problem.reference and problem.reference in known]

    def measure(self, outcomes: Sequence[Outcome], model: Any = None) -> dict[str, dict[str, Any]]:
        """Recovery of the masked residues by the answers, the perplexity of the true ones to the model, told in one
        pass from pure noise, and both of a k-mer model and a stronger mix (`kmer.Kmer`, `kmer.Context`)."""
        told = self._checked(outcomes)
        known = [o for o in outcomes if o.problem.reference is not None]
        if len(known) < 2:
            return told
        truth, texts = [o.problem.reference for o in known], [o.problem.requirements.template for o in known]
        answers = dict(zip(texts, (o.answer for o in known), strict=True))
        told["recovery"] = kmer.measure(truth, texts, lambda text: _certain(answers[text]))["recovery"]
        for name, baseline in self._baselines.items():
            found = kmer.measure(truth, texts, partial(self._baseline_log_probs, name, baseline))
            told |= {f"{metric}_{name}": value for metric, value in found.items()}
        if model is not None:
            own = kmer.measure(truth, texts, lambda text: self._model_log_probs(model, text))
            told["perplexity"] = own["perplexity"]
        return told

    def _baseline_log_probs(self, name: str, baseline: kmer.Kmer | kmer.Context, text: str) -> np.ndarray:
        if (name, text) not in self._told:
            self._told[name, text] = baseline.log_probs(text)
        return self._told[name, text]

    @torch.no_grad()
    def _model_log_probs(self, model: Any, text: str, draws: int = 4) -> np.ndarray:
        """(L, 20) log-probabilities of the residues of a text with ?: one pass over canvases of pure noise, the
        probabilities of `draws` of them averaged."""
        if (id(model), text) not in self._told:
            device = next(model.parameters()).device
            batch = self.encode([SequenceProblem.of("", _template(text))] * draws).to(device)
            generator = torch.Generator().manual_seed(0)
            noise = torch.randint(*NOISE, batch.answer.shape, generator=generator).to(device)
            canvas = torch.where(batch.pinned, batch.answer, noise)
            cache = model.prefill(batch.prompt, None, batch.relations)
            logits = model.denoise(canvas, cache, None, batch.relations).float()
            chances = logits[..., FIRST_RESIDUE:FIRST_KIND].softmax(-1).mean(0).cpu().numpy()
            self._told[id(model), text] = np.log(chances[: len(text)])
        return self._told[id(model), text]


def _certain(answer: str) -> np.ndarray:
    """(L, 20) log-probabilities of what is sure of itself."""
    rows = np.full((len(answer), len(RESIDUES)), -50.0)
    rows[np.arange(len(answer)), [RESIDUES.index(letter) for letter in answer]] = 0
    return rows


def _template(template: str) -> Requirements:
    return Requirements(length=(len(template), len(template)), template=template)


def _properties(sequence: str) -> tuple[float, float]:
    return properties.charge(sequence), properties.hydropathy(sequence)


def _prompt(requirements: Requirements) -> list[int]:
    """What the requirements say, told as in training: the middle of a narrow window, nothing of a wide one."""
    low, high = requirements.length
    told = []
    for bounds, widest in ((requirements.charge, 6.0), (requirements.hydropathy, 1.0)):
        narrow = bounds is not None and bounds[1] - bounds[0] <= widest
        told.append((bounds[0] + bounds[1]) / 2 if narrow else None)
    return prompt_of(requirements.kind, low if low == high else None, *told)


def _stretches(sequence: str, draws: np.random.Generator) -> str:
    """The sequence with one or more stretches of 5 to 20 residues masked: about a sixth of it, at least one."""
    letters = np.array(list(sequence))
    while (letters == "?").sum() < max(1, len(sequence) / 6):
        wide = min(len(sequence), int(draws.integers(5, 21)))
        begin = int(draws.integers(len(sequence) - wide + 1))
        letters[begin : begin + wide] = "?"
    return "".join(letters)


def _half(sequence: str, draws: np.random.Generator) -> str:
    """The sequence with half of its residues masked, at least one."""
    hidden = draws.random(len(sequence)) < 0.5
    hidden[int(draws.integers(len(sequence)))] = True
    return "".join("?" if here else letter for letter, here in zip(sequence, hidden, strict=True))


def _hidden(sequence: str, draws: np.random.Generator) -> str:
    """The sequence with what training hides: stretches, single residues, all, in half, a quarter, a quarter."""
    kind = draws.random()
    return _stretches(sequence, draws) if kind < 0.5 else _half(sequence, draws) if kind < 0.75 else "?" * len(sequence)


def _patterns(requirements: Requirements) -> list[tuple[str, prosite.Pattern, str | int]]:
    named = [(f"contains={p.text}", p, "contains") for p in requirements.contains]
    named += [(f"at={k}:{p.text}", p, k) for k, p in requirements.places]
    return named + [(f"avoids={p.text}", p, "avoids") for p in requirements.avoids]


def _verdict(fine: bool) -> str:
    return f"{_GREEN}ok{_OFF}" if fine else f"{_RED}no{_OFF}"


def _sums(requirements: Requirements, sequence: str) -> list[str]:
    """A line for each count, share and sum: its value, and its bounds."""
    if not sequence:
        return []
    lines = []
    for group in requirements.composition:
        held = sum(sequence.count(letter) for letter in set(group.residues))
        value, unit = (100 * held / len(sequence), " %") if group.percent else (held, "")
        fine = group.low - 1e-9 <= value <= group.high + 1e-9
        lines.append(
            f"{_verdict(fine)} {group.residues}: {value:.4g}{unit}, asked {group.low:g} to {group.high:g}{unit}"
        )
    for name in ("charge", "hydropathy", "mass"):
        bounds, value = getattr(requirements, name), getattr(properties, name)(sequence)
        if bounds is not None:
            fine = bounds[0] - 1e-9 <= value <= bounds[1] + 1e-9
            lines.append(f"{_verdict(fine)} {name}: {value:.6g}, asked {bounds[0]:g} to {bounds[1]:g}")
    return lines


def _color(letter: str) -> str:
    """Positive blue, negative red, polar green, greasy yellow; the rest grey."""
    groups = {"KRH": "#c6dbef", "DE": "#fcbba1", "STNQCY": "#c7e9c0", "AVLIMFWP": "#fff3b0"}
    return next((color for group, color in groups.items() if letter in group), "#eeeeee")
