from __future__ import annotations

import graphs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitedge.graph.channels import OTHER, ZERO, input_columns, layer_source, numbered, traced_layer
from vitedge.graph.layers import layer_behind, layer_of, linear_layers

MOVES = {
    "Transpose<perm = [0, 2, 1]>(made)": lambda values: values.transpose(0, 2, 1),
    "Slice(made, one, three, one)": lambda values: values[:, 1:3],
    "Gather<axis = 1>(made, one)": lambda values: values[:, [1]],
    "Reshape(made, flat)": lambda values: values.reshape(8, 5),
    "Flatten(made)": lambda values: values.reshape(1, 40),
    "Unsqueeze(made, one)": lambda values: values[:, None],
    "Concat<axis = 1>(made, made)": lambda values: np.concatenate([values, values], axis=1),
    "Pad(made, pads)": lambda values: np.pad(values, ((0, 0), (0, 0), (0, 1)), constant_values=ZERO),
    "Pad(made, pads, value)": lambda values: np.pad(values, ((0, 0), (0, 0), (0, 1)), constant_values=OTHER),
    "Concat<axis = 1>(made, x)": lambda values: np.concatenate([values, np.full((1, 5, 8), OTHER)], axis=1),
}
CONSTANTS = {
    "one": np.array([1]),
    "three": np.array([3]),
    "flat": np.array([8, 5]),
    "pads": np.array([0, 0, 0, 0, 0, 1]),
    "value": np.float32(1.0).reshape(()),
}


def linear(after: str, **constants: graphs.Array) -> graphs.ir.Model:
    body = f"product = MatMul(x, w)\nmade = Add(product, b)\n{after}"
    every = {"w": graphs.random(8, 8), "b": graphs.random(8), **CONSTANTS, **constants}
    return graphs.model((1, 5, 8), body, **every)


@pytest.mark.parametrize("move", MOVES)
def test_channels_move_as_values_do(move: str) -> None:
    graph = linear(f"moved = {move}\ny = Relu(moved)")
    layer = layer_of(graph.graph[0])
    assert layer is not None
    (reading,) = traced_layer(graph.graph, layer)
    assert reading.reader == "Relu"
    np.testing.assert_array_equal(reading.channels, MOVES[move](numbered(layer.output, -1)))


def test_an_output_of_the_graph_is_a_reader() -> None:
    graph = linear("y = Identity(made)")
    layer = layer_of(graph.graph[0])
    assert layer is not None
    assert [reading.reader for reading in traced_layer(graph.graph, layer)] == ["the output"]


@pytest.mark.parametrize(
    ("after", "found"),
    [("y = Relu(made)", "made"), ("z = Relu(product)\ny = Relu(made)", None)],
)
def test_a_bias_belongs_to_its_layer_unless_something_reads_the_product(after: str, found: str | None) -> None:
    graph = linear(after)
    value = next(node.inputs[0] for node in graph.graph if node.outputs[0].name == "y")
    layer = layer_behind(value)
    assert (layer.output.name if layer else None) == found


def test_the_source_is_found_through_moves_only() -> None:
    moved = linear("t = Transpose<perm = [0, 2, 1]>(made)\nr = Reshape(t, flat)\ny = Relu(r)")
    assert layer_source(moved.graph[-1].inputs[0]) is not None
    computed = linear("t = Relu(made)\nr = Reshape(t, flat)\ny = Relu(r)")
    assert layer_source(computed.graph[-1].inputs[0]) is None


@settings(deadline=None, max_examples=30)
@given(permutation=st.permutations(range(8)), zeros=st.sets(st.integers(0, 4)))
def test_columns_are_found_beside_padding(permutation: list[int], zeros: set[int]) -> None:
    layer = layer_of(linear("y = Relu(made)").graph[0])
    assert layer is not None
    channels = np.broadcast_to(np.array(permutation, np.int32) + 1, (1, 5, 8)).copy()
    channels[:, list(zeros)] = ZERO
    columns = input_columns(layer, channels)
    expected = np.zeros(8) if len(zeros) == 5 else np.array(permutation) + 1
    np.testing.assert_array_equal(columns, expected)


def test_a_column_of_two_channels_is_none() -> None:
    layer = layer_of(linear("y = Relu(made)").graph[0])
    assert layer is not None
    channels = np.ones((1, 5, 8), np.int32)
    channels[0, 2, 3] = 2
    assert input_columns(layer, channels) is None
    channels[0, 2, 3] = OTHER
    assert input_columns(layer, channels) is None


@pytest.mark.parametrize("value", [graphs.random(8), np.zeros(8)])
def test_a_bias_comes_and_goes(value: graphs.Array) -> None:
    graph = graphs.model((1, 5, 8), "p = MatMul(x, w)\ny = Relu(p)", w=graphs.random(8, 8))
    layer = layer_of(graph.graph[0])
    assert layer is not None
    layer = layer.set_bias(graph, value.astype(np.float64))
    np.testing.assert_allclose(layer.bias, value)
    assert ("Add" in graphs.kinds(graph)) == value.any()
    layer.set_bias(graph, np.zeros(8))
    assert graphs.kinds(graph) == ["MatMul", "Relu"]
    assert set(graph.graph.initializers) == {"w"}


SQUARE = graphs.random(8, 8)


def test_weights_are_out_by_in_for_every_operator_and_only_their_own_layer_changes() -> None:
    body = "r = Reshape(x, rows)\na = MatMul(r, w)\nb = Gemm<transB = 1>(a, w)\nc = Gemm(b, w)\ny = MatMul(c, w)"
    graph = graphs.model((1, 5, 8), body, rows=np.array([5, 8]), w=SQUARE)
    a, b, c, last = linear_layers(graph.graph)
    for layer, expected in ((a, SQUARE.T), (b, SQUARE), (c, SQUARE.T)):
        np.testing.assert_array_equal(layer.weight_matrix, expected)
        np.testing.assert_array_equal(layer.stored(expected), SQUARE)
    b.set_weight(graph, 2.0 * SQUARE)
    np.testing.assert_array_equal(b.weight, 2 * SQUARE)
    np.testing.assert_array_equal(last.weight, SQUARE.T)


def test_constants_that_nothing_reads_any_more_are_dropped() -> None:
    graph = graphs.model((1, 5, 8), "a = MatMul(x, w)\ny = MatMul(a, w)", w=SQUARE)
    first, last = linear_layers(graph.graph)
    first.set_weight(graph, first.weight)
    assert len(graph.graph.initializers) == 2  # the other layer still reads the old ones
    last.set_weight(graph, last.weight)
    last.set_weight(graph, 2 * last.weight)
    assert len(graph.graph.initializers) == 2


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_inputs_are_scaled_by_channel_whatever_the_groups(groups: int) -> None:
    body = f"m = Mul(x, factors)\ny = Conv<group = {groups}, kernel_shape = [3, 3]>(m, kernel)"
    kernel, factors = graphs.random(16, 8 // groups, 3, 3), np.linspace(0.1, 3, 8)
    graph = graphs.model((1, 8, 5, 5), body, kernel=kernel, factors=factors.reshape(1, 8, 1, 1))
    plain = graphs.model((1, 8, 5, 5), body, kernel=kernel, factors=np.ones((1, 8, 1, 1)))
    (layer,) = linear_layers(graph.graph)
    before = layer.weight_by_input()
    assert before.shape == (16 // groups * 9, 8)
    layer.scale_inputs(graph, 1 / factors)
    np.testing.assert_allclose(layer.weight_by_input(), before / factors, rtol=1e-5)
    np.testing.assert_allclose(graphs.outputs(graph), graphs.outputs(plain), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("shape", "found"), [((8,), True), ((1, 8), True), ((1,), True), ((8, 1), False)])
def test_the_bias_of_a_gemm_is_one_for_each_channel(shape: tuple[int, ...], found: bool) -> None:
    body = "r = Reshape(x, rows)\ny = Gemm(r, w, b)"
    graph = graphs.model((1, 8, 8), body, rows=np.array([8, 8]), w=SQUARE, b=graphs.random(*shape))
    assert [layer.has_bias for layer in linear_layers(graph.graph)] == [True] * found


def test_an_operator_of_another_domain_is_no_layer() -> None:
    graph = graphs.model((1, 5, 8), "y = MatMul(x, w)", w=SQUARE)
    graph.graph[0].domain = "com.example"
    assert list(linear_layers(graph.graph)) == []


@pytest.mark.parametrize(("width", "size", "found"), [(8, 8, True), (8, 1, False), (1, 1, True)])
def test_a_normalization_has_one_factor_for_each_channel(width: int, size: int, found: bool) -> None:
    graph = graphs.model((1, 5, width), "y = LayerNormalization(x, gamma)", gamma=graphs.random(size))
    assert (layer_of(graph.graph[0]) is not None) == found
