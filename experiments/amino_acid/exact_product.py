"""Seconds for the exact product of a pattern, bounds of a charge and a group, for sequences of 200 residues.

python -m experiments.amino_acid.exact_product

Charges are integers here (K and R +1, D and E -1), so that the product is exact; at pH 7 they are real numbers, which
are rounded to a grid.
"""

import time

import numpy as np
import torch

from constrained_dg.constraints import All, Count, Sum, Vocabulary
from tasks.amino_acid import prosite
from tasks.amino_acid.residues import FIRST_KIND, FIRST_RESIDUE, RESIDUES, VOCABULARY, show
from tasks.amino_acid.rules import Motif

LENGTH = 200
#: From few states to about a hundred.
PATTERNS = (
    "W-[IVC]-[STAK]-[RK]-x-[DE]-Y-[DNE]-[DE]",
    "G-[LIVM]-x(3)-E-[LIV]-T-[LF]-R",
    "[GS]-[STG]-[LIVM]-[STG]-[SAC]-S-G-[DH]-L-x-P-L-[SA]-x(2,3)-[SAGVT]",
    "[DESH]-x(2,3)-[STVG]-{EVKD}-[AS]-[FYI]-K-[DLIFSA]-[RLVMF]-[GA]-[LIVMGA]",
)


def main() -> None:
    torch.set_num_threads(1)
    numbers = {letter: FIRST_RESIDUE + at for at, letter in enumerate(RESIDUES)}
    charge = torch.zeros(VOCABULARY, dtype=torch.int64)
    for letter, value in {"K": 1, "R": 1, "D": -1, "E": -1}.items():
        charge[numbers[letter]] = value
    may = torch.zeros(1, LENGTH, VOCABULARY, dtype=torch.bool)
    may[..., FIRST_RESIDUE:FIRST_KIND] = True
    everything = torch.ones(1, LENGTH, VOCABULARY, dtype=torch.bool)
    print(f"{'states':>6} {'entries':>12} {'build':>7} {'allowed':>8} {'most likely':>12}   seconds, least of 3")
    for text in PATTERNS:
        times: dict[str, list[float]] = {"build": [], "allowed": [], "likely": []}
        for turn in range(3):
            rules = [
                Vocabulary(may, show),
                Motif(prosite.parse_pattern(text), "contains", LENGTH),
                Count([numbers[letter] for letter in "AILMFWV"], 20, 40, LENGTH, VOCABULARY),
                Sum(charge, 2, 6, LENGTH),
            ]
            scores = torch.randn(1, LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(turn)).log_softmax(-1)
            begun = time.perf_counter()
            rule = All(rules)
            exact = rule.has_most_likely
            times["build"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            left = rule.propagate(everything)
            times["allowed"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            best, exists = rule.most_likely(scores.masked_fill(~left, -torch.inf))
            times["likely"].append(time.perf_counter() - begun)
            assert exact and bool(exists) and bool(rule.is_satisfied(best))
        product = rule._plan.products[0]
        sizes = [product._layout([each.narrowed for each in product.sums])[2][-1]]
        states = rules[1].machine.states
        each = [np.min(times[name]) for name in ("build", "allowed", "likely")]
        print(f"{states:>6} {sizes[0]:>12,} {each[0]:>7.2f} {each[1]:>8.2f} {each[2]:>12.2f}   {text}", flush=True)


if __name__ == "__main__":
    main()
