"""A run layer by layer stops where it is told, and carries what later nodes read."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import answers

from vitedge.calib.quantization.layerwise import LayerwiseRun


def begun(images: graphs.Frames, graph: Any = None) -> tuple[LayerwiseRun, list[ir.Node]]:
    """A run through a graph, and the nodes of the graph."""
    model = ir.from_proto(graphs.block() if graph is None else graph)
    return LayerwiseRun(model, images), list(model.graph)


def producer(nodes: list[ir.Node], name: str) -> ir.Node:
    return next(node for node in nodes if node.outputs[0].name == name)


def test_piece_by_piece_gives_what_the_whole_graph_gives() -> None:
    graph, images = graphs.block(), graphs.frames()
    run, nodes = begun(images, graph)
    for node in (*nodes, None):
        run.advance(node)
    np.testing.assert_allclose(run.rows("logits", -1), answers(graph, images)[0].reshape(-1, 5), rtol=1e-4)
    assert set(run.values[0]) == {"logits"}


def test_only_what_is_read_later_or_kept_is_carried() -> None:
    run, nodes = begun(graphs.frames(2))
    gelu = producer(nodes, "gelu0")
    run.advance(gelu, keep={"norm0"})
    assert [set(values) for values in run.values] == [{"x", "biased0", "norm0"}] * 2
    run.pass_node(gelu)
    assert set(run.values[0]) == {"x", "gelu0"}


def test_what_later_nodes_compute_follows_from_what_they_are_given() -> None:
    graph, images = graphs.block(), graphs.frames(3)
    run, nodes = begun(images, graph)
    reader = producer(nodes, "narrow0")
    run.advance(reader)
    reader.replace_input_with(0, ir.val("changed"))
    rest = run.rest("gelu0", "changed")
    same, other = (rest.finish(rest.begin(change, 2)) for change in (lambda values: values, lambda values: 0 * values))
    np.testing.assert_allclose(same, answers(graph, images[[2]])[0].ravel(), rtol=1e-4)
    assert not np.allclose(other, same)


def test_derived_values() -> None:
    run, nodes = begun(graphs.frames(2))
    run.advance(nodes[5])
    before = run.rows("x", -1)
    run.derive("y", "x", lambda values: 2 * values)
    np.testing.assert_array_equal(run.rows("y", -1), 2 * before)
    assert before.shape == (2 * graphs.TOKENS, graphs.WIDTH)
    assert run.rows("x", 1).shape == (2 * graphs.WIDTH, graphs.TOKENS)


def test_a_value_is_dropped_once_nothing_reads_it() -> None:
    run, nodes = begun(graphs.frames(2))
    reader = producer(nodes, "narrow0")
    run.advance(reader)
    run.drop_unread("gelu0")
    assert "gelu0" in run.values[0]
    reader.replace_input_with(0, ir.val("changed"))
    run.drop_unread("gelu0")
    assert [set(values) for values in run.values] == [{"x"}] * 2


def test_what_the_branches_of_an_if_capture_is_carried_to_them() -> None:
    branch = "{{ {0} = {1}(gelu) }}"
    body = (
        "norm = LayerNormalization<axis=-1>(x, gamma) gelu = Gelu(norm) later = MatMul(norm, w) "
        "mean = ReduceMean<keepdims=0>(later) many = Greater(mean, zero) "
        f"chosen = If (many) <then_branch = yes () => (float[1,16,12] a) {branch.format('a', 'Identity')}, "
        f"else_branch = no () => (float[1,16,12] b) {branch.format('b', 'Neg')}> logits = MatMul(chosen, head)"
    )
    constants = {"gamma": np.ones(graphs.WIDTH), "w": graphs.weights(graphs.WIDTH, 3), "zero": np.zeros(())}
    graph, images = graphs.model(body, head=graphs.weights(graphs.WIDTH, 5), **constants), graphs.frames(4)
    run, nodes = begun(images, graph)
    for node in (*nodes, None):
        run.advance(node)
    np.testing.assert_allclose(run.rows("logits", -1), answers(graph, images)[0].reshape(-1, 5), rtol=1e-4, atol=1e-6)
