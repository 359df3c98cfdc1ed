"""Sums of integer or real weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import ceil, floor, frexp, inf, isfinite, isinf

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.by_row import ByRow
from constrained_dg.constraints.candidates import candidates_of, without_dead_rows
from constrained_dg.constraints.counter import LARGEST, NO_BOUND, Counter
from constrained_dg.constraints.counts import mask_of
from constrained_dg.constraints.machine import Machine
from constrained_dg.constraints.sweep import Swept
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor, tensor_of

#: Partial sums up to which `Sum` is exact, and up to which gaps between sums are found.
SUMS = 2**14
#: By how much a sum of real weights may exceed its bounds through rounding.
TOLERANCE = 1e-9


class RealSum(Constraint):
    """The weights of the tokens, real numbers, add up to a number between `low` and `high`.

    Weights are rounded once to integer steps, so small that the largest absolute sum is 2**61 steps. Judge, `allowed`
    and proofs count these steps, and agree in every order and batch. A sum may exceed the bounds by 1e-9 or by the
    rounding error of float64, (T + 1) 2**-53 of the largest absolute sum, whichever is larger.

    `allowed` and `propagate` bound the rest of the sum by its smallest and largest value: sound. Together with
    automata, sums are swept on a grid, see `product`.

    Args:
        weights: (A) or (T, A) float64.
        low, high: bounds, both inclusive, -inf and inf for none.
        length: T.
        positions: where it adds up; None means the whole answer.
        show: a token as people write it.
        name: the sum's name in sentences, such as "the mass".

    Attributes:
        weights: (T, A), 0 at positions that do not add up.
        reach: by how much the sum that a subclass judges may differ from the sum of the weights.

    Raises:
        InputError: weights of another shape or type or not finite or too large to add up, or bounds that no answer
            meets (gaps between the sums are found where there are at most 2**14 sums).
    """

    strength = "sound: the rest of the sum is bounded by its smallest and largest"
    reach: float = 0.0

    def __init__(
        self,
        weights: FloatTensor,
        low: float,
        high: float,
        length: int,
        positions: Sequence[int] | None = None,
        show: Callable[[int], str] = str,
        name: str = "the sum",
    ) -> None:
        weights = tensor_of("weights", weights, torch.float64)
        fine = weights.dtype == torch.float64 and bool(weights.isfinite().all())
        self._take(weights, low, high, length, positions, fine, "torch.float64, all finite")
        self.show, self.name = show, name
        size = sum(self.weights.abs().amax(-1).tolist())
        check(isfinite(size), "the weights add up to more than float64 holds", "divide them by a common factor")
        #: Steps are units of 2**-shift.
        self.shift = min(61 - frexp(size)[1], 1000) if size else 0
        slack = max(Fraction(TOLERANCE), Fraction(size) * (length + 1) / 2**53)
        self._count_in_steps(self.in_steps(self.weights), slack)

    def _take(
        self,
        weights: torch.Tensor,
        low: float,
        high: float,
        length: int,
        positions: Sequence[int] | None,
        fine: bool,
        wanted: str,
    ) -> None:
        """Check and store the arguments."""
        self.mask = mask_of(positions, length)
        check(
            fine and (weights.dim() == 1 or (weights.dim() == 2 and len(weights) == length)) and weights.numel() > 0,
            f"weights have shape {tuple(weights.shape)} and type {weights.dtype}",
            f"give (tokens) or ({length}, tokens) of {wanted}",
        )
        check(low <= high, f"low {low} lies above high {high}", "give low <= high")
        check(
            low < inf and high > -inf, f"no sum lies between {low} and {high}", "-inf is no lower bound, inf no upper"
        )
        self.weights = weights.expand(length, -1) * self.mask[:, None]
        self.low, self.high, self.length, self.num_classes = low, high, length, weights.shape[-1]

    def in_steps(self, weights: FloatTensor) -> IntTensor:
        """Weights in whole steps, int64."""
        return (weights * 2.0**self.shift).round().long()

    def _count_in_steps(self, steps: IntTensor, slack: Fraction | int) -> None:
        """Store the steps (T, A) and the bounds, widened by the slack; refuse bounds that no answer meets."""
        unit = Fraction(2) ** self.shift
        self.steps = steps
        self.low_step = -NO_BOUND if isinf(self.low) else ceil((Fraction(self.low) - slack) * unit)
        self.high_step = NO_BOUND if isinf(self.high) else floor((Fraction(self.high) + slack) * unit)
        self.low_step = min(max(self.low_step, -NO_BOUND), NO_BOUND)
        self.high_step = min(max(self.high_step, -NO_BOUND), NO_BOUND)
        self.reach_steps = ceil(Fraction(self.reach) * unit) + 1 if self.reach else 0
        low, high = self._window
        least, most = int(steps.amin(-1).sum()), int(steps.amax(-1).sum())
        check(
            least <= high and most >= low,
            f"sums run from {_number(self._value(least))} to {_number(self._value(most))}, and none lies between "
            f"{self.low} and {self.high}",
            "change the bounds",
        )
        check(
            _some_sum_lies_between(steps, low, high),
            f"no sum lies between {self.low} and {self.high}",
            "change the bounds: the weights leave gaps there",
        )

    @property
    def _window(self) -> tuple[int, int]:
        """Bounds on the sum of the weights of a satisfying answer, in steps."""
        return max(self.low_step - self.reach_steps, -NO_BOUND), min(self.high_step + self.reach_steps, NO_BOUND)

    def _value(self, steps: int) -> float:
        return float(Fraction(steps) / Fraction(2) ** self.shift)

    @property
    def counter(self) -> Counter:
        return Counter(self.steps.cpu(), *self._window, decides=self.reach_steps == 0)

    @property
    def bound(self) -> BoolTensor:
        return (self.steps != self.steps[:, :1]).any(-1)

    def totals(self, answer: IntTensor) -> IntTensor:
        """(B, T) -> (B) the judged sum, in steps."""
        self.check_answer(answer)
        return self.steps.gather(-1, answer.T).sum(0)

    def sums(self, answer: IntTensor) -> torch.Tensor:
        """(B, T) -> (B), as numbers."""
        totals = self.totals(answer)
        return torch.tensor([self._value(total) for total in totals.tolist()], dtype=torch.float64).to(totals.device)

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        totals = self.totals(answer)
        return (totals >= self.low_step) & (totals <= self.high_step)

    def violations(self, answer: IntTensor) -> BoolTensor:
        """Every position that could bring the sum nearer; all bound positions if none can."""
        totals = self.totals(answer)[:, None]
        steps = self.steps.gather(-1, answer.T).T
        over, under = totals > self.high_step, totals < self.low_step
        helps = (over & (steps > self.steps.amin(-1))) | (under & (steps < self.steps.amax(-1)))
        helps = helps & self.bound
        return helps | ((over | under) & ~helps.any(-1, keepdim=True) & self.bound)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        sentences = []
        for total in self.totals(answer).tolist():
            right = self.low_step <= total <= self.high_step
            side = f"above {self.high}" if total > self.high_step else f"below {self.low}"
            sentences.append([] if right else [f"{self.name} is {_number(self._value(total))}, {side}"])
        return sentences

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        self.check_answer(answer)
        return self._bounded(candidates_of(answer, known, self.num_classes))[:, span]

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        while True:
            smaller = self._bounded(candidates)
            if torch.equal(smaller, candidates):
                return candidates
            candidates = smaller

    def _bounded(self, candidates: BoolTensor) -> BoolTensor:
        """(B, T, A): drops tokens with which even the smallest or largest rest misses the bounds."""
        candidates = without_dead_rows(candidates)
        least = self.steps.where(candidates, NO_BOUND).amin(-1)
        most = self.steps.where(candidates, -NO_BOUND).amax(-1)
        empty = ~candidates.any(-1)
        rests = (each.masked_fill(empty, 0) for each in (least, most))
        rest_least, rest_most = (each.sum(-1, keepdim=True) - each for each in rests)
        low, high = self._window
        fits = (self.steps + rest_least[..., None] <= high) & (self.steps + rest_most[..., None] >= low)
        return candidates & fits

    @classmethod
    def stack(cls, constraints: Sequence[Constraint]) -> Constraint:
        first = constraints[0]
        return first if all(each is first for each in constraints) else ByRow.stack(constraints)


def _number(value: float) -> str:
    """Enough digits to distinguish it from its neighbors, at least 8."""
    return f"{value:.8g}" if abs(value) < 1e7 else f"{value:.17g}"


def _some_sum_lies_between(steps: IntTensor, low: int, high: int) -> bool:
    """False where provably no answer has a sum in [low, high]; True where one has, or where there are over 2**14
    partial sums."""
    steps = steps.cpu()
    moving = (steps != steps[:, :1]).any(-1)  # the others add a constant
    constant = int(steps[~moving, 0].sum())
    steps, low, high = steps[moving], low - constant, high - constant
    least, most = steps.amin(-1).sum(), steps.amax(-1).sum()
    partial = torch.zeros(1, dtype=torch.int64)
    for row in steps:
        least, most = least - row.min(), most - row.max()  # of what is still to come
        partial = (partial[:, None] + row.unique()).unique()
        if bool(((partial + least >= low) & (partial + most <= high)).any()):
            return True  # whatever follows
        partial = partial[(partial + least <= high) & (partial + most >= low)]
        if len(partial) > SUMS:
            return True
    return len(partial) > 0


class Sum(RealSum, Swept):
    """The integer weights of the tokens add up to a number between `low` and `high`.

    Exact where at most 2**14 partial sums matter. Beyond, `allowed` and `propagate` bound the rest of the sum by its
    smallest and largest value: sound. Weights whose absolute sum can exceed 2**61 are refused.

    Args:
        weights: (A) or (T, A) int64; see `RealSum` for real numbers.
        low, high: bounds, both inclusive.
        length: T.
        positions: where it adds up; None means the whole answer.
        show: a token as people write it.
        name: the sum's name in sentences, such as "cage 3".

    Raises:
        InputError: weights that are not int64, too large or of another shape, or bounds that no answer meets.
    """

    shift = 0

    def __init__(
        self,
        weights: IntTensor,
        low: int,
        high: int,
        length: int,
        positions: Sequence[int] | None = None,
        show: Callable[[int], str] = str,
        name: str = "the sum",
    ) -> None:
        weights = tensor_of("weights", weights, torch.int64)
        integers = weights.dtype == torch.int64
        self._take(weights, low, high, length, positions, integers, "torch.int64; see RealSum for real numbers")
        self.show, self.name = show, name
        ends = zip(self.weights.amin(-1).tolist(), self.weights.amax(-1).tolist(), strict=True)
        size = sum(max(-low, high) for low, high in ends)
        check(
            size <= LARGEST,
            f"the weights can add up to {size}, more than 2**61",
            "divide them by a common factor, or give real numbers to RealSum",
        )
        self._count_in_steps(self.weights, 0)
        kinds, kind = self.weights.unique(dim=0, return_inverse=True)
        # Partial sums lie between the sums of the negative and of the positive weights.
        lowest = int(self.weights.amin(-1).clamp(max=0).sum())
        highest = int(self.weights.amax(-1).clamp(min=0).sum())
        states = highest - lowest + 1
        self.machine = None  # type: ignore[assignment]
        if states <= SUMS and states * kinds.numel() <= 2**24:
            partial = torch.arange(states)
            after = partial[None, :, None] + kinds[:, None]
            tables = torch.where((after >= 0) & (after < states), after, -1)
            total = partial + lowest
            accepting = (total >= self.low_step) & (total <= self.high_step)
            self.machine = Machine.of(tables, kind, -lowest, accepting)

    def _value(self, steps: int) -> int:
        return steps

    def sums(self, answer: IntTensor) -> torch.Tensor:
        """(B, T) -> (B) int64."""
        return self.totals(answer)

    @property
    def strength(self) -> str:
        return RealSum.strength if self.machine is None else "exact"

    @property
    def has_most_likely(self) -> bool:
        return self.machine is not None

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        return Swept.most_likely(self, log_probs) if self.has_most_likely else Constraint.most_likely(self, log_probs)

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        return (RealSum if self.machine is None else Swept).allowed(self, answer, known, span)

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        return (RealSum if self.machine is None else Swept).propagate(self, candidates)

    def to(self, device: torch.device | str) -> Sum:
        moved = Constraint.to(self, device)
        return moved if self.machine is None else moved._changed({"machine": self.machine.to(device)})
