"""Masked stretches of natural sequences, restored under rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch

from constrained_dg.errors import check
from constrained_dg.evaluation import Outcome

from . import kmer, natural
from .files import read_fasta
from .masking import mask_half, mask_stretches
from .residues import FIRST_KIND, FIRST_RESIDUE, LONGEST, NOISE, RESIDUES
from .specification import Requirements
from .task import SequenceProblem, Sequences

#: Canvases of noise over which the model's predictions are averaged.
_DRAWS = 4


class Infill(Sequences):
    """Masked stretches of natural sequences, restored under rules. For arguments see `Sequences`."""

    name = "amino_acid/infill"
    num_relations = 1
    restores = True
    asks: ClassVar = {"kind": "line", "example": "sequence=MKTAYIAKQRQISFVKSH??????LEERLGLIEVQAPILSRVGDGTQDNL"}
    #: The masked part of a sequence.
    TIERS: ClassVar[tuple[str, ...]] = ("stretches of 5 to 20", "half")

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        #: Log-probabilities by model or baseline, then by text, since each row of a report needs them.
        self._log_probs: WeakKeyDictionary[Any, dict[str, np.ndarray]] = WeakKeyDictionary()

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
        masked = mask_half(sequence, draws) if tier == "half" else mask_stretches(sequence, draws)
        return SequenceProblem.of(tier, _kept(masked), sequence)

    def read(self, path: str) -> list[SequenceProblem]:
        """Sequences of a FASTA file; those without ? or X get masked stretches, the same ones each time.

        Other files hold requirements, one problem on each line (`Sequences.read`).
        """
        if not re.search(r"\.(fasta|fa|faa)(\.gz)?$", path):
            return super().read(path)
        problems = []
        for number, (name, sequence) in enumerate(read_fasta(path)):
            check(len(sequence) <= LONGEST, f"{path}, {name} has {len(sequence)} residues", f"give at most {LONGEST}")
            if "?" in sequence:
                problems.append(SequenceProblem.of("given", _kept(sequence)))
            else:
                problems.append(self._problem(self.TIERS[0], sequence, np.random.default_rng(number)))
        return problems

    def overlap(self, problems: Sequence[SequenceProblem]) -> list[int]:
        """Indices of the references that are similar to a training sequence (`natural.Similar`)."""
        training = natural.Similar(natural.uniprot(False))
        return [at for at, problem in enumerate(problems) if problem.reference and problem.reference in training]

    def measure(self, outcomes: Sequence[Outcome], model: Any = None) -> dict[str, dict[str, Any]]:
        """Recovery of the masked residues by the answers, perplexity of the true ones under the model in one pass from
        pure noise, and both for the baselines `kmer.Kmer` and `kmer.Context`."""
        metrics = self.checked(outcomes)
        known = [o for o in outcomes if o.problem.reference is not None]
        if len(known) < 2:
            return metrics
        truth, texts = [o.problem.reference for o in known], [o.problem.requirements.template for o in known]
        answers = dict(zip(texts, (o.answer for o in known), strict=True))
        metrics["recovery"] = kmer.measure(truth, texts, lambda text: _certain(answers[text]))["recovery"]
        for name, baseline in self._baselines.items():
            of_baseline = kmer.measure(truth, texts, partial(self._once, baseline, log_probs=baseline.log_probs))
            metrics |= {f"{metric}_{name}": value for metric, value in of_baseline.items()}
        if model is not None:
            of_model = kmer.measure(truth, texts, partial(self._once, model, log_probs=partial(self._passes, model)))
            metrics["perplexity"] = of_model["perplexity"]
        return metrics

    def _once(self, source: Any, text: str, log_probs: Callable[[str], np.ndarray]) -> np.ndarray:
        """The log-probabilities of a text (L, 20), computed once for each source."""
        rows = self._log_probs.setdefault(source, {})
        if text not in rows:
            rows[text] = log_probs(text)
        return rows[text]

    @torch.no_grad()
    def _passes(self, model: Any, text: str) -> np.ndarray:
        """(L, 20) log-probabilities of the residues of a text with ?: one pass, averaged over canvases of noise."""
        device = next(model.parameters()).device
        batch = self.encode([SequenceProblem.of("", _kept(text))] * _DRAWS).to(device)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(*NOISE, batch.answer.shape, generator=generator).to(device)
        canvas = torch.where(batch.pinned, batch.answer, noise)
        cache = model.prefill(batch.prompt, None, batch.relations)
        logits = model.denoise(canvas, cache, None, batch.relations).float()
        probabilities = logits[..., FIRST_RESIDUE:FIRST_KIND].softmax(-1).mean(0).cpu().numpy()
        return np.log(probabilities[: len(text)])


def _certain(answer: str) -> np.ndarray:
    """(L, 20) log-probabilities that are nearly 1 for the residues of an answer."""
    rows = np.full((len(answer), len(RESIDUES)), -50.0)
    rows[np.arange(len(answer)), [RESIDUES.index(letter) for letter in answer]] = 0
    return rows


def _kept(masked: str) -> Requirements:
    """The requirement that residues which are not masked stay."""
    return Requirements(length=(len(masked), len(masked)), template=masked)
