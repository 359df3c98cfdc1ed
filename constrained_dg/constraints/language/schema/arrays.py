"""The languages of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from constrained_dg.constraints.language.construction import automaton
from constrained_dg.constraints.language.expression import EMPTY, NOTHING, Alt, Expression, Lit, Net, Rep, Seq, text
from constrained_dg.constraints.language.schema.branches import Branch
from constrained_dg.constraints.language.schema.keywords import Demand
from constrained_dg.constraints.language.schema.leaves import listing
from constrained_dg.constraints.language.schema.nodes import Refused
from constrained_dg.constraints.language.schema.places import Place
from constrained_dg.constraints.language.schema.spelling import COMMA

#: States of an array's items, written out, from which a longer array is cut short.
_ITEMS = 2**14
#: Values of unique items.
_VALUES = 8


class Values(Protocol):
    """What is read of `languages.Languages`."""

    narrowed: set[str]

    def value(self, demands: Sequence[Demand], place: Place) -> Expression: ...


def array(of: Values, branch: Branch, place: Place) -> Expression:
    first = max((len(prefix) for prefix, _ in branch.items), default=0)
    low, high = branch.fewest_items, branch.most_items

    def at(k: int) -> Expression:
        demands = []
        for prefix, rest in branch.items:
            if k < len(prefix):
                demands.append(prefix[k])
            elif rest is not None:
                demands.append(rest)
        return of.value(demands, place.item(k))

    if high == 0 or (high is not None and high < low):
        return Lit(b"[]") if low == 0 and not branch.contains else NOTHING
    items = [at(k) for k in range(first)]
    rest = at(first)
    for k, item in enumerate([*items, rest]):
        if item.empty:
            high = k if high is None else min(high, k)
            break
    if branch.unique and (high is None or high > 1):
        return _unique(items, rest, low, high)
    if branch.contains:
        return _containing(of, branch, items, rest, low, high, place)
    edges: list[tuple[int, Expression, int]] = []
    end = first + 1
    for k in range(first):
        if k >= low and (high is None or k <= high):
            edges.append((k, EMPTY, end))
        if high is None or k < high:
            edges.append((k, Seq((text(COMMA if k else ""), items[k])), k + 1))
    edges.append((first, _tail(of, rest, first, low, high), end))
    return Seq((Lit(b"["), Net(end + 1, tuple(edges)), Lit(b"]")))


def _tail(of: Values, rest: Expression, first: int, low: int, high: int | None) -> Expression:
    """Items from number `first` on."""
    if high is not None and high <= first:
        return EMPTY if low <= first <= high else NOTHING
    if high is not None:
        most = max(low, first + max(1, _ITEMS // max(1, rest.size)))
        if high > most:
            of.narrowed.add("maxItems")
            high = most
    more = Seq((text(COMMA), rest))
    if first:
        return Rep(more, max(low - first, 0), None if high is None else high - first)
    some = Seq((rest, Rep(more, max(low - 1, 0), None if high is None else high - 1)))
    return some if low else Alt((EMPTY, some))


def _unique(items: Sequence[Expression], rest: Expression, low: int, high: int | None) -> Expression:
    """Items that all differ: where they are few values, the sets of those that were written."""
    where: list[list[bytes]] = []
    for item in [*items, rest]:
        texts = listing(automaton(item), _VALUES)
        if texts is None:
            raise Refused("uniqueItems", f"over items of more than {_VALUES} values")
        where.append(texts)
    values = sorted({each for texts in where for each in texts})
    if len(values) > _VALUES:
        raise Refused("uniqueItems", f"over items of more than {_VALUES} values")
    number: dict[int, int] = {0: 0}
    edges: list[tuple[int, Expression, int]] = []
    final = []
    for used in (order := [0]):  # grows
        count = used.bit_count()
        if low <= count and (high is None or count <= high):
            final.append(number[used])
        if high is not None and count >= high:
            continue
        for each in where[min(count, len(items))]:
            after = used | 1 << values.index(each)
            if after == used:
                continue
            if after not in number:
                number[after] = len(number)
                order.append(after)
            edges.append((number[used], Lit((COMMA.encode() if count else b"") + each), number[after]))
    edges += [(each, EMPTY, len(number)) for each in final]
    return Seq((Lit(b"["), Net(len(number) + 1, tuple(edges)), Lit(b"]")))


def _containing(
    of: Values, branch: Branch, items: Sequence[Expression], rest: Expression, low: int, high: int | None, place: Place
) -> Expression:
    """Some items must also satisfy another schema."""
    if len(branch.contains) > 1 or low > 32 or (high or 0) > 32 or branch.contains[0][1] > 32:
        raise Refused("contains", "more than once at one place, or with counts above 32")
    demand, needed = branch.contains[0]
    positions = max(len(items), low, high or 0)

    def wanted(k: int) -> Expression:
        demands = [demand]
        for prefix, others in branch.items:
            if k < len(prefix):
                demands.append(prefix[k])
            elif others is not None:
                demands.append(others)
        return of.value(demands, place.item(k))

    edges: list[tuple[int, Expression, int]] = []
    end = (positions + 1) * (needed + 1)
    for k in range(positions + 1):
        last = k == positions
        item = items[k] if k < len(items) else rest
        hit = wanted(k)
        for count in range(needed + 1):
            here = k * (needed + 1) + count
            if count == needed and k >= low and (high is None or k <= high):
                edges.append((here, EMPTY, end))
            if high is not None and k >= high:
                continue
            comma = text(COMMA if k else "")
            if last and positions == 0:
                # The first item has no comma: it leads to places of their own.
                continue
            to = here + (0 if last else needed + 1)
            edges.append((here, Seq((comma, item)), to))
            if count < needed:
                edges.append((here, Seq((comma, hit)), to + 1))
    if positions == 0:
        return _containing_freely(items, rest, wanted(0), needed)
    return Seq((Lit(b"["), Net(end + 1, tuple(edges)), Lit(b"]")))


def _containing_freely(items: Sequence[Expression], rest: Expression, hit: Expression, needed: int) -> Expression:
    """As `_containing`, where all items are alike and no number is demanded."""
    some = Rep(Seq((rest, text(COMMA))), 0, None)
    wanted = Seq((some, hit))
    more = Rep(Seq((text(COMMA), wanted)), needed - 1, needed - 1)
    return Seq((Lit(b"["), wanted, more, Rep(Seq((text(COMMA), rest)), 0, None), Lit(b"]")))
