"""How many of some tokens, and sums of weights, whole or real."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from constrained_dg.constraints.base import Constraint, candidates_of
from constrained_dg.constraints.product import Counter
from constrained_dg.constraints.sweep import Layered, Machine, places
from constrained_dg.errors import check, is_count
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: Partial sums up to which `Sum` is exact.
SUMS = 2**14
#: By how much a sum of real weights may leave its window: rounding in the last places, not a difference.
TOLERANCE = 1e-9


def _positions(positions: Sequence[int] | None, length: int) -> IntTensor:
    """(T) bool of the positions that are meant; None means all."""
    check(is_count(length, 1), f"length is {length!r}", "give an integer of at least 1")
    chosen = list(range(length)) if positions is None else [int(at) for at in positions]
    outside = [at for at in chosen if not 0 <= at < length]
    check(not outside, f"positions {outside[:5]} are none", f"they run from 0 to {length - 1}")
    check(len(set(chosen)) == len(chosen) > 0, "positions are empty or stand twice", "give each once")
    mask = torch.zeros(length, dtype=torch.bool)
    mask[chosen] = True
    return mask


class Count(Layered):
    """Between `low` and `high` of the positions hold one of the tokens. `allowed` is exact.

    Args:
        tokens: the tokens that count.
        low, high: bounds, both inclusive; high None means no upper bound.
        length: T.
        num_classes: A.
        positions: where it counts; None means the whole answer.
        show: a token as people write it.

    Raises:
        InputError: bounds that no answer meets, positions or tokens that do not fit.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        low: int,
        high: int | None,
        length: int,
        num_classes: int,
        positions: Sequence[int] | None = None,
        show: Callable[[int], str] = str,
    ) -> None:
        self.mask, chosen = _positions(positions, length), sorted({int(token) for token in tokens})
        outside = [token for token in chosen if not 0 <= token < num_classes]
        check(
            bool(chosen) and not outside,
            f"tokens {outside or chosen} do not fit",
            f"give some of 0 to {num_classes - 1}",
        )
        places_ = int(self.mask.sum())
        high = places_ if high is None else high
        check(is_count(low) and is_count(high), f"bounds are {low!r} and {high!r}", "give integers of at least 0")
        check(low <= places_, f"at least {low} are asked of {places_} positions", f"ask for at most {places_}")
        check(low <= high, f"low {low} lies above high {high}", "give low <= high")
        check(
            len(chosen) < num_classes or high >= places_,
            f"every token counts, so that {places_} are held and not at most {high}",
            f"raise high to {places_}, or count fewer tokens",
        )
        self.tokens, self.low, self.high = torch.tensor(chosen), low, high
        self.length, self.num_classes, self.show = length, num_classes, show
        # Counts beyond low are alike where nothing bounds them above.
        states = (low if high >= places_ else high) + 1
        held = torch.arange(states)
        more = torch.where(held + 1 < states, held + 1, held if high >= places_ else -1)
        tables = held[:, None].expand(-1, num_classes).repeat(2, 1, 1)
        tables[1][:, chosen] = more[:, None]
        self.machine = Machine.of(tables, self.mask.long(), 0, held >= low)

    def _held(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        return torch.isin(answer, self.tokens) & self.mask

    def violations(self, answer: IntTensor) -> BoolTensor:
        """Too many: those that count. Too few: the others of the group."""
        held = self._held(answer)
        count = held.sum(-1, keepdim=True)
        return (held & (count > self.high)) | (~held & self.mask & (count < self.low))

    def explain(self, answer: IntTensor) -> list[list[str]]:
        names = [self.show(token) for token in self.tokens.tolist()]
        what = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
        told = []
        for row in self._held(answer):
            at = row.nonzero().flatten().tolist()
            where = f", at {places(at)}" if at else ""
            wanted = f"at most {self.high} may" if len(at) > self.high else f"at least {self.low} must"
            right = self.low <= len(at) <= self.high
            told.append([] if right else [f"{len(at)} positions hold {what}{where}; {wanted}"])
        return told

    def neighbours(self) -> BoolTensor:
        return (self.mask[:, None] & self.mask)[None]

    @property
    def counter(self) -> Counter:
        held = torch.isin(torch.arange(self.num_classes), self.tokens.cpu())
        return Counter((held & self.mask[:, None].cpu()).double(), self.low, self.high)


class RealSum(Constraint):
    """The weights of the tokens, real numbers, add up to a number between `low` and `high`.

    `allowed` and `propagate` bound the rest of the sum by its smallest and largest value: sound. Beside automata they
    are swept on a grid, see `counted`.

    Args:
        weights: (A) or (T, A) float64.
        low, high: bounds, both inclusive, -inf and inf for none; a sum may leave them by 1e-9.
        length: T.
        positions: where it adds up; None means the whole answer.
        show: a token as people write it.
        what: what sentences call the sum.

    Raises:
        InputError: weights of another shape or type or not finite, or bounds that no answer meets.
    """

    strength = "sound: the rest of the sum is bounded by its smallest and largest"
    #: By how much a sum may leave the bounds, and by how much the sum of the weights of an answer that satisfies may:
    #: more, since sums in another order round otherwise.
    slack, reach = TOLERANCE, 2 * TOLERANCE

    def __init__(
        self,
        weights: FloatTensor,
        low: float,
        high: float,
        length: int,
        positions: Sequence[int] | None = None,
        show: Callable[[int], str] = str,
        what: str = "the sum",
    ) -> None:
        fine = weights.dtype == torch.float64 and bool(weights.isfinite().all())
        self._take(weights, low, high, length, positions, fine, "torch.float64, all finite")
        self.show, self.what = show, what

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
        self.mask = _positions(positions, length)
        check(
            fine and (weights.dim() == 1 or (weights.dim() == 2 and len(weights) == length)),
            f"weights have shape {tuple(weights.shape)} and type {weights.dtype}",
            f"give (tokens) or ({length}, tokens) of {wanted}",
        )
        check(low <= high, f"low {low} lies above high {high}", "give low <= high")
        self.weights = weights.expand(length, -1) * self.mask[:, None]
        self.low, self.high, self.length, self.num_classes = low, high, length, weights.shape[-1]
        least, most = self.weights.amin(-1).sum().item(), self.weights.amax(-1).sum().item()
        check(
            least <= high + self.reach and most >= low - self.reach,
            f"sums run from {least:.8g} to {most:.8g}, and none lies between {low} and {high}",
            "change the bounds",
        )

    @property
    def counter(self) -> Counter:
        return Counter(self.weights.double().cpu(), self.low - self.reach, self.high + self.reach)

    @property
    def bound(self) -> BoolTensor:
        return (self.weights != self.weights[:, :1]).any(-1)

    def sums(self, answer: IntTensor) -> torch.Tensor:
        """(B, T) -> (B)."""
        self.check_answer(answer)
        return self.weights.gather(-1, answer.T).sum(0)

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        total = self.sums(answer)
        return (total >= self.low - self.slack) & (total <= self.high + self.slack)

    def violations(self, answer: IntTensor) -> BoolTensor:
        """Every position that could bring the sum nearer; all that the rule is about where none can alone."""
        total = self.sums(answer)[:, None]
        held = self.weights.gather(-1, answer.T).T
        over, under = total > self.high + self.slack, total < self.low - self.slack
        helps = (over & (held > self.weights.amin(-1))) | (under & (held < self.weights.amax(-1)))
        return helps & self.bound

    def explain(self, answer: IntTensor) -> list[list[str]]:
        told = []
        for total, right in zip(self.sums(answer).tolist(), self.is_satisfied(answer).tolist(), strict=True):
            side = f"above {self.high}" if total > self.high else f"below {self.low}"
            told.append([] if right else [f"{self.what} is {total:.8g}, {side}"])
        return told

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
        """(B, T, A): a token goes whose weight the others, at their smallest or largest, cannot make up for."""
        far = 2**40
        least = self.weights.masked_fill(~candidates, far).amin(-1)
        most = self.weights.masked_fill(~candidates, -far).amax(-1)
        rest_least, rest_most = (each.sum(-1, keepdim=True) - each for each in (least, most))
        low, high = self.low - self.reach, self.high + self.reach
        fits = (self.weights + rest_least[..., None] <= high) & (self.weights + rest_most[..., None] >= low)
        return candidates & fits

    def neighbours(self) -> BoolTensor:
        return (self.bound[:, None] & self.bound)[None]


class Sum(RealSum, Layered):
    """The weights of the tokens, whole numbers, add up to a number between `low` and `high`.

    Exact where at most 2**14 partial sums matter. Beyond, `allowed` and `propagate` bound the rest of the sum by its
    smallest and largest value: sound.

    Args:
        weights: (A) or (T, A) int64; see `RealSum` for numbers that are not whole.
        low, high: bounds, both inclusive.
        length: T.
        positions: where it adds up; None means the whole answer.
        show: a token as people write it.

    Raises:
        InputError: weights that are not whole or of another shape, or bounds that no answer meets.
    """

    slack = reach = 0
    what = "the sum"

    def __init__(
        self,
        weights: IntTensor,
        low: int,
        high: int,
        length: int,
        positions: Sequence[int] | None = None,
        show: Callable[[int], str] = str,
    ) -> None:
        whole = weights.dtype == torch.int64
        self._take(weights, low, high, length, positions, whole, "torch.int64; see RealSum for real numbers")
        self.show = show
        kinds, kind = self.weights.unique(dim=0, return_inverse=True)
        # Before any position the sum is 0; every partial sum lies between the sums of what is negative and positive.
        lowest = int(self.weights.amin(-1).clamp(max=0).sum())
        highest = int(self.weights.amax(-1).clamp(min=0).sum())
        states = highest - lowest + 1
        self.machine = None
        if states <= SUMS and states * kinds.numel() <= 2**24:
            held = torch.arange(states)
            after = held[None, :, None] + kinds[:, None]
            tables = torch.where((after >= 0) & (after < states), after, -1)
            total = held + lowest
            self.machine = Machine.of(tables, kind, -lowest, (total >= low) & (total <= high))
            possible = bool(self.machine.best(torch.zeros(1, length, self.num_classes))[1])
            check(possible, f"no sum lies between {low} and {high}", "change the bounds: the weights leave gaps there")

    @property
    def strength(self) -> str:
        return RealSum.strength if self.machine is None else "exact"

    @property
    def rows(self) -> int:
        return 1

    @property
    def has_most_likely(self) -> bool:
        return self.machine is not None

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        return Layered.most_likely(self, log_probs) if self.has_most_likely else Constraint.most_likely(self, log_probs)

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        return (RealSum if self.machine is None else Layered).allowed(self, answer, known, span)

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        return (RealSum if self.machine is None else Layered).propagate(self, candidates)

    def to(self, device: torch.device | str) -> Sum:
        moved = Constraint.to(self, device)
        return moved if self.machine is None else moved._changed({"machine": self.machine.to(device)})
