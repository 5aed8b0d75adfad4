"""A stream stops where it is told, and carries what later nodes read."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import answers

from vitedge.calib.quantization.layerwise import Stream
from vitedge.calib.quantization.working_graph import WorkingGraph


def test_piece_by_piece_gives_what_the_whole_graph_gives() -> None:
    graph, images = graphs.block(), graphs.frames()
    working = WorkingGraph.of(graph)
    stream = Stream(working, images)
    for position in range(len(working.nodes) + 1):
        stream.advance(position, keep=())
    np.testing.assert_allclose(stream.rows("logits", -1), answers(graph, images)[0].reshape(-1, 5), rtol=1e-4)
    assert set(stream.values[0]) == {"logits"}


def test_only_what_is_read_later_or_kept_is_carried() -> None:
    working = WorkingGraph.of(graphs.block())
    stream = Stream(working, graphs.frames(2))
    gelu = next(index for index, node in enumerate(working.nodes) if node.op_type == "Gelu")
    stream.advance(gelu, keep={"norm0"})
    assert [set(values) for values in stream.values] == [{"x", "biased0", "norm0"}] * 2
    stream.advance(gelu + 1, keep=())
    assert set(stream.values[0]) == {"x", "gelu0"}


def test_what_later_nodes_compute_follows_from_what_they_are_given() -> None:
    graph, images = graphs.block(), graphs.frames(3)
    working = WorkingGraph.of(graph)
    stream = Stream(working, images)
    reader = next(index for index, node in enumerate(working.nodes) if node.output[0] == "narrow0_unbiased")
    stream.advance(reader, keep=())
    working.nodes[reader].input[0] = "changed"
    finished = stream.finisher("gelu0", "changed")
    same = finished(lambda values: values, [2, 0])
    np.testing.assert_allclose(same, answers(graph, images[[2, 0]])[0].reshape(2, -1), rtol=1e-4)
    assert not np.allclose(finished(lambda values: 0 * values, [2, 0]), same)


def test_replaced_values() -> None:
    stream = Stream(WorkingGraph.of(graphs.block()), graphs.frames(2))
    stream.advance(5, keep=())
    before = stream.rows("x", -1)
    stream.replaced("x", "y", lambda values: 2 * values)
    np.testing.assert_array_equal(stream.rows("y", -1), 2 * before)
    assert before.shape == (2 * graphs.TOKENS, graphs.WIDTH)
    assert stream.rows("x", 1).shape == (2 * graphs.WIDTH, graphs.TOKENS)


def test_a_value_is_forgotten_once_nothing_reads_it() -> None:
    working = WorkingGraph.of(graphs.block())
    stream = Stream(working, graphs.frames(2))
    reader = next(index for index, node in enumerate(working.nodes) if node.output[0] == "narrow0_unbiased")
    stream.advance(reader, keep=())
    stream.forget("gelu0")
    assert "gelu0" in stream.values[0]
    working.nodes[reader].input[0] = "changed"
    stream.forget("gelu0")
    assert [set(values) for values in stream.values] == [{"x"}] * 2
