"""Hamiltonian cycles as a task: the canvas holds for each node the node that comes next.

The graph enters as relations between positions, which therefore belong to nodes: the position of a node holds its
successor on the cycle. If positions were places in the order of visits, relations could not say which nodes are joined.

| token | meaning |
|---|---|
| 0, 1 | pad, end of sequence |
| 2 .. 65 | nodes 1 .. 64 |

The prompt names the nodes in order. No node is pinned, since successors do not depend on where a cycle begins.

Any cycle is right, but training shows the one of the shortest steps (`of_short_steps`): with random cycles a position
of a dense graph could hold nearly every neighbour, and tokens drawn together would rarely fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, ClassVar

import numpy as np
import torch

from constrained_dg.errors import check, is_count
from constrained_dg.evaluation import Outcome
from constrained_dg.intervals import share
from constrained_dg.sampling.base import Status
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch, Moves, Problem, Symmetric, Task, normalised

from . import drawing
from .graph import Graph, reordered
from .graph_files import located, read_graphs
from .hamiltonian_graphs import GraphPool, generate_graphs, of_short_steps, threshold
from .hamiltonian_rule import HamiltonianCycle, visited
from .hamiltonian_search import EXACT

PAD, EOS, FIRST_NODE = 0, 1, 2
MOST_NODES = 64
VOCAB_SIZE = FIRST_NODE + MOST_NODES
#: The relations, in this order, between positions of prompt and canvas by their nodes.
RELATIONS = ("any", "joined", "node")
#: Fewest nodes of generated graphs: there are too few smaller ones to hold some out.
FEWEST_GENERATED = 8
#: Most edges of generated graphs, as a multiple of the threshold; for held-out graphs, where both kinds occur.
TRAINED, HELD_OUT = 1.75, 1.3


@dataclass(frozen=True)
class HamiltonianProblem(Problem):
    """A graph in which to find a cycle through all nodes.

    Attributes:
        hamiltonian: whether there is one, or None where that is unknown.
    """

    graph: Graph
    hamiltonian: bool | None = None

    @classmethod
    def of(cls, graph: Graph, hamiltonian: bool | None = None) -> HamiltonianProblem:
        """The tier is the number of nodes with "hamiltonian" or "not hamiltonian", or else with the density.

        Raises:
            InputError: more nodes than the task has tokens for.
        """
        check(graph.nodes <= MOST_NODES, f"a graph of {graph.nodes} nodes", f"the model takes {MOST_NODES} at most")
        share = len(graph.edges) / threshold(graph.nodes)
        density = "sparse" if share < 1 else "medium" if share < HELD_OUT else "dense"
        known = {None: density, True: "hamiltonian", False: "not hamiltonian"}
        return cls(f"{graph.nodes} {known[hamiltonian]}", graph.graph6, graph, hamiltonian)

    @property
    def truth(self) -> bool | None:
        """Whether there is a cycle: by exact search up to `EXACT` nodes, else the value of `hamiltonian`."""
        if self.graph.nodes > EXACT:
            return self.hamiltonian
        return self.graph.nodes >= 3 and bool(of_short_steps(self.graph.adjacency[None])[1][0])

    def is_cycle(self, successors: Sequence[int]) -> bool:
        """Whether these successors, nodes from 0, are a Hamiltonian cycle; independent of the rule."""
        edges, at, passed = set(self.graph.edges), 0, set()
        while at not in passed:
            passed.add(at)
            after = successors[at]
            if (min(at, after), max(at, after)) not in edges:
                return False
            at = after
        return at == 0 and len(passed) == self.graph.nodes >= 3


class Hamiltonian(Task):
    """Graphs of 1 to 64 nodes; trained on random ones near the density at which half of them are Hamiltonian.

    Training graphs are made at the first `train_batch` of their size; each example has its nodes in a random order.

    Args:
        sizes: nodes -> share of the training batches; each batch has one size, the same on every rank.
        graphs: training graphs of all sizes, by their shares (24,000: about a minute on one core).
        seed: of the graphs and of the batches; not negative.

    Raises:
        InputError: a value out of range.
    """

    name = "graph/hamiltonian"
    asks: ClassVar = {"kind": "graph", "colors": False, "example": "MhEGGD@GG_`@?P___"}
    samplers = ("guaranteed", "symmetry")
    vocab_size = VOCAB_SIZE
    blank_id = PAD
    padding_id = EOS
    num_relations = len(RELATIONS)
    max_prompt = max_canvas = MOST_NODES

    def __init__(self, sizes: Mapping[int, float] | None = None, graphs: int = 24_000, seed: int = 0) -> None:
        check(sizes is None or isinstance(sizes, Mapping), f"sizes={sizes!r}", "give shares, such as {14: 1.0}")
        shares = {int(nodes): float(share) for nodes, share in (sizes or {14: 1.0}).items()}
        for nodes in shares:
            hint = f"use {FEWEST_GENERATED} to {EXACT} nodes"
            check(FEWEST_GENERATED <= nodes <= EXACT, f"training graphs of {nodes} nodes", hint)
        check(is_count(graphs, 1), f"graphs={graphs!r}", "use an integer of at least 1")
        check(is_count(seed), f"seed={seed!r}", "use an integer that is not negative")
        self.sizes = normalised(shares, "sizes")
        self.graphs, self.seed = graphs, seed
        self._pools: dict[int, GraphPool] = {}

    def training_graphs(self, nodes: int) -> GraphPool:
        """The training graphs of a size, made on first use; a pure function of the seed."""
        if nodes not in self._pools:
            generator = np.random.default_rng((self.seed, nodes))
            count = ceil(self.graphs * self.sizes[nodes])
            self._pools[nodes] = generate_graphs(nodes, count, TRAINED, True, False, generator)
        return self._pools[nodes]

    def train_batch(self, step: int, batch_size: int, rank: int = 0) -> Batch:
        """The batch of one optimiser step, a pure function of (seed, step, batch_size, rank)."""
        # The size depends on the step alone: ranks that wait for each other should have equal work.
        nodes = int(np.random.default_rng((self.seed, step)).choice(list(self.sizes), p=list(self.sizes.values())))
        generator = np.random.default_rng((self.seed, step, rank, batch_size))
        pool = self.training_graphs(nodes)
        picked = generator.integers(len(pool.joined), size=batch_size)
        order = generator.random((batch_size, nodes)).argsort(1)
        joined = pool.joined[picked[:, None, None], order[:, :, None], order[:, None, :]]
        return self._batch(joined, of_short_steps(joined)[0])

    def held_out(self, per_tier: int, seed: int) -> list[HamiltonianProblem]:
        """Generated graphs near the threshold, of classes that never train: of each trained size `per_tier` that are
        Hamiltonian and `per_tier` that are not."""
        check(is_count(per_tier, 1), f"per_tier={per_tier!r}", "use an integer of at least 1")
        check(is_count(seed), f"seed={seed!r}", "use an integer that is not negative")
        problems = []
        for nodes in self.sizes:
            for hamiltonian in (True, False):
                generator = np.random.default_rng((seed, nodes, hamiltonian))
                pool = generate_graphs(nodes, per_tier, HELD_OUT, hamiltonian, True, generator)
                problems += [HamiltonianProblem.of(Graph.of_adjacency(each), hamiltonian) for each in pool.joined]
        return problems

    def overlap(self, problems: Sequence[HamiltonianProblem]) -> list[int]:
        """Indices of the graphs that could be isomorphic to a training graph: perhaps too many, never too few."""
        sizes = {problem.graph.nodes for problem in problems} & set(self.sizes)
        known = {int(each) for nodes in sizes for each in self.training_graphs(nodes).fingerprints}
        return [at for at, problem in enumerate(problems) if problem.graph.fingerprint in known]

    def encode(self, problems: Sequence[HamiltonianProblem]) -> Batch:
        """Tokens of graphs of one size: prompt and canvas (B, n); the canvas holds node 1."""
        joined = np.stack([problem.graph.adjacency for problem in problems])
        return self._batch(joined, np.zeros(joined.shape[:2], np.int64))

    def _batch(self, joined: np.ndarray, successors: np.ndarray) -> Batch:
        rows, nodes = successors.shape
        prompt = torch.arange(FIRST_NODE, FIRST_NODE + nodes).repeat(rows, 1)
        same = torch.eye(nodes, dtype=torch.bool).expand(rows, -1, -1)
        related = torch.stack([torch.ones_like(same), torch.from_numpy(joined), same], 1)
        canvas = torch.from_numpy(successors) + FIRST_NODE
        noise = (FIRST_NODE, FIRST_NODE + nodes)
        return Batch(prompt, canvas, torch.zeros_like(canvas, dtype=torch.bool), related.repeat(1, 1, 2, 2), noise)

    def shape_of(self, problem: HamiltonianProblem) -> tuple[int, int]:
        return problem.graph.nodes, problem.graph.nodes

    def constraint(self, problems: Sequence[HamiltonianProblem]) -> HamiltonianCycle:
        """One cycle through all nodes along edges."""
        joined = torch.from_numpy(np.stack([problem.graph.adjacency for problem in problems]))
        return HamiltonianCycle(joined, FIRST_NODE, VOCAB_SIZE)

    def rules(self, batch: Batch) -> HamiltonianCycle:
        nodes = batch.answer.shape[1]
        return HamiltonianCycle(batch.relations[:, RELATIONS.index("joined"), :nodes, :nodes], FIRST_NODE, VOCAB_SIZE)

    def symmetric(self, batch: Batch, seeds: IntTensor) -> Symmetric:
        """Each graph with its nodes in a random order."""
        nodes = batch.answer.shape[1]
        drawn = [np.random.default_rng(seed % 2**63).permutation(nodes) for seed in seeds.tolist()]
        order = torch.from_numpy(np.stack(drawn)).to(seeds.device)
        relations = reordered(batch.relations, torch.cat([order, order + nodes], 1))
        # Node v gets the number at which the order holds it, as the token of a successor too.
        rename = torch.arange(VOCAB_SIZE, device=order.device).repeat(len(order), 1)
        rename[:, FIRST_NODE : FIRST_NODE + nodes] = order.argsort(1) + FIRST_NODE
        moves = Moves(order, rename)
        pinned = batch.pinned.gather(1, order)
        turned = replace(batch, answer=moves.answer(batch.answer), pinned=pinned, relations=relations)
        return Symmetric(turned, self.rules(turned), moves)

    def read(self, path: str) -> list[HamiltonianProblem]:
        """Graphs of a file (`files.read_graphs`); a column `hamiltonian` of a table may say 0 or 1."""
        problems = []
        for named in read_graphs(path, MOST_NODES, ("hamiltonian",)):
            known = named.column(("hamiltonian",))
            check(known in (None, "0", "1"), f"{named.source}: hamiltonian is {str(known)[:40]!r}", "use 0 or 1")
            truth = None if known is None else known == "1"
            problems.append(located(named.source, HamiltonianProblem.of, named.graph, truth))
        return problems

    def parse(self, text: str) -> HamiltonianProblem:
        """One graph in graph6 from the command line."""
        return HamiltonianProblem.of(Graph.from_graph6(text, MOST_NODES))

    def problem(self, graph: object) -> HamiltonianProblem:
        """The problem of a networkx graph, a list of edges or a matrix, see `Graph.of_any`."""
        return HamiltonianProblem.of(Graph.of_any(graph))

    def decode(self, problem: HamiltonianProblem, answer: IntTensor) -> str:
        """The nodes in the order of visits, from 1; for other answers the successors: "unfinished: 1>4 2>7 ..."."""
        successors = [token - FIRST_NODE for token in answer.tolist()]
        if problem.is_cycle(successors):
            return " ".join(str(node + 1) for node in visited(successors))
        return f"unfinished: {' '.join(_steps(successors))}"

    def measure(self, outcomes: Sequence[Outcome], model: Any = None) -> dict[str, dict[str, Any]]:
        """Shares of graphs whose `HamiltonianProblem.truth` is known, except for "false_claims".

        "found": Hamiltonian graphs whose cycle was found. "refused": other graphs with the verdict of no cycle.
        "right_verdicts": both together. "false_claims": of all graphs, wrong cycles called solved and false verdicts of
        no cycle.
        """
        solved, refused, false = [], [], []
        for outcome in outcomes:
            truth, denied = outcome.problem.truth, outcome.status is Status.UNSATISFIABLE
            right = outcome.problem.is_cycle([token - FIRST_NODE for token in outcome.tokens.tolist()])
            if truth is not None:
                (solved if truth else refused).append(outcome.solved and right if truth else denied)
            false.append((outcome.solved and not right) or (denied and truth is True))
        cases = {"found": solved, "refused": refused, "right_verdicts": solved + refused, "false_claims": false}
        return {name: share(sum(each), len(each)) for name, each in cases.items() if each}

    def draw(self, problem: HamiltonianProblem, answer: IntTensor | None, violations: BoolTensor | None = None) -> str:
        graph = problem.graph
        head = f"{graph.nodes} nodes, {len(graph.edges)} edges: {problem.text}"
        if answer is None:
            return head
        marked = set() if violations is None else set(violations.nonzero().flatten().tolist())
        successors = [token - FIRST_NODE for token in answer.tolist()]
        last = self.decode(problem, answer) if problem.is_cycle(successors) else "not yet a cycle through all nodes"
        return f"{head}\n{drawing.draw_nodes(_steps(successors), marked)}\n{last}"

    def token_text(self, token: int) -> str:
        return str(token - FIRST_NODE + 1) if token >= FIRST_NODE else ("pad", "end")[token]

    def picture(self, problem: HamiltonianProblem, answer: IntTensor | None = None) -> dict[str, Any]:
        return drawing.picture("steps", problem.graph, FIRST_NODE)

    def plot(
        self, axes: Any, problem: HamiltonianProblem, answer: IntTensor | None, violations: BoolTensor | None = None
    ) -> None:
        bad = torch.zeros(problem.graph.nodes, dtype=torch.bool) if violations is None else violations
        successors = [] if answer is None else [token - FIRST_NODE for token in answer.tolist()]
        nodes = range(problem.graph.nodes)
        steps = {(min(at, to), max(at, to)): bad[at] for at, to in enumerate(successors) if to in nodes}
        kinds = [{edge for edge, wrong in steps.items() if bool(wrong) is kind} for kind in (True, False)]
        drawing.plot_graph(axes, problem.graph, conflicts=kinds[0], bold=kinds[1])


def _steps(successors: Sequence[int]) -> list[str]:
    """ "1>4" where node 4 follows node 1, and "1>?" where no node does."""
    return [f"{at + 1}>{to + 1 if to in range(len(successors)) else '?'}" for at, to in enumerate(successors)]
