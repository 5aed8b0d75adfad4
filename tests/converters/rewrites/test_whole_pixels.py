"""Maps that become rows of tokens."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, kinds, rewritten

from vitedge.converters.rewrites import whole_pixels

MAP, ROWS = (1, 6, 3, 5), (1, 15, 6)
NOTHING = "no map becomes a row by a copy"
SHAPES = {
    "rows": np.asarray([1, 6, 15]), "map": np.asarray([1, 6, 3, 5]), "whole": np.asarray([1, 15, 6]),
    "windows": np.asarray([1, 3, 1, 5, 6]), "columns": np.asarray([1, 6, 3, 1, 5]), "heads": np.asarray([1, 2, 3, 15]),
    "zeros": np.asarray([0, 0, 30]), "pairs": np.asarray([2, 3, 15]), "two": np.asarray([2, 2, 3, 15]),
    "images": np.asarray([2, 6, 3, 5]), "apart": np.asarray([1, 2, 9, 5]),
}  # fmt: skip


def model(shape: tuple[int, ...], body: str) -> graphs.ir.Model:
    return graphs.model(shape, body, **SHAPES)


@pytest.mark.parametrize(
    "body",
    [
        "r = Reshape(a, rows) t = Transpose<perm = [0, 2, 1]>(r)",
        "c = Reshape(a, columns) t = Transpose<perm = [0, 2, 3, 4, 1]>(c)",
    ],
    ids=["rows", "windows"],
)
def test_whole_pixels_move(body: str) -> None:
    graph = model(MAP, f"a = Relu(x) {body} y = Sigmoid(t)")
    assert whole_pixels.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(whole_pixels, graph)
    assert (places.changed, difference.max_abs_error) == (1, 0)
    assert kinds(graph) == ["Relu", "Transpose", "Reshape", "Sigmoid"]
    moved = next(node for node in graph.graph if node.op_type == "Transpose")
    assert tuple(moved.attributes.get_ints("perm", ())) == (0, 2, 3, 1)
    assert whole_pixels.check(graph, PREPROCESSING) == NOTHING


@pytest.mark.parametrize(("shape", "order"), [("heads", "[0, 1, 3, 2]"), ("pairs", "[0, 2, 1]")])
def test_heads_are_taken_out_of_rows(shape: str, order: str) -> None:
    body = f"a = Relu(x) r = Reshape(a, {shape}) t = Transpose<perm = {order}>(r) y = Sigmoid(t)"
    graph = model(MAP, body)
    places, difference = rewritten(whole_pixels, graph)
    assert (places.changed, difference.max_abs_error) == (1, 0)
    assert kinds(graph)[:4] == ["Relu", "Transpose", "Reshape", "Transpose"]
    orders = [node.attributes.get_ints("perm", ()) for node in graph.graph if node.op_type == "Transpose"]
    assert [tuple(order) for order in orders] == [(0, 2, 3, 1), (1, 0, 2)]
    assert whole_pixels.check(graph, PREPROCESSING) == NOTHING


@pytest.mark.parametrize(("shape", "order"), [((1, 2, 15, 3), "[0, 1, 3, 2]"), ((2, 15, 3), "[0, 2, 1]")])
def test_heads_that_become_a_map_are_joined_to_rows(shape: tuple[int, ...], order: str) -> None:
    body = f"a = Relu(x) t = Transpose<perm = {order}>(a) r = Reshape(t, map) y = Sigmoid(r)"
    graph = model(shape, body)
    places, difference = rewritten(whole_pixels, graph)
    assert (places.changed, difference.max_abs_error) == (1, 0)
    orders = [node.attributes.get_ints("perm", ()) for node in graph.graph if node.op_type == "Transpose"]
    assert [tuple(order) for order in orders] == [(0, 2, 1, 3), (0, 3, 1, 2)]
    assert whole_pixels.check(graph, PREPROCESSING) == NOTHING


@pytest.mark.parametrize("shape", ["windows", "zeros"])
def test_a_map_that_is_read_as_rows_too_is_read_through_rows(shape: str) -> None:
    body = f"t = Transpose<perm = [0, 2, 3, 1]>(x) w = Reshape(t, {shape}) m = Relu(t) y = Relu(w) z = ReduceMax(m)"
    graph = model(MAP, body.replace("y = Relu(w)", "u = Relu(w) v = ReduceMax(u)") + " y = Add(v, z)")
    places, difference = rewritten(whole_pixels, graph)
    assert (places.changed, difference.max_abs_error) == (1, 0)
    (transpose,) = (node for node in graph.graph if node.op_type == "Transpose")
    (reader,) = transpose.outputs[0].consumers()
    assert reader.op_type == "Reshape"
    assert graphs.ir.Shape(ROWS) == reader.outputs[0].shape
    assert whole_pixels.check(graph, PREPROCESSING) == NOTHING


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (MAP, "r = Reshape(x, heads) t = Transpose<perm = [0, 2, 1, 3]>(r) y = Relu(t)"),
        (MAP, "r = Reshape(x, rows) p = ReduceMax(r) t = Transpose<perm = [0, 2, 1]>(r) y = Add(t, p)"),
        (MAP, "t = Transpose<perm = [0, 2, 3, 1]>(x) y = Relu(t)"),
        (MAP, "t = Transpose<perm = [0, 2, 3, 1]>(x) r = Reshape(t, whole) y = Relu(r)"),
        (MAP, "t = Transpose<perm = [0, 2, 3, 1]>(x) u = Relu(t) v = Sigmoid(t) y = Add(u, v)"),
        (MAP, "r = Reshape(x, pairs) t = Transpose<perm = [1, 0, 2]>(r) y = Relu(t)"),
        (ROWS, "r = Transpose<perm = [0, 2, 1]>(x) t = Reshape(r, map) y = Relu(t)"),
        ((2, 6, 3, 5), "t = Transpose<perm = [0, 2, 3, 1]>(x) y = Relu(t)"),
        ((2, 6, 3, 5), "r = Reshape(x, two) t = Transpose<perm = [0, 1, 3, 2]>(r) y = Relu(t)"),
        ((1, 3, 5, 2), "t = Transpose<perm = [0, 2, 1, 3]>(x) y = Relu(t)"),
        ((1, 2, 15, 6), "t = Transpose<perm = [0, 1, 3, 2]>(x) r = Reshape(t, images) y = Relu(r)"),
        ((1, 2, 15, 3), "t = Transpose<perm = [0, 1, 3, 2]>(x) r = Reshape(t, apart) y = Relu(r)"),
    ],
    ids=["heads apart", "rows are read", "a map", "a row", "two maps", "pairs", "rows to a map", "two images",
         "heads of two images",
         "heads and tokens", "heads that become maps of two images", "heads that stay apart"],
)  # fmt: skip
def test_what_stays(shape: tuple[int, ...], body: str) -> None:
    assert whole_pixels.check(model(shape, body), PREPROCESSING) == NOTHING
