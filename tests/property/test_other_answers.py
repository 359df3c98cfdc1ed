"""Another answer for a state that lost its own: against all colorings of small graphs."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.diffusion.sets import full_sets
from constrained_dg.training.other_answers import other_answers
from tasks.graph.coloring import FIRST_COLOR, Coloring, ColoringProblem
from tasks.graph.graph import Graph
from tests.property.examples import fewer

NODES, COLORS = 5, 3


@fewer
@given(st.sets(st.sampled_from(list(itertools.combinations(range(NODES), 2))), min_size=1, max_size=7), st.integers(0))
def test_another_answer_is_found_exactly_where_the_sets_allow_one(edges, seed):
    task, graph = Coloring(), Graph(NODES, tuple(sorted(edges)))
    batch = task.encode([ColoringProblem.of(graph, COLORS)] * 2)
    generator = torch.Generator().manual_seed(seed % 2**63)
    sets = full_sets(batch.answer, batch.pinned, batch.noise)
    sets &= batch.pinned[..., None] | (torch.rand(sets.shape, generator=generator) < 0.6)
    answers, found = other_answers(task.rules(batch), batch, sets, torch.tensor([1]))
    allowed = [(sets[1, node].nonzero().flatten() + FIRST_COLOR).tolist() for node in range(NODES)]
    proper = [
        colors
        for colors in itertools.product(*allowed)
        if all(colors[one] != colors[other] for one, other in graph.edges)
    ]
    assert bool(found) == bool(proper)
    assert tuple(answers[0].tolist()) in proper if proper else torch.equal(answers[0], batch.answer[1])
