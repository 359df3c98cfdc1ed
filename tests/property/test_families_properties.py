"""Families of graphs as rules: invariants by brute force, compiled walks against networkx, exact projections."""

from functools import lru_cache
from itertools import combinations

import networkx as nx
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constrained_dg.constraints import check_constraint, complete
from constrained_dg.errors import InputError
from tasks.graph.distances import belongs
from tasks.graph.families import Family, FamilyRule
from tasks.graph.graph import Graph
from tasks.graph.planarity import is_planar, keeps_planar, kuratowski
from tasks.graph.projection import fill, is_graphical, of_degrees, spanning_tree
from tasks.graph.tokens import FAMILIES, Coding
from tasks.graph.walks import bridges, pieces, sides
from tests.property.examples import many

seeds = st.integers(0, 2**32)
#: For tests that try all answers of a rule.
few = settings(many, max_examples=max(1, many.max_examples // 4))


def symmetric(values: np.ndarray, diagonal: float | bool) -> np.ndarray:
    whole = np.tril(values, -1)
    whole = whole | whole.T if values.dtype == bool else whole + whole.T
    np.fill_diagonal(whole, diagonal)
    return whole


def random_joined(nodes: int, density: float, seed: int) -> np.ndarray:
    return symmetric(np.random.default_rng(seed).random((nodes, nodes)) < density, False)


def random_scores(nodes: int, seed: int) -> np.ndarray:
    return symmetric(np.random.default_rng(seed).normal(size=(nodes, nodes)), -np.inf)


@lru_cache
def every_graph(nodes: int) -> np.ndarray:
    coding = Coding(nodes, 1, 0)
    return coding.from_tokens((np.arange(2**coding.length)[:, None] >> np.arange(coding.length)) & 1)[0]


@lru_cache
def members(family: Family) -> np.ndarray:
    return np.stack([graph for graph in every_graph(family.nodes) if family.holds(graph)])


@st.composite
def families(draw, low: int = 3, high: int = 5) -> Family:
    nodes, name = draw(st.integers(low, high)), draw(st.sampled_from(FAMILIES))
    if name == "degrees":  # those of some graph
        return Family.like(name, Graph.of_adjacency(random_joined(nodes, draw(st.floats(0, 1)), draw(seeds))))
    if name == "bipartite":
        side = draw(st.integers(1, nodes - 1))
        return Family.of(name, (side, nodes - side))
    if name == "connected":
        return Family.of(name, (nodes, draw(st.integers(nodes - 1, nodes * (nodes - 1) // 2))))
    if name == "regular":
        return Family.of(name, (nodes, draw(st.integers(0, nodes - 1).filter(lambda d: d * nodes % 2 == 0))))
    return Family.of(name, (nodes,))


@st.composite
def rules(draw, low: int = 3, high: int = 4, rows: int = 1) -> FamilyRule:
    nodes = draw(st.integers(low, high))
    chosen = draw(st.lists(families(nodes, nodes), min_size=rows, max_size=rows))
    other = st.integers(0, 1 if nodes == 3 else 0)  # tokens that are no pattern: with them four nodes have 4096 answers
    width, first, more = draw(st.integers(1, 2)), draw(other), draw(other)
    return FamilyRule(tuple(chosen), Coding(nodes, width, first), first + 2**width + more)


graphs = st.builds(random_joined, st.integers(1, 12), st.floats(0, 0.7), seeds)


@few
@given(rules(), seeds)
def test_every_invariant_of_a_rule(rule, seed):
    check_constraint(rule, examples=4, seed=seed % 2**31)


@few
@given(rules(rows=3), seeds)
def test_rows_of_different_families(rule, seed):
    generator = torch.Generator().manual_seed(seed % 2**31)
    answer = torch.randint(rule.num_classes, (3, rule.length), generator=generator)
    known = torch.rand(answer.shape, generator=generator) < 0.5
    whole = slice(0, rule.length)
    for row in range(3):
        alone, own = rule.select(torch.tensor([row])), answer[row : row + 1]
        assert torch.equal(rule.is_satisfied(answer)[row], alone.is_satisfied(own)[0])
        assert torch.equal(rule.violations(answer)[row], alone.violations(own)[0])
        may = rule.allowed(answer, known, whole)[row]
        assert torch.equal(may, alone.allowed(own, known[row : row + 1], whole)[0])
    stacked = FamilyRule.stack([rule.select(torch.tensor([row])) for row in range(3)])
    assert stacked.families == rule.families


@many
@given(families(2, 7), seeds, st.floats(0, 1))
def test_the_judge_is_networkx(family, seed, density):
    joined = random_joined(family.nodes, density, seed)
    assert family.holds(joined) == belongs(Graph.of_adjacency(joined), family)
    if family.nodes < 5:
        for graph in every_graph(family.nodes):
            assert family.holds(graph) == (family.faults(graph) == []) == belongs(Graph.of_adjacency(graph), family)


@many
@given(families(6, 9), seeds, st.floats(0, 1), st.floats(0, 0.9), st.floats(0, 0.5))
def test_what_may_be_holds_every_graph_of_the_family(family, seed, shift, density, more):
    """Also where crossing edges can be known: from six nodes on, where brute force cannot go."""
    draws = np.random.default_rng(seed)
    graph = family.project(random_scores(family.nodes, seed) + shift)
    decided = symmetric(draws.random(graph.shape) < density, False)
    one, zero = graph | ~decided, ~graph | ~decided
    np.fill_diagonal(one, False)
    wide = one.copy(), zero.copy()
    for requirement in family.requirements:
        requirement.tighten(*wide)
    assert not (graph & ~wide[0]).any() and not (~graph & ~wide[1]).any()
    # Monotone, also among sets that no graph of the family lies in.
    first = symmetric(draws.random(graph.shape) < 0.8, False), symmetric(draws.random(graph.shape) < 0.8, True)
    less = symmetric(draws.random(graph.shape) < 1 - more, True)
    second = first[0] & less, first[1] & symmetric(draws.random(graph.shape) < 1 - more, True)
    for requirement in family.requirements:
        before, after = ([one.copy(), zero.copy()] for one, zero in (first, second))
        requirement.tighten(*before)
        requirement.tighten(*after)
        assert not any((small & ~large).any() for small, large in zip(after, before, strict=True)), requirement


@many
@given(families(2, 12), st.sampled_from([1, 8]), seeds, st.floats(0, 30))
def test_repair_makes_a_graph_of_the_family_from_anything(family, width, seed, sharp):
    coding = Coding(family.nodes, width, 0)
    rule, draws = FamilyRule((family,), coding, 2**width), torch.Generator().manual_seed(seed % 2**31)
    draft = torch.randint(2**width, (coding.length,), generator=draws)
    log_probs = (torch.randn(coding.length, 2**width, generator=draws) * sharp).log_softmax(-1)
    nothing = torch.zeros_like(draft, dtype=torch.bool)
    found = complete(rule, draft, nothing, log_probs=log_probs, budget=0)
    assert found.answer is not None and rule.is_satisfied(found.answer[None])
    again = complete(rule, draft, nothing, log_probs=log_probs, budget=0)
    assert torch.equal(found.answer, again.answer)


@many
@given(families(2, 12), seeds)
def test_repair_keeps_what_the_model_is_sure_of(family, seed):
    coding = Coding(family.nodes, 8, 0)
    rule = FamilyRule((family,), coding, 256)
    wanted = torch.from_numpy(coding.to_tokens(family.project(random_scores(family.nodes, seed))[None]))[0]
    log_probs = torch.full((coding.length, 256), -40.0).scatter(1, wanted[:, None], 0.0)
    candidates = rule.propagate(torch.ones(1, coding.length, 256, dtype=torch.bool))[0]
    found, moves = rule.repair(wanted, candidates, log_probs)
    assert torch.equal(found, wanted) and moves == 0


@many
@given(families(3, 5), seeds)
def test_projections_to_trees_and_connected_graphs_are_the_best(family, seed):
    scores = random_scores(family.nodes, seed)
    total = np.where(np.tril(members(family)), np.maximum(scores, -1e9), 0).sum((1, 2))
    found = family.project(scores)
    assert family.holds(found)
    own = scores[np.tril(found)].sum()
    assert own <= total.max() + 1e-9
    if family.name in ("tree", "connected"):
        assert abs(own - total.max()) < 1e-9


@many
@given(graphs)
def test_walks_agree_with_networkx(joined):
    shown, label = nx.from_numpy_array(joined), pieces(joined)
    assert len(set(label.tolist())) == nx.number_connected_components(shown)
    assert all(label[one] == label[other] for one, other in shown.edges)
    found = {(one, other) for one, other in np.argwhere(bridges(joined)).tolist() if one < other}
    assert found == {(min(edge), max(edge)) for edge in nx.bridges(shown)}
    color, proper = sides(joined)
    assert proper == nx.is_bipartite(shown)
    assert not proper or all(color[one] != color[other] for one, other in shown.edges)
    assert is_planar(joined) == nx.check_planarity(shown)[0]


@many
@given(st.integers(4, 12), seeds, st.integers(0, 8))
def test_planarity_near_the_border(nodes, seed, added):
    """Largest planar graphs with a few edges more or fewer: random ones are rarely close."""
    scores = random_scores(nodes, seed)
    joined = fill(spanning_tree(scores), scores, nodes**2, True)
    assert nx.check_planarity(nx.from_numpy_array(joined))[0]
    ends = list(combinations(range(nodes), 2))
    for at in np.random.default_rng(seed).integers(len(ends), size=added):
        one, other = ends[at]
        joined[one, other] = joined[other, one] = not joined[one, other]
    shown = nx.from_numpy_array(joined)
    assert is_planar(joined) == nx.check_planarity(shown)[0]
    if is_planar(joined):
        may = keeps_planar(joined)
        for one, other in ends:
            more = nx.Graph(shown)
            more.add_edge(one, other)
            assert may[one, other] == nx.check_planarity(more)[0]
    else:
        part = nx.from_numpy_array(kuratowski(joined))
        assert not nx.check_planarity(part)[0] and set(part.edges) <= set(shown.edges)
        for edge in part.edges:
            less = nx.Graph(part)
            less.remove_edge(*edge)
            assert nx.check_planarity(less)[0]


@many
@given(st.integers(2, 12), seeds)
def test_a_largest_planar_graph_takes_no_more_edges(nodes, seed):
    scores = random_scores(nodes, seed)
    joined = fill(spanning_tree(scores), scores, nodes**2, True)
    assert not (keeps_planar(joined) & ~joined & ~np.eye(nodes, dtype=bool)).any() or nodes < 3


@many
@given(st.lists(st.integers(0, 7), min_size=1, max_size=8), seeds)
def test_degrees_are_met_exactly_where_some_graph_has_them(degrees, seed):
    assert is_graphical(np.array(degrees)) == nx.is_graphical(degrees)
    if len(degrees) > 1 and not nx.is_graphical(degrees):
        try:
            Family.of("degrees", tuple(degrees))
        except InputError:
            return
        raise AssertionError(f"{degrees} accepted")
    if nx.is_graphical(degrees):
        found = of_degrees(np.array(degrees), random_scores(len(degrees), seed))
        assert found.sum(0).tolist() == degrees and not found.diagonal().any() and (found == found.T).all()
