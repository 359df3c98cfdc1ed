"""Coloring as a task: the canvas holds a color for each node, the graph enters as relations.

Colors are interchangeable, so the nodes of a large clique are pinned to the first colors. That breaks most of the
symmetry and excludes no coloring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import networkx as nx
import numpy as np
import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.pinned import Pinned
from constrained_dg.errors import check, is_count
from constrained_dg.evaluation import Outcome
from constrained_dg.intervals import mean_interval, metric, share
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch, Moves, Problem, Symmetric, Task

from . import drawing, tabu
from .coloring_graphs import colored_graphs
from .coloring_rule import ProperColoring
from .graph import Graph, reordered
from .graph_files import located, read_graphs, whole_number

PAD, EOS = 0, 1
#: Prompt tokens of a node, by its degree divided by the number of colors.
FIRST_NODE, DEGREES = 2, (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
FIRST_COLOR = FIRST_NODE + len(DEGREES) + 1
MOST_COLORS, MOST_NODES = 80, 256
VOCAB_SIZE = FIRST_COLOR + MOST_COLORS
#: The relations, in this order; "apart": nodes that are not joined.
RELATIONS = ("joined", "apart", "node", "any")
#: Nodes of training graphs, padded to the higher number of each pair.
SIZES = ((12, 32), (33, 64))
#: Tiers: the most nodes of each.
TIERS = (32, 64, 128, MOST_NODES)
#: Columns of a table with the number of colors; the first one present counts.
COLUMNS = ("k", "colors", "colours", "best_known_colors", "best_known_colours", "chromatic", "chromatic_number")


@dataclass(frozen=True)
class ColoringProblem(Problem):
    """A graph to be colored with k colors.

    Attributes:
        clique: nodes of a clique; as many as there are colors are pinned to the first ones.
        solution: a color from 0 for each node, or None where none is known.
    """

    graph: Graph
    k: int
    clique: tuple[int, ...]
    solution: tuple[int, ...] | None = None

    @classmethod
    def of(cls, graph: Graph, k: int, solution: Sequence[int] | None = None) -> ColoringProblem:
        """The problem of a graph and k colors; fewer colors than its clique needs are allowed.

        Raises:
            InputError: more nodes or colors than the task has tokens for.
        """
        check(graph.nodes <= MOST_NODES, f"a graph of {graph.nodes} nodes", f"at most {MOST_NODES} can be colored")
        check(is_count(k, 1) and k <= MOST_COLORS, f"k={k} colors", f"use 1 to {MOST_COLORS}")
        clique = tuple(tabu.clique_of(graph))
        tier = f"nodes to {next(most for most in TIERS if graph.nodes <= most)}"
        solution = None if solution is None else tuple(int(color) for color in solution)
        return cls(tier, f"{k}:{graph.graph6}", graph, k, clique, solution)


@dataclass(frozen=True)
class _Group:
    """Training graphs of one size and number of colors, padded.

    Attributes:
        joined: (M, n, n) bool.
        colors: (M, n) from 0, and -1 at padding.
        clique: (M, n) bool.
    """

    joined: np.ndarray
    colors: np.ndarray
    clique: np.ndarray


class Coloring(Task):
    """Graphs of up to 256 nodes with up to 80 colors; trained on generated ones of 12 to 64.

    Training graphs (see `coloring_graphs`) are made at the first `train_batch`, each with the coloring of fewest colors
    that a short tabu search finds.

    Args:
        graphs: training graphs (8,000: about 20 s on one core).
        seed: of the graphs and of the batches.

    Raises:
        InputError: a value out of range.
    """

    name = "graph/coloring"
    samplers = ("guaranteed", "cold")
    asks: ClassVar = {"kind": "graph", "colors": True, "example": "3:IheA@GUAo"}
    vocab_size = VOCAB_SIZE
    blank_id = PAD
    padding_id = EOS
    num_relations = len(RELATIONS)
    max_prompt = 1 + MOST_NODES
    max_canvas = MOST_NODES

    def __init__(self, graphs: int = 8_000, seed: int = 0) -> None:
        check(is_count(graphs, 1), f"graphs={graphs!r}", "use an integer of at least 1")
        check(is_count(seed), f"seed={seed!r}", "use an integer that is not negative")
        self.graphs, self.seed = graphs, seed
        self._pool: dict[tuple[int, int], _Group] = {}

    def training_graphs(self) -> dict[tuple[int, int], _Group]:
        """The training graphs by (nodes, colors), made on first use; a pure function of the seed."""
        if not self._pool:
            groups: dict[tuple[int, int], list[tuple[np.ndarray, ...]]] = {}
            for graph, k, colors in colored_graphs(
                np.random.default_rng((self.seed, 0)), self.graphs, SIZES, MOST_COLORS, False
            ):
                clique = np.isin(np.arange(graph.nodes), tabu.clique_of(graph))
                size = next(most for _, most in SIZES if graph.nodes <= most)
                fill = (0, size - graph.nodes)
                filled = np.pad(graph.adjacency, (fill, fill)), np.pad(colors, fill, constant_values=-1)
                groups.setdefault((size, k), []).append((*filled, np.pad(clique, fill)))
            columns = {key: zip(*groups[key], strict=True) for key in sorted(groups)}
            self._pool = {key: _Group(*(np.stack(part) for part in parts)) for key, parts in columns.items()}
        return self._pool

    def train_batch(self, step: int, batch_size: int, rank: int = 0) -> Batch:
        """The batch of one optimiser step, a pure function of (seed, step, batch_size, rank)."""
        pool = self.training_graphs()
        keys = list(pool)
        shares = np.array([len(pool[key].joined) for key in keys], float)
        # Size and colors depend on the step alone: ranks that wait for each other should have equal work.
        nodes, k = keys[int(np.random.default_rng((self.seed, 1, step)).choice(len(keys), p=shares / shares.sum()))]
        generator = np.random.default_rng((self.seed, 2, step, rank, batch_size))
        group = pool[nodes, k]
        picked = generator.integers(len(group.joined), size=batch_size)
        order = generator.permuted(np.tile(np.arange(nodes), (batch_size, 1)), axis=1)
        joined = np.take_along_axis(group.joined[picked], order[:, :, None], 1)
        joined = np.take_along_axis(joined, order[:, None, :], 2)
        colors = np.take_along_axis(group.colors[picked], order, 1)
        clique = np.take_along_axis(group.clique[picked], order, 1)
        for row, real in enumerate(colors >= 0):
            # The clique takes the first colors in order, as in every problem; the others come in any order.
            first = colors[row, clique[row]]
            rest = generator.permutation(np.setdiff1d(np.arange(k), first))
            colors[row, real] = np.argsort(np.concatenate([first, rest]))[colors[row, real]]
        return _batch(joined, colors, clique | (colors < 0), k)

    def held_out(self, per_tier: int, seed: int) -> list[ColoringProblem]:
        """Generated graphs whose class never trains: `per_tier` of 12 to 32 nodes and of 33 to 64."""
        check(per_tier >= 1, f"per_tier={per_tier}", "use at least 1")
        check(seed >= 0, f"seed={seed}", "use a number that is not negative")
        problems = []
        for tier, sizes in enumerate(SIZES):
            generator = np.random.default_rng((seed, 3, tier))
            problems += [
                ColoringProblem.of(*graph) for graph in colored_graphs(generator, per_tier, [sizes], MOST_COLORS, True)
            ]
        return problems

    def overlap(self, problems: Sequence[ColoringProblem]) -> list[int]:
        """Indices of the graphs that could be isomorphic to a training graph: perhaps too many, never too few."""
        known = {
            Graph.of_adjacency(joined[np.ix_(real, real)]).fingerprint
            for group in self.training_graphs().values()
            for joined, real in zip(group.joined, group.colors >= 0, strict=True)
        }
        return [at for at, problem in enumerate(problems) if problem.graph.fingerprint in known]

    def encode(self, problems: Sequence[ColoringProblem]) -> Batch:
        """Tokens of graphs of one size and number of colors: prompt (B, 1 + n), canvas (B, n).

        The prompt holds the last color (it tells k), then a token for each node: its color where it is pinned, else its
        degree class. An unknown solution is filled with the first color.
        """
        graphs, k = [problem.graph for problem in problems], problems[0].k
        joined = np.stack([graph.adjacency for graph in graphs])
        colors = np.array([problem.solution or [0] * problem.graph.nodes for problem in problems])
        pinned = np.zeros(colors.shape, bool)
        for row, problem in enumerate(problems):
            clique = list(problem.clique[:k])
            if problem.solution is not None:
                of_clique = colors[row, clique]
                renamed = np.argsort(np.concatenate([of_clique, np.setdiff1d(np.arange(k), of_clique)]))
                colors[row] = renamed[colors[row]]
            colors[row, clique], pinned[row, clique] = np.arange(len(clique)), True
        return _batch(joined, colors, pinned, k)

    def shape_of(self, problem: ColoringProblem) -> tuple[int, int, int]:
        """(1 + n, n, k): graphs of one batch have equal numbers of nodes and colors."""
        return 1 + problem.graph.nodes, problem.graph.nodes, problem.k

    def rules(self, batch: Batch) -> Constraint:
        """Joined nodes differ, k colors, the clique as it is pinned."""
        nodes = batch.answer.shape[1]
        joined = batch.relations[:, 0, -nodes:, -nodes:]
        row, one, other = joined.triu(1).nonzero().T
        counts = torch.bincount(row, minlength=len(joined))
        edges = torch.full((len(joined), max(1, int(counts.max())), 2), -1, device=row.device)
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        edges[row, place] = torch.stack([one, other], 1)
        # Padding is pinned to a token that is not a color.
        real = ~batch.pinned | (batch.answer >= batch.noise[0])
        rule = ProperColoring(edges, batch.noise, nodes, VOCAB_SIZE, show=show, real=real)
        return rule & Pinned(batch.answer, batch.pinned, VOCAB_SIZE, show=show, where=_node)

    def symmetric(self, batch: Batch, seeds: IntTensor) -> Symmetric:
        """Each graph with its nodes in a random order, and the colors outside its clique renamed at random."""
        nodes, (low, high) = batch.answer.shape[1], batch.noise
        # The clique has the first colors; padding is pinned too, but not to a color.
        clique_sizes = (batch.pinned & (batch.answer >= low)).sum(1)
        orders, names = [], []
        for seed, pinned in zip(seeds.tolist(), clique_sizes.tolist(), strict=True):
            generator = np.random.default_rng(seed % 2**63)
            orders.append(generator.permutation(nodes))
            names.append(
                np.concatenate([np.arange(low + pinned), generator.permutation(np.arange(low + pinned, high))])
            )
        order, renamed = (torch.from_numpy(np.stack(part)).to(seeds.device) for part in (orders, names))
        # The number of colors stands first in the prompt and stays there.
        at = torch.cat([torch.zeros_like(order[:, :1]), order + 1], 1)
        both = torch.cat([at, order + 1 + nodes], 1)
        rename = torch.cat([renamed, torch.arange(high, VOCAB_SIZE, device=order.device).expand(len(order), -1)], 1)
        moves = Moves(order, rename)
        turned = replace(
            batch,
            prompt=batch.prompt.gather(1, at),
            answer=moves.answer(batch.answer),
            pinned=batch.pinned.gather(1, order),
            relations=reordered(batch.relations, both),
        )
        return Symmetric(turned, self.rules(turned), moves)

    def read(self, path: str) -> list[ColoringProblem]:
        """Graphs of a file or folder (`graph_files.read_graphs`).

        A table may give the number of colors in one of `COLUMNS`; by default it is what DSATUR needs.
        """
        problems = []
        for named in read_graphs(path, MOST_NODES, COLUMNS):
            given = named.column(COLUMNS)
            k = dsatur(named.graph) if given is None else located(f"{named.source}: k", whole_number, given)
            problems.append(located(named.source, ColoringProblem.of, named.graph, k))
        return problems

    def parse(self, text: str) -> ColoringProblem:
        """K:GRAPH6 from the command line, such as 3:DQc; without K, the number of colors that DSATUR needs."""
        colors, colon, graph6 = text.strip().partition(":")
        if not colon or not colors or colors.startswith(">>"):  # sparse6 begins with a colon
            return self.problem(Graph.from_graph6(text, MOST_NODES))
        check(colors.isdecimal(), f"{text[:40]!r} begins with {colors[:40]!r}", "write K:GRAPH6, as in 3:DQc")
        return self.problem(Graph.from_graph6(graph6, MOST_NODES), whole_number(colors))

    def problem(self, graph: object, k: int | None = None) -> ColoringProblem:
        """The problem of a networkx graph, a list of edges or a matrix (`Graph.of_any`), with the colors that DSATUR
        needs where k is None."""
        graph = Graph.of_any(graph)
        check(graph.nodes <= MOST_NODES, f"a graph of {graph.nodes} nodes", f"at most {MOST_NODES} can be colored")
        return ColoringProblem.of(graph, dsatur(graph) if k is None else k)

    def decode(self, problem: ColoringProblem, answer: IntTensor) -> str:
        """The color of each node, from 1."""
        return " ".join(show(token) for token in answer.tolist())

    def measure(self, outcomes: Sequence[Outcome], model: Any = None) -> dict[str, dict[str, Any]]:
        """ "dsatur": share of graphs for which this heuristic needs at most k colors. "colors_below_dsatur": colors
        that solved answers save compared with it, on average."""
        needed = {outcome.problem.text: dsatur(outcome.problem.graph) for outcome in outcomes}
        reached = sum(needed[outcome.problem.text] <= outcome.problem.k for outcome in outcomes)
        metrics = {"dsatur": share(reached, len(outcomes))}
        below = [needed[o.problem.text] - o.tokens.unique().numel() for o in outcomes if o.solved]
        if len(below) >= 2:
            # `mean_interval` cuts at 0, so the values are shifted to start at 0.
            lowest = min(0, *below)
            interval = [bound + lowest for bound in mean_interval([value - lowest for value in below])]
            metrics["colors_below_dsatur"] = metric(sum(below) / len(below), len(below), interval)
        return metrics

    def draw(self, problem: ColoringProblem, answer: IntTensor | None, violations: BoolTensor | None = None) -> str:
        tokens = [PAD] * problem.graph.nodes if answer is None else answer.tolist()
        labels = [show(token) if token >= FIRST_COLOR else "." for token in tokens]
        marked = set() if violations is None else set(violations.nonzero().flatten().tolist())
        return drawing.draw_nodes(labels, marked)

    def token_text(self, token: int) -> str:
        return show(token)

    def picture(self, problem: ColoringProblem, answer: IntTensor | None = None) -> dict[str, Any]:
        return drawing.picture("nodes", problem.graph, FIRST_COLOR)

    def plot(
        self, axes: Any, problem: ColoringProblem, answer: IntTensor | None, violations: BoolTensor | None = None
    ) -> None:
        if answer is None:
            drawing.plot_graph(axes, problem.graph)
            return
        tokens = answer.tolist()
        conflicts = [(a, b) for a, b in problem.graph.edges if tokens[a] == tokens[b] >= FIRST_COLOR]
        drawing.plot_graph(axes, problem.graph, [token - FIRST_COLOR for token in tokens], conflicts)


def show(token: int) -> str:
    """A token for people: a color from 1, or the name of another token."""
    if token >= FIRST_COLOR:
        return str(token - FIRST_COLOR + 1)
    return ("pad", "end")[token] if token < FIRST_NODE else "node"


def _node(at: int) -> str:
    return f"node {at + 1}"


@lru_cache(maxsize=4096)
def dsatur(graph: Graph) -> int:
    """Colors that the DSATUR heuristic needs (Brélaz, 1979; networkx)."""
    return max(nx.greedy_color(graph.networkx, strategy="DSATUR").values()) + 1


def _batch(joined: np.ndarray, colors: np.ndarray, pinned: np.ndarray, k: int) -> Batch:
    """From (B, n, n) bool, (B, n) colors from 0, -1 where there is no node, and (B, n) bool."""
    rows, nodes = colors.shape
    real = colors >= 0
    tokens = np.where(real, colors + FIRST_COLOR, PAD)
    degree = np.digitize(joined.sum(-1) / k, DEGREES) + FIRST_NODE
    last = np.full((rows, 1), FIRST_COLOR + k - 1)
    prompt = torch.from_numpy(np.concatenate([last, np.where(pinned, tokens, degree)], 1))
    # Nodes are in the prompt and again on the canvas; the number of colors is related to all by "any" alone.
    both = np.ix_(range(rows), [*range(nodes)] * 2, [*range(nodes)] * 2)
    same = np.broadcast_to(np.eye(nodes, dtype=bool), joined.shape)
    apart = ~joined & ~same & real[:, :, None] & real[:, None, :]
    bound = np.stack([np.pad(part[both], ((0, 0), (1, 0), (1, 0))) for part in (joined, apart, same)], 1)
    relations = torch.from_numpy(np.concatenate([bound, np.ones_like(bound[:, :1])], 1))
    canvas, noise = torch.from_numpy(tokens), (FIRST_COLOR, FIRST_COLOR + k)
    return Batch(prompt, canvas, torch.from_numpy(pinned), relations, noise)
