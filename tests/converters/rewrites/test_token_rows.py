"""Layers that read maps of tokens."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, kinds, random, rewritten

from vitedge.converters.rewrites import token_rows
from vitedge.converters.rewrites.apply import is_exact

CONSTANTS = {"scale": random(4), "shift": random(4, seed=1), "weight": random(4, 6), "bias": random(6)}


def model(body: str, shape: tuple[int, ...] = (1, 3, 5, 4)) -> graphs.ir.Model:
    return graphs.model(shape, body, **CONSTANTS)


@pytest.mark.parametrize(
    ("body", "places", "operators"),
    [
        ("n = LayerNormalization<axis = -1>(x, scale, shift) y = Relu(n)", 1,
         ["Reshape", "LayerNormalization", "Reshape", "Relu"]),
        ("n = LayerNormalization<axis = 3>(x, scale) y = Relu(n)", 1,
         ["Reshape", "LayerNormalization", "Reshape", "Relu"]),
        ("p = MatMul(x, weight) b = Add(p, bias) y = Relu(b)", 1, ["Reshape", "MatMul", "Add", "Reshape", "Relu"]),
        ("p = MatMul(x, weight) q = Relu(p) r = Sigmoid(p) y = Mul(q, r)", 1,
         ["Reshape", "MatMul", "Reshape", "Relu", "Sigmoid", "Mul"]),
        ("n = LayerNormalization<axis = -1>(x, scale) p = MatMul(n, weight) y = Relu(p)", 2,
         ["Reshape", "LayerNormalization", "Reshape", "Reshape", "MatMul", "Reshape", "Relu"]),
    ],
)  # fmt: skip
def test_they_read_a_row(body: str, places: int, operators: list[str]) -> None:
    graph = model(body)
    assert token_rows.check(graph, PREPROCESSING) == ""
    found, difference = rewritten(token_rows, graph)
    assert is_exact(difference)
    assert (found.changed, dict(found.left)) == (places, {})
    assert kinds(graph) == operators
    assert token_rows.check(graph, PREPROCESSING) == "no LayerNormalization or product reads a map of tokens"


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 2, 3, 5, 4), (2, 2, 3, 5, 4)])
@pytest.mark.parametrize("layer", ["LayerNormalization<axis = -1>(x, scale, shift)", "MatMul(x, weight)"])
def test_windows_and_several_images_are_rows_too(layer: str, shape: tuple[int, ...]) -> None:
    graph = model(f"n = {layer} y = Relu(n)", shape)
    _, difference = rewritten(token_rows, graph)
    assert is_exact(difference)
    (node,) = [each for each in graph.graph if each.op_type in ("LayerNormalization", "MatMul")]
    tokens = int(np.prod(shape[1:-1]))
    assert [each.shape for each in (node.inputs[0], node.outputs[0]) if each is not None] == [
        graphs.ir.Shape((shape[0], tokens, 4)),
        graphs.ir.Shape((shape[0], tokens, 6 if node.op_type == "MatMul" else 4)),
    ]


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("n = LayerNormalization<axis = -1>(x, scale) y = Relu(n)", (1, 5, 4)),
        ("n = LayerNormalization<axis = 1>(x, s) y = Relu(n)", (1, 3, 5, 4)),
        ("y = MatMul(x, x)", (1, 3, 4, 4)),
    ],
)
def test_other_layers_stay(body: str, shape: tuple[int, ...]) -> None:
    graph = graphs.model(shape, body, **CONSTANTS, s=random(3, 5, 4))
    assert token_rows.check(graph, PREPROCESSING) == "no LayerNormalization or product reads a map of tokens"


def test_an_output_stays() -> None:
    assert token_rows.check(model("y = MatMul(x, weight)"), PREPROCESSING) == token_rows.OUTPUT
