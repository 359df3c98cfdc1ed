"""How tasks say that the page draws them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.amino_acid import Design
from tasks.graph import Coloring, GenerateGraphs, Hamiltonian
from tasks.sudoku import Sudoku
from tasks.text import Text


@pytest.mark.parametrize("size", [4, 9, 16])
def test_a_sudoku_is_a_grid(size):
    task, text = Sudoku(sizes={size: 1.0}), "123456789ABCDEFG"[:size]
    assert task.picture(task.parse("." * size * size)) == {"kind": "grid", "columns": size, "box": round(size**0.5)}
    tokens = task.encode([task.parse(text + "." * (size * size - size))]).answer[0, :size].tolist()
    assert "".join(task.token_text(token) for token in tokens) == text


def drawn(task, problem, answer=None):
    picture = json.loads(json.dumps(task.picture(problem, answer)))
    places = np.array(picture["places"])
    assert places.shape[1] == 2 and places.min() >= 0 and places.max() <= 1
    apart = np.abs(places[:, None] - places).sum(-1) + np.eye(len(places))
    assert apart.min() > 0.01, "no node hides another"
    return picture


def test_a_coloring_is_nodes_and_edges():
    task = Coloring()
    problem = task.parse("3:DQc")
    picture = drawn(task, problem)
    assert picture["kind"] == "nodes" and len(picture["places"]) == 5
    assert {tuple(edge) for edge in picture["edges"]} == set(problem.graph.edges)
    assert [task.token_text(picture["first"] + color) for color in range(3)] == ["1", "2", "3"]


def test_a_cycle_is_steps_between_nodes():
    task = Hamiltonian()
    problem = task.parse("DQc")
    picture = drawn(task, problem)
    assert picture["kind"] == "steps" and {tuple(edge) for edge in picture["edges"]} == set(problem.graph.edges)
    assert [task.token_text(picture["first"] + node) for node in range(5)] == ["1", "2", "3", "4", "5"]


@given(st.integers(3, 20), st.sampled_from([1, 8]), st.randoms(use_true_random=False))
def test_the_bits_of_a_new_graph_are_its_edges(nodes, width, draws):
    task = GenerateGraphs(mix={"tree": {20: 1.0}}, width=width)
    problem = task.parse(f"tree:{nodes}")
    coding = task._coding(nodes)
    answer = torch.tensor([coding.first + draws.randrange(2 ** len(pairs)) for pairs in coding.pairs])
    picture = drawn(task, problem, answer)
    assert picture["kind"] == "pairs" and len(picture["places"]) == nodes
    joined = set()
    for token, pairs in zip(answer.tolist(), picture["pairs"], strict=True):
        joined |= {(min(pair), max(pair)) for bit, pair in enumerate(pairs) if (token - picture["first"]) >> bit & 1}
    assert joined == set(task.graph_of(problem, answer).edges)
    assert len(drawn(task, problem)["places"]) == nodes, "without an answer, on a circle"


def test_sequences_and_texts_are_rows():
    task = Design()
    problem = task.parse("length=20")
    assert task.picture(problem) == {"kind": "row"}
    tokens = task.encode([problem]).answer[0].tolist()
    assert task.token_text(tokens[-1]) == "end" and task.token_text(3) == "A"

    from tests.textual import tokenizer

    text = Text().in_text(tokenizer(), 8)
    for token in text.tokenizer.encode("a grid") + list(text.ends):
        assert text.token_text(token) == text.tokenizer.raw.decode([token], skip_special_tokens=False) != ""
    assert "".join(map(text.token_text, text.tokenizer.encode("a grid"))) == "a grid"
