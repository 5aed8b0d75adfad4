"""The graph while it changes: layers' weights whatever their layout, constants that others read, and threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import TOKENS, WIDTH, answers, weights

from vitedge.calib.quantization.working_graph import THREADS, WorkingGraph, beside


def test_taken_apart_and_put_together_it_computes_the_same() -> None:
    graph = graphs.block()
    working = WorkingGraph.of(graph)
    (before,), (after,) = (answers(each, graphs.frames()) for each in (graph, working.assembled(working.nodes)))
    np.testing.assert_allclose(after, before, rtol=1e-5)
    assert all(layer.bias for layer in working.layers())


def test_weights_are_out_by_in_for_every_operator_and_only_their_own_layer_changes() -> None:
    body = (
        "a = MatMul(x, w) flat = Reshape(a, to_matrix) b = Gemm<transB=1>(flat, w) c = Gemm(b, w) logits = MatMul(c, w)"
    )
    matrix = weights(WIDTH, WIDTH)
    working = WorkingGraph.of(graphs.model(body, to_matrix=np.array([TOKENS, WIDTH]), w=matrix))
    stem, a, b, c, last = working.layers()
    assert working.weight(stem).shape == (WIDTH, 3)
    for layer, expected in ((a, matrix.T), (b, matrix), (c, matrix.T)):
        np.testing.assert_allclose(working.weight(layer), expected, rtol=1e-6)
        np.testing.assert_array_equal(
            working.weight_layout(layer, expected.astype(np.float32)), matrix.astype(np.float32)
        )
    working.set_weight(b, 2 * matrix)
    working.set_bias(b, np.arange(WIDTH, dtype=float))
    np.testing.assert_allclose(working.weight(b), 2 * matrix, rtol=1e-6)
    np.testing.assert_array_equal(working.bias(b), np.arange(WIDTH))
    np.testing.assert_allclose(working.weight(last), matrix.T, rtol=1e-6)
    assert not working.bias(c).any()


def test_constants_that_nothing_reads_any_more_are_dropped() -> None:
    working = WorkingGraph.of(graphs.model("a = MatMul(x, w) logits = MatMul(a, w)", w=weights(WIDTH, WIDTH)))
    _, first, last = working.layers()
    count = len(working.constants)
    working.set_weight(first, working.weight(first))
    assert len(working.constants) == count + 1  # the other layer still reads the old ones
    working.set_weight(last, working.weight(last))
    working.set_weight(last, 2 * working.weight(last))
    working.set_bias(last, np.ones(WIDTH))
    assert len(working.constants) == count + 1
    assert not [name for name in working.constants if all(name not in node.input for node in working.nodes)]


@pytest.mark.parametrize("groups", [1, 3, WIDTH])
def test_channels_divided_and_their_weights_multiplied_compute_the_same(groups: int) -> None:
    kernel = weights(6 * groups, WIDTH // groups, 3, 3)
    body = f"m = Mul(pixels, factors) logits = Conv<group={groups}, kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(m, kernel)"
    graphs_of = [
        graphs.model(body, kernel=kernel, factors=factors.reshape(1, WIDTH, 1, 1))
        for factors in (np.ones(WIDTH), np.linspace(0.1, 3, WIDTH))
    ]
    working = WorkingGraph.of(graphs_of[1])
    layer = working.layers()[-1]
    assert working.weight_by_input(layer).shape == (6 * 9, WIDTH)
    before = working.weight_by_input(layer)
    working.scale_input(layer, 1 / np.linspace(0.1, 3, WIDTH))
    np.testing.assert_allclose(working.weight_by_input(layer), before / np.linspace(0.1, 3, WIDTH), rtol=1e-5)
    expected, found = (answers(each, graphs.frames())[0] for each in (graphs_of[0], working.assembled(working.nodes)))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_results_keep_their_order_and_only_a_few_items_are_taken_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    def doubled(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return 2 * number

    results = beside(doubled, items())
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    assert len(taken) <= 5 + THREADS + 1
    assert list(results) == list(range(10, 100, 2))


def test_an_error_passes_and_no_thread_is_left() -> None:
    def broken(number: int) -> int:
        raise ValueError(f"item {number}")

    with pytest.raises(ValueError, match="item 0"):
        list(beside(broken, range(20)))
    assert not [each for each in threading.enumerate() if each.name.startswith("vitedge-calib")]
