"""New sequences under rules: proteins and peptides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from constrained_dg.errors import check

from . import natural
from .rule_sets import RULES, planted
from .task import SequenceProblem, Sequences


class Design(Sequences):
    """New sequences of 20 to 250 residues under rules. For arguments see `Sequences`."""

    name = "amino_acid/design"

    def held_out(self, per_tier: int, seed: int) -> list[SequenceProblem]:
        """Rule sets that a held-out sequence meets: `per_tier` for each kind of rules."""
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
