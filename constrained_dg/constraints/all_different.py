"""Groups whose members all hold different tokens: rows, columns and boxes of a Sudoku."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.candidates import candidates_of
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.constraints.words import members_at, places
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor, tensor_of

#: Pairs of positions up to which `too_many_to_differ` looks.
_PAIRS = 100_000


def too_many_to_differ(apart: BoolTensor, tokens: int) -> list[int]:
    """Positions that provably cannot differ with this many tokens; empty where no proof is found.

    Args:
        apart: (T, T), True where two positions must differ.
        tokens: the number of tokens.
    """
    if int(apart.sum()) > _PAIRS:
        return []
    around = [set(row.nonzero().flatten().tolist()) for row in apart]
    # 1. With two tokens neighbors alternate, so a ring of odd length fails.
    side: dict[int, int] = {}
    for start in range(len(around) if tokens == 2 else 0):
        side.setdefault(start, 0)
        for at in (order := [start]):  # grows as positions are reached
            clash = [other for other in around[at] if side.get(other) == side[at]]
            if clash:
                return sorted(order)
            fresh = [other for other in around[at] if other not in side]
            side |= {other: 1 - side[at] for other in fresh}
            order += fresh
    # 2. More positions than tokens that all differ from each other, grown greedily from each position.
    for start, others in enumerate(around):
        clique, left = [start], set(others)
        while left and len(clique) <= tokens:
            at = max(sorted(left), key=lambda other: len(around[other] & left))
            clique.append(at)
            left &= around[at]
        if len(clique) > tokens:
            return sorted(clique)
    return []


@dataclass(frozen=True, eq=False, repr=False)
class AllDifferent(Constraint):
    """Within each group every token is different, and is one of the permitted tokens. The same rule for every row.

    Positions in no group are not bound. Strength of `allowed`: one step of elimination by the known members, and the
    permitted tokens. Strength of `propagate`: naked singles to a fixed point; where a group has as many members as
    there are permitted tokens also hidden singles, since each token then needs a position.

    Args:
        groups: (G, n) int64, positions of each group.
        names: G names, such as "row 3".
        tokens: (low, high), the half-open range of permitted tokens.
        length: T.
        num_classes: A.
        show: a token as people write it.
        where: (group, members of it) -> where they are, such as "columns 2 and 8".

    Raises:
        InputError: a position or the token range does not fit, a group holds a position twice or has more members than
            there are tokens, a name is missing, or positions that overlapping groups bind provably need more tokens (a
            set of positions that all differ, found greedily; with two tokens also a ring of odd length).
    """

    groups: IntTensor
    names: Sequence[str]
    tokens: tuple[int, int]
    length: int
    num_classes: int
    show: Callable[[int], str] = str
    where: Callable[[int, list[int]], str] = members_at
    blame_is_reason = True
    strength = "one step of elimination: no token of a known member, and only permitted tokens"

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tensor_of("groups", self.groups, torch.int64))
        groups, (low, high) = self.groups, self.tokens
        check(groups.dim() == 2 and groups.numel() > 0, f"groups have shape {tuple(groups.shape)}", "give (G, n)")
        check(
            int(groups.min()) >= 0 and int(groups.max()) < self.length,
            f"groups name positions {int(groups.min())} to {int(groups.max())}",
            f"an answer of length {self.length} has positions 0 to {self.length - 1}",
        )
        check(
            0 <= low < high <= self.num_classes,
            f"permitted tokens [{low}, {high}) do not fit the alphabet of {self.num_classes}",
            f"give 0 <= low < high <= {self.num_classes}",
        )
        check(
            groups.shape[1] <= high - low,
            f"groups of {groups.shape[1]} cannot all differ with {high - low} tokens",
            "permit more tokens or make the groups smaller",
        )
        check(int(self._membership.max()) == 1, "a group holds the same position twice", "name each position once")
        check(len(self.names) == len(groups), f"{len(self.names)} names for {len(groups)} groups", "name each group")
        apart = self._membership.T @ self._membership > 0
        stuck = too_many_to_differ(apart & ~torch.eye(self.length, dtype=torch.bool, device=apart.device), high - low)
        check(
            not stuck,
            f"{places(stuck or [0])} cannot differ as the groups require with {high - low} tokens",
            "permit more tokens or bind fewer positions",
        )

    @cached_property
    def _membership(self) -> FloatTensor:
        """(G, T), 1 where the position is a member: float, since counting members is a matrix product."""
        member = torch.zeros(len(self.groups), self.length, device=self.groups.device)
        return member.scatter_add_(1, self.groups, torch.ones_like(self.groups, dtype=member.dtype))

    @cached_property
    def bound(self) -> BoolTensor:
        """(T) True where a position is in some group."""
        return self._membership.any(0)

    @cached_property
    def _permitted(self) -> BoolTensor:
        """(T, A) what the range permits at each position."""
        ids = torch.arange(self.num_classes, device=self.groups.device)
        return ((ids >= self.tokens[0]) & (ids < self.tokens[1])) | ~self.bound[:, None]

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        return ~self.violations(answer).any(-1)

    def violations(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        low, high = self.tokens
        foreign = (answer < low) | (answer >= high)
        # Foreign tokens share one more bin, which is never read.
        values = torch.where(foreign, high - low, answer - low)[:, self.groups]
        counts = values.new_zeros(len(answer), len(self.groups), high - low + 1)
        counts.scatter_add_(2, values, torch.ones_like(values))
        repeated = (counts.gather(2, values) > 1).flatten(1)
        clash = torch.zeros_like(answer).index_add_(1, self.groups.flatten(), repeated.long()) > 0
        return (clash | foreign) & self.bound

    def explain(self, answer: IntTensor) -> list[list[str]]:
        self.check_answer(answer)
        return [self._sentences(row) for row in answer.tolist()]

    def _sentences(self, row: list[int]) -> list[str]:
        sentences: list[str] = []
        named: set[int] = set()
        for group, positions in enumerate(self.groups.tolist()):
            holders: dict[int, list[int]] = {}
            for member, position in enumerate(positions):
                holders.setdefault(row[position], []).append(member)
            for token, members in holders.items():
                what = f"{self.names[group]} holds {self.show(token)}"
                if not self.tokens[0] <= token < self.tokens[1]:
                    members = [member for member in members if positions[member] not in named]
                    named.update(positions[member] for member in members)
                    if members:
                        sentences.append(f"{what} at {self.where(group, members)}, which is not permitted there")
                elif len(members) > 1:
                    times = "twice" if len(members) == 2 else f"{len(members)} times"
                    sentences.append(f"{what} {times}, at {self.where(group, members)}")
        return sentences

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        self.check_answer(answer)
        low, high = self.tokens
        ids = torch.arange(low, high, device=answer.device)
        decided = ((answer[..., None] == ids) & known[..., None]).to(self._membership.dtype)
        free = self._eliminate(decided, span)
        may = candidates_of(answer[:, span], known[:, span], self.num_classes) & self._permitted[span]
        may[..., low:high] &= free
        return may

    def _eliminate(self, decided: FloatTensor, span: slice = slice(None)) -> BoolTensor:
        """(B, T, K) one-hot decided tokens -> (B, C, K), False where another member of a group has the token.

        A member counts itself once for each of its groups; these counts are not clashes.
        """
        member = self._membership
        counts = member[:, span].T @ (member @ decided)
        return counts <= member.sum(0)[span, None] * decided[:, span]

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        low, high = self.tokens
        candidates = candidates & self._permitted
        sets = candidates[..., low:high].to(self._membership.dtype)
        size = None
        while (new_size := int(sets.count_nonzero())) != size:
            size = new_size
            sets = sets * self._eliminate(sets * (sets.sum(-1, keepdim=True) == 1))
            if self.groups.shape[1] == high - low:
                sets = self._hidden_singles(sets)
        # Only unbound positions have tokens outside the permitted range; nothing was eliminated there.
        return torch.cat([candidates[..., :low], sets > 0, candidates[..., high:]], -1)

    def _hidden_singles(self, sets: FloatTensor) -> FloatTensor:
        """A token with one place left in a group goes there; with no place left, the group's sets become empty."""
        member = self._membership
        homes = member @ sets
        must = sets * (member.T @ (homes == 1).to(sets.dtype) > 0)
        demands = must.sum(-1, keepdim=True)
        homeless = member.T @ (homes == 0).any(-1, keepdim=True).to(sets.dtype)
        # Two tokens that both need one position: a contradiction, so the set is empty.
        return torch.where(demands == 0, sets, must * (demands == 1)) * (homeless == 0)

    def lower(self, into: Lowering) -> None:
        low, high = self.tokens
        into.all_of(~into.literals[~self._permitted.numpy()])
        for group in self.groups.numpy():
            for token in range(low, high):
                literals = into.literals[group, token]
                # As many members as tokens: each token has a place.
                (into.exactly_one if len(group) == high - low else into.at_most_one)(literals)

    def lower_opposite(self, into: Lowering) -> None:
        foreign = into.literals[~self._permitted.numpy()].tolist()
        low, high = self.tokens
        twice = []
        for group in self.groups.numpy():
            for token in range(low, high):
                twice.append(one := into.new_literal())
                literals = into.literals[group, token]
                into.given(one).linear([1] * len(group), literals, low=2)
        into.clause([*foreign, *twice])

    def renamed(self, positions: Sequence[int]) -> AllDifferent:
        groups = self.groups.tolist()

        def where(group: int, members: list[int]) -> str:
            return members_at(group, [positions[groups[group][member]] for member in members])

        return self._changed({"where": where}) if self.where is members_at else self
