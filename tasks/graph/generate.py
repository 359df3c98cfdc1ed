"""Graphs of a family: the prompt names it, the canvas holds the upper triangle, eight pairs in each token.

Planar training graphs are Delaunay triangulations of uniform random points, trees are uniform labelled trees, as in the
usual benchmarks (SPECTRE 2022, ESGG 2024); for the others see `make_graph`. Nodes are in a new random breadth-first
order each time a graph trains, see `in_order`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import networkx as nx
import numpy as np
import torch

from constrained_dg.errors import check, is_count
from constrained_dg.evaluation import Outcome
from constrained_dg.numba_jit import compiled
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch, Problem, Task, normalised

from . import distances
from .drawing import plot_graph
from .families import Family, FamilyRule
from .graph import Graph, random_graph
from .graph_files import located, read_graphs, stem
from .isomorphism import Classes
from .layout import layout
from .specification import Specification
from .tokens import (
    EOS,
    FAMILIES,
    FIRST_PATTERN,
    MOST_NODES,
    PAD,
    RELATIONS,
    Coding,
    check_width,
    coding_of,
    from_prompt,
    prompt_length,
    relations,
    to_prompt,
)
from .walks import breadth_first

#: Graphs drawn for each wanted one on its side of the split (one class in 16 is held out) before an error.
_TRIES = 2000
_RED, _OFF = "\x1b[31m", "\x1b[0m"


@dataclass(frozen=True)
class GenerateProblem(Problem):
    """A graph to write.

    Attributes:
        family: of the graph, or its requirements.
        reference: a graph of the family for comparing sets of answers, never shown to the model; or None.
    """

    family: Family | Specification
    reference: Graph | None = None

    @classmethod
    def of(cls, family: Family | Specification, reference: Graph | None = None) -> GenerateProblem:
        """The problem of a family; its tier is the name and the number of nodes."""
        return cls(f"{family.name} {family.nodes}", family.text, family, reference)


@compiled
def delaunay(points):
    """The Delaunay triangulation of points (n, 2) in general position, as an adjacency (n, n) bool.

    Two points are joined where some circle through both holds no third (Delaunay 1934). Its centre moves along their
    bisector, at middle + t * normal, and each third point bounds t from one side.
    """
    n = len(points)
    joined = np.zeros((n, n), np.bool_)
    for one in range(n):
        for other in range(one):
            x, y = points[other, 0] - points[one, 0], points[other, 1] - points[one, 1]
            low, high = -np.inf, np.inf
            for third in range(n):
                if third != one and third != other:
                    u, v = points[third, 0] - points[one, 0], points[third, 1] - points[one, 1]
                    # Outside where t * turn <= u * (u - x) / 2 + v * (v - y) / 2.
                    turn, bound = v * x - u * y, (u * (u - x) + v * (v - y)) / 2
                    if turn > 0:
                        high = min(high, bound / turn)
                    else:
                        low = max(low, bound / turn)
            joined[one, other] = joined[other, one] = low <= high
    return joined


def make_graph(name: str, nodes: int, draws: np.random.Generator) -> Graph:
    """A random graph of some family of this name.

    planar: Delaunay. tree: uniform, by its Pruefer sequence (1918). The others: the family's projection of random
    scores, with 3 to 6 neighbours; the degrees of a G(n, p); sides of a third to a half; up to 3 n edges.
    """
    if name == "planar":
        return Graph.of_adjacency(delaunay(draws.random((nodes, 2))))
    if name == "tree":
        return Graph.of(nodes, nx.from_prufer_sequence(draws.integers(nodes, size=nodes - 2).tolist()).edges)
    if name == "degrees":
        family = Family.like(name, random_graph(nodes, draws.uniform(0.15, 0.5), draws))
    elif name == "regular":
        degree = int(draws.integers(min(3, nodes - 1), min(6, nodes - 1) + 1))
        family = Family.of(name, (nodes, degree if nodes * degree % 2 == 0 else degree - 1))
    elif name == "bipartite":
        side = int(draws.integers(max(1, nodes // 3), nodes // 2 + 1))
        family = Family.of(name, (side, nodes - side))
    else:
        most = min(3 * nodes, nodes * (nodes - 1) // 2)
        family = Family.of(name, (nodes, int(draws.integers(nodes - 1, most + 1))))
    scores = np.tril(draws.logistic(-1.0, size=(nodes, nodes)), -1)
    scores = scores + scores.T
    np.fill_diagonal(scores, -np.inf)
    return Graph.of_adjacency(family.project(scores))


@lru_cache(maxsize=2**14)
def rotations(graph: Graph) -> np.ndarray:
    """(n, d) int64, the neighbours of each node of a planar graph clockwise in some drawing, then -1."""
    _, drawing = nx.check_planarity(graph.networkx)
    return _filled([list(drawing.neighbors_cw_order(node)) for node in range(graph.nodes)])


def _filled(rows: Sequence[Sequence[int]]) -> np.ndarray:
    table = np.full((len(rows), max(1, *map(len, rows))), -1)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def in_order(graph: Graph, planar: bool, draws: np.random.Generator) -> Graph:
    """The same graph with its nodes in a breadth-first order from a random start.

    Neighbours are visited in random order; in planar graphs, in their order around the node in a drawing, in either
    direction. Then each node is joined to a run of the layer before, next to the run of the previous node, which is
    quickly learned.
    """
    if planar:
        turns = rotations(graph)
        if draws.random() < 0.5:
            turns = _filled([row[row >= 0][::-1] for row in turns])
    else:
        turns = _filled([draws.permutation(np.flatnonzero(row)) for row in graph.adjacency])
    start = int(draws.integers(graph.nodes))
    return graph.permuted(breadth_first(turns, start, int(draws.integers(max(1, graph.degrees[start])))))


class GenerateGraphs(Task):
    """Graphs of families: planar, tree, regular, given degrees, bipartite, connected with n nodes and m edges.

    Args:
        mix: family -> nodes -> share of the training batches; each batch has one entry, the same on every rank.
        graphs: base graphs of each entry of the mix, of classes that are not held out; made on first use.
        width: pairs in a token, 8 or 1; see `tasks.graph.tokens`.
        family: of graphs from files whose names do not begin with a family.
        seed: of base graphs and batches; not negative.

    Raises:
        InputError: a value out of range, an unknown family, or graphs that do not fit one canvas.
    """

    name = "graph/generate"
    samplers = ("exact_sharper", "guaranteed")
    asks: ClassVar = {"kind": "line", "example": "nodes=10 degree=3 girth>=5"}
    vocab_size = FIRST_PATTERN + 256
    blank_id = PAD
    padding_id = EOS
    num_relations = len(RELATIONS)

    def __init__(
        self,
        mix: Mapping[str, Mapping[int, float]] | None = None,
        graphs: int = 2000,
        width: int = 8,
        family: str | None = None,
        seed: int = 0,
    ) -> None:
        given = {"planar": {64: 1.0}} if mix is None else mix
        nested = isinstance(given, Mapping) and all(isinstance(sizes, Mapping) for sizes in given.values())
        check(nested, f"mix={mix!r}", "give family, nodes and share, such as {planar: {64: 1.0}}")
        for name in [*given, *([] if family is None else [family])]:
            check(name in FAMILIES, f"no family {name!r}", f"known: {', '.join(FAMILIES)}")
        shares = {(name, int(n)): float(share) for name, sizes in given.items() for n, share in sizes.items()}
        self.mix = normalised(shares, "mix")
        for name, nodes in shares:
            check(8 <= nodes <= MOST_NODES, f"{name} graphs of {nodes} nodes", f"train on 8 to {MOST_NODES}")
            check_width(width, nodes)
        check(is_count(graphs, 1), f"graphs={graphs!r}", "use an integer of at least 1")
        check(is_count(seed), f"seed={seed!r}", "use an integer that is not negative")
        self.graphs, self.width, self.family, self.seed = graphs, width, family, seed
        self.max_canvas = max(self._coding(nodes).length for _, nodes in self.mix)
        self.max_prompt = max(prompt_length(nodes, name == "degrees") for name, nodes in self.mix)
        self._pools: dict[tuple[str, int], list[Graph]] = {}

    def _coding(self, nodes: int) -> Coding:
        return coding_of(nodes, self.width)

    def training_graphs(self, name: str, nodes: int) -> list[Graph]:
        """The base graphs of an entry of the mix, a pure function of the seed; empty for what is not in the mix."""
        if (name, nodes) in self.mix and (name, nodes) not in self._pools:
            draws = np.random.default_rng((self.seed, FAMILIES.index(name), nodes))
            self._pools[name, nodes] = _graphs(name, nodes, self.graphs, False, draws)
        return self._pools.get((name, nodes), [])

    def train_batch(self, step: int, batch_size: int, rank: int = 0) -> Batch:
        """The batch of one optimiser step, a pure function of (seed, step, batch_size, rank)."""
        # Family and size depend on the step alone: ranks that wait for each other should have equal work.
        entries = list(self.mix)
        drawn = np.random.default_rng((self.seed, step)).choice(len(entries), p=list(self.mix.values()))
        name, nodes = entries[drawn]
        draws = np.random.default_rng((self.seed, step, rank, batch_size))
        pool = self.training_graphs(name, nodes)
        picked = [pool[at] for at in draws.integers(len(pool), size=batch_size)]
        ordered = [in_order(graph, name == "planar", draws) for graph in picked]
        families = [Family.like(name, graph) for graph in ordered]
        return self._batch(families, np.stack([graph.adjacency for graph in ordered]))

    def held_out(self, per_tier: int, seed: int) -> list[GenerateProblem]:
        """Problems with reference graphs of classes that never train: `per_tier` for each entry of the mix."""
        check(per_tier >= 1, f"per_tier={per_tier}", "use at least 1")
        check(seed >= 0, f"seed={seed}", "use a number that is not negative")
        problems = []
        for name, nodes in self.mix:
            draws = np.random.default_rng((seed, FAMILIES.index(name), nodes, 1))
            references = _graphs(name, nodes, per_tier, True, draws)
            problems += [GenerateProblem.of(Family.like(name, graph), graph) for graph in references]
        return problems

    def overlap(self, problems: Sequence[GenerateProblem]) -> list[int]:
        """Which references are isomorphic to a training graph, as indices."""
        entries = {(problem.family.name, problem.family.nodes) for problem in problems if problem.reference}
        known = Classes(graph for entry in sorted(entries) for graph in self.training_graphs(*entry))
        return [at for at, problem in enumerate(problems) if problem.reference and problem.reference in known]

    def encode(self, problems: Sequence[GenerateProblem]) -> Batch:
        """Tokens of problems of one shape: prompt (B, S), and canvas (B, T) of empty graphs, without references."""
        nodes = problems[0].family.nodes
        return self._batch([problem.family for problem in problems], np.zeros((len(problems), nodes, nodes), bool))

    def _batch(self, wanted: Sequence[Family | Specification], joined: np.ndarray) -> Batch:
        families = [each.nearest for each in wanted]
        coding = self._coding(families[0].nodes)
        prompt = torch.tensor([to_prompt(family.name, family.nodes, family.numbers) for family in families])
        canvas = torch.from_numpy(coding.to_tokens(joined))
        noise = (coding.first, coding.first + 2**coding.width)
        pinned = torch.zeros_like(canvas, dtype=torch.bool)
        return Batch(prompt, canvas, pinned, relations(coding, families[0].name == "degrees"), noise)

    def shape_of(self, problem: GenerateProblem) -> tuple[int, int]:
        nodes = problem.family.nodes
        check_width(self.width, nodes)
        return prompt_length(nodes, problem.family.nearest.name == "degrees"), self._coding(nodes).length

    def constraint(self, problems: Sequence[GenerateProblem]) -> FamilyRule:
        families = tuple(problem.family for problem in problems)
        return FamilyRule(families, self._coding(families[0].nodes), self.vocab_size)

    def rules(self, batch: Batch) -> FamilyRule:
        families = []
        for row in batch.prompt.tolist():
            name, nodes, numbers = from_prompt(row)
            full = {"bipartite": (nodes - numbers[0], *numbers), "planar": (nodes,), "tree": (nodes,)}
            full |= {"degrees": numbers}
            families.append(Family.of(name, full.get(name, (nodes, *numbers))))
        return FamilyRule(tuple(families), self._coding(families[0].nodes), self.vocab_size)

    def read(self, path: str) -> list[GenerateProblem]:
        """One problem for each graph of a file (`graph_files.read_graphs`), with the graph as its reference.

        The name of the file begins with the family, as in planar_val.g6.gz; else it is that of the task.
        """
        begin = next((name for name in FAMILIES if stem(Path(path)).startswith(name)), self.family)
        known = f"let its name begin with one of {', '.join(FAMILIES)}, or train with task.family=NAME"
        check(begin is not None, f"{path}: of which family are these graphs?", known)
        return [
            GenerateProblem.of(located(named.source, Family.of_graph, begin, named.graph), named.graph)
            for named in read_graphs(path, MOST_NODES)
        ]

    def parse(self, text: str) -> GenerateProblem:
        """One problem from the command line: a family such as regular:16,3 (see `Family`), or requirements such as
        nodes=10 degree=3 girth>=5 (see `Specification`). The prompt names the family nearest to these."""
        return GenerateProblem.of(Specification.parse(text) if "=" in text else Family.parse(text))

    def graph_of(self, problem: GenerateProblem, answer: IntTensor) -> Graph:
        """The graph of an answer (T); a token that is not a pattern of its position adds no edge."""
        [joined], _ = self._coding(problem.family.nodes).from_tokens(answer.cpu().numpy()[None])
        return Graph.of_adjacency(joined)

    def decode(self, problem: GenerateProblem, answer: IntTensor) -> str:
        """As graph6."""
        return self.graph_of(problem, answer).graph6

    def measure(self, outcomes: Sequence[Outcome], model: Any = None) -> dict[str, dict[str, Any]]:
        """See `distances.measure`; with the references of the problems and the training graphs."""
        problems: list[GenerateProblem] = [outcome.problem for outcome in outcomes]
        graphs = [self.graph_of(problem, outcome.tokens) for problem, outcome in zip(problems, outcomes, strict=True)]
        families = [problem.family for problem in problems]
        references = [problem.reference for problem in problems if problem.reference is not None]
        training = [
            graph
            for entry in sorted({(family.name, family.nodes) for family in families})
            for graph in self.training_graphs(*entry)
        ]
        return distances.measure(families, graphs, references, training)

    def draw(self, problem: GenerateProblem, answer: IntTensor | None, violations: BoolTensor | None = None) -> str:
        """A triangle of pairs, one line for each node: # for an edge, . for none; ! and : in red where violated."""
        family = problem.family
        if answer is None:
            return family.text
        joined, marked = self.graph_of(problem, answer).adjacency, self._marked(problem, violations)
        lines = [family.text]
        for node in range(family.nodes):
            cells = [
                f"{_RED}{'!' if edge else ':'}{_OFF}" if wrong else "#" if edge else "."
                for edge, wrong in zip(joined[node, :node], marked[node, :node], strict=True)
            ]
            lines.append(f"{node + 1:>4} {''.join(cells)}")
        return "\n".join(lines)

    def picture(self, problem: GenerateProblem, answer: IntTensor | None = None) -> dict[str, Any]:
        """Nodes stand where the graph of the answer is drawn well; without one on a circle."""
        coding = self._coding(problem.family.nodes)
        complete = Graph.of_adjacency(~np.eye(coding.nodes, dtype=bool))
        places = layout(complete if answer is None else self.graph_of(problem, answer)).round(3).tolist()
        return {"kind": "pairs", "first": coding.first, "places": places, "pairs": coding.pairs}

    def plot(
        self, axes: Any, problem: GenerateProblem, answer: IntTensor | None, violations: BoolTensor | None = None
    ) -> None:
        """The graph, edges of violating tokens red."""
        if answer is None:
            axes.set_axis_off()
            return
        graph, marked = self.graph_of(problem, answer), self._marked(problem, violations)
        plot_graph(axes, graph, conflicts=[edge for edge in graph.edges if marked[edge]])

    def _marked(self, problem: GenerateProblem, violations: BoolTensor | None) -> np.ndarray:
        """(n, n) the pairs of violating tokens."""
        coding = self._coding(problem.family.nodes)
        marks = np.zeros(coding.length, bool) if violations is None else violations.cpu().numpy()
        return coding.matrix_of(np.repeat(marks[None, :, None], coding.width, 2))[0]


def _graphs(name: str, nodes: int, wanted: int, held_out: bool, draws: np.random.Generator) -> list[Graph]:
    """Random graphs of a family on one side of the split."""
    kept: list[Graph] = []
    for tries in count(1):
        graph = make_graph(name, nodes, draws)
        if graph.held_out == held_out:
            kept.append(graph)
        if len(kept) == wanted:
            return kept
        many = tries < _TRIES * (len(kept) + 1)
        kind = "held-out" if held_out else "training"
        check(many, f"no {kind} graph of {name} {nodes} among {_TRIES} tries", "use larger graphs: these are too few")
