"""Layers exchanged between an FP32 graph and its quantized pair."""

from __future__ import annotations

from typing import Any

import layers as graphs
import numpy as np
import onnx
import pytest

from vitedge.calib.quantization.ptq import quantize
from vitedge.calib.sensitivity.paired_graphs import PairedGraphs, mixed, pair_graphs
from vitedge.converters.precision import half_weights
from vitedge.errors import ConversionError
from vitedge.metrics import sqnr_db


@pytest.fixture(scope="module")
def images() -> graphs.Frames:
    """Sixteen frames."""
    return graphs.frames(16)


@pytest.fixture(scope="module")
def pair(images: graphs.Frames) -> PairedGraphs:
    """Two blocks whose LayerNormalizations are equalized; the first convolution is quantized too."""
    full = graphs.block(channels=10 ** np.linspace(0, 1, graphs.WIDTH))
    return pair_graphs(full, quantize(full, images).graph)


def quantizers(graph: Any) -> int:
    return sum(node.op_type == "QuantizeLinear" for node in graph.graph.node)


def test_the_quantized_layers_are_found_in_order(pair: PairedGraphs) -> None:
    assert [layer.result for layer in pair.layers] == ["pixels", "biased0", "narrow0", "biased1", "narrow1", "hidden"]
    assert [layer.operator for layer in pair.layers] == ["Conv", *["MatMul"] * 5]
    assert [layer.fan_in for layer in pair.layers] == [3, 12, 24, 12, 24, 12]


def test_the_part_of_an_equalized_layer_begins_before_its_normalization(pair: PairedGraphs) -> None:
    layer = pair.layers[3]
    assert layer.full.inputs == layer.quantized.inputs == ("sum0",)
    kinds = [node.op_type for node in layer.full.nodes]
    assert kinds == ["LayerNormalization", "MatMul", "Add"]
    assert pair.layers[4].quantized.inputs == ("gelu1",)


def test_with_all_layers_exchanged_it_is_the_fp32_graph(pair: PairedGraphs, images: graphs.Frames) -> None:
    graph = mixed(pair, [layer.name for layer in pair.layers])
    onnx.checker.check_model(graph, full_check=True)
    assert quantizers(graph) == 0
    (reference,), (same,) = graphs.answers(pair.full, images), graphs.answers(graph, images)
    np.testing.assert_array_equal(reference, same)


def test_with_none_exchanged_it_is_the_quantized_graph(pair: PairedGraphs, images: graphs.Frames) -> None:
    (reference,), (same,) = graphs.answers(pair.quantized, images), graphs.answers(mixed(pair, []), images)
    np.testing.assert_array_equal(reference, same)


def test_an_exchanged_layer_computes_what_it_does_in_fp32(pair: PairedGraphs, images: graphs.Frames) -> None:
    before = pair.quantized.SerializeToString(deterministic=True)
    name = pair.layers[1].name
    graph = mixed(pair, [name])
    onnx.checker.check_model(graph, full_check=True)
    assert quantizers(graph) == quantizers(pair.quantized) - 1
    (node,) = [each for each in graph.graph.node if each.name == name]
    (weight,) = [each for each in graph.graph.initializer if each.name == node.input[1]]
    (full_weight,) = [each for each in pair.full.graph.initializer if each.name == "first0"]
    assert weight.raw_data == full_weight.raw_data
    full, quantized, between = (
        graphs.answers(each, images, ["biased0", "narrow0"]) for each in (pair.full, pair.quantized, graph)
    )
    # the stem before it is still int8, and so is the layer behind it
    assert sqnr_db(full[0], between[0]) > sqnr_db(full[0], quantized[0]) + 3
    assert not np.array_equal(full[1], between[1])
    assert pair.quantized.SerializeToString(deterministic=True) == before


def test_layers_that_share_a_normalization_share_its_copy() -> None:
    body = (
        "n = LayerNormalization<axis=-1>(x, gamma) q = MatMul(n, wq) k = MatMul(n, wk) v = MatMul(n, wv) "
        "qk = Add(q, k) qkv = Add(qk, v) z = MatMul(qkv, wz) logits = MatMul(z, wl)"
    )
    square = {
        name: graphs.weights(graphs.WIDTH, graphs.WIDTH, seed=at) for at, name in enumerate(("wq", "wk", "wv", "wz"))
    }
    full = graphs.model(body, gamma=np.ones(graphs.WIDTH), wl=graphs.weights(graphs.WIDTH, 5), **square)
    images = graphs.frames(8)
    pair = pair_graphs(full, quantize(full, images).graph)
    names = {layer.result: layer.name for layer in pair.layers}
    for kept, norms in ((["q", "v"], 2), (["q", "k", "v"], 1)):
        graph = mixed(pair, [names[each] for each in kept])
        onnx.checker.check_model(graph, full_check=True)
        assert sum(node.op_type == "LayerNormalization" for node in graph.graph.node) == norms
        assert sqnr_db(*(graphs.answers(each, images)[0] for each in (full, graph))) > 30


def test_graphs_that_are_no_pair(pair: PairedGraphs) -> None:
    with pytest.raises(ConversionError, match="it has no value 'biased2'"):
        pair_graphs(graphs.block(depth=3), pair.quantized)
    with pytest.raises(ConversionError, match="quantizes no layer"):
        pair_graphs(pair.full, pair.full)


def test_constants_that_one_graph_stores_in_16_bits_are_the_same(images: graphs.Frames) -> None:
    weights = {name: graphs.weights(graphs.WIDTH, graphs.WIDTH, seed=seed) for seed, name in enumerate("abc")}
    full = graphs.model(
        "placed = Add(x, positions) wide = MatMul(placed, a) hidden = MatMul(wide, b) logits = MatMul(hidden, c)",
        positions=graphs.weights(graphs.TOKENS, graphs.WIDTH),
        **weights,
    )
    quantized = quantize(full, images).graph
    pair = pair_graphs(full, half_weights(quantized))
    layer, hidden = [each for each in pair.layers if each.result in ("wide", "hidden")]
    assert layer.full.inputs == layer.quantized.inputs == ("placed",)
    exchanged = mixed(pair, [layer.name, hidden.name])
    (reference,), (found,) = graphs.answers(full, images), graphs.answers(exchanged, images)
    assert sqnr_db(reference, found) > 50  # the last layer keeps its 16-bit weights
    other = onnx.ModelProto()
    other.CopyFrom(quantized)
    (positions,) = [each for each in other.graph.initializer if each.name == "positions"]
    moved = onnx.numpy_helper.to_array(positions) * np.float32(1.01)
    positions.CopyFrom(onnx.numpy_helper.from_array(moved, "positions"))
    (layer,) = [each for each in pair_graphs(full, half_weights(other)).layers if each.result == "wide"]
    assert layer.quantized.inputs != ("placed",)
