"""Layers exchanged between an FP32 graph and its quantized twin."""

from __future__ import annotations

from typing import Any

import layers as graphs
import numpy as np
import onnx
import pytest

from vitedge.calib.quantization.ptq import quantize
from vitedge.calib.sensitivity.paired_graphs import Twins, find_twins, mixed
from vitedge.errors import ConversionError
from vitedge.metrics import sqnr_db


@pytest.fixture(scope="module")
def images() -> graphs.Frames:
    """Sixteen frames."""
    return graphs.frames(16)


@pytest.fixture(scope="module")
def twins(images: graphs.Frames) -> Twins:
    """Two blocks whose LayerNormalizations are equalized; the first convolution is quantized too."""
    full = graphs.block(channels=10 ** np.linspace(0, 1, graphs.WIDTH))
    return find_twins(full, quantize(full, images).graph)


def quantizers(graph: Any) -> int:
    return sum(node.op_type == "QuantizeLinear" for node in graph.graph.node)


def test_the_quantized_layers_are_found_in_order(twins: Twins) -> None:
    assert [layer.result for layer in twins.layers] == ["pixels", "biased0", "narrow0", "biased1", "narrow1"]
    assert [layer.operator for layer in twins.layers] == ["Conv", "MatMul", "MatMul", "MatMul", "MatMul"]
    assert [layer.fan_in for layer in twins.layers] == [3, 12, 24, 12, 24]


def test_the_region_of_an_equalized_layer_begins_before_its_normalization(twins: Twins) -> None:
    layer = twins.layers[3]
    assert layer.full.inputs == layer.quantized.inputs == ("sum0",)
    kinds = [twins.full.graph.node[each].op_type for each in layer.full.nodes]
    assert kinds == ["LayerNormalization", "MatMul", "Add"]
    assert twins.layers[4].quantized.inputs == ("gelu1",)


def test_with_all_layers_exchanged_it_is_the_fp32_graph(twins: Twins, images: graphs.Frames) -> None:
    graph = mixed(twins, [layer.name for layer in twins.layers])
    onnx.checker.check_model(graph, full_check=True)
    assert quantizers(graph) == 0
    (reference,), (same,) = graphs.answers(twins.full, images), graphs.answers(graph, images)
    np.testing.assert_array_equal(reference, same)


def test_with_none_exchanged_it_is_the_quantized_graph(twins: Twins, images: graphs.Frames) -> None:
    (reference,), (same,) = graphs.answers(twins.quantized, images), graphs.answers(mixed(twins, []), images)
    np.testing.assert_array_equal(reference, same)


def test_an_exchanged_layer_computes_what_it_does_in_fp32(twins: Twins, images: graphs.Frames) -> None:
    before = twins.quantized.SerializeToString(deterministic=True)
    name = twins.layers[1].name
    graph = mixed(twins, [name])
    onnx.checker.check_model(graph, full_check=True)
    assert quantizers(graph) == quantizers(twins.quantized) - 1
    (node,) = [each for each in graph.graph.node if each.name == name]
    (weight,) = [each for each in graph.graph.initializer if each.name == node.input[1]]
    (full_weight,) = [each for each in twins.full.graph.initializer if each.name == "first0"]
    assert weight.raw_data == full_weight.raw_data
    full, quantized, between = (
        graphs.answers(each, images, ["biased0", "narrow0"]) for each in (twins.full, twins.quantized, graph)
    )
    # the stem before it is still int8, and so is the layer behind it
    assert sqnr_db(full[0], between[0]) > sqnr_db(full[0], quantized[0]) + 3
    assert not np.array_equal(full[1], between[1])
    assert twins.quantized.SerializeToString(deterministic=True) == before


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
    twins = find_twins(full, quantize(full, images).graph)
    names = {layer.result: layer.name for layer in twins.layers}
    for kept, norms in ((["q", "v"], 2), (["q", "k", "v"], 1)):
        graph = mixed(twins, [names[each] for each in kept])
        onnx.checker.check_model(graph, full_check=True)
        assert sum(node.op_type == "LayerNormalization" for node in graph.graph.node) == norms
        assert sqnr_db(*(graphs.answers(each, images)[0] for each in (full, graph))) > 30


def test_graphs_that_are_no_twins(twins: Twins) -> None:
    with pytest.raises(ConversionError, match="it has no value 'biased2'"):
        find_twins(graphs.block(depth=3), twins.quantized)
    with pytest.raises(ConversionError, match="quantizes no layer"):
        find_twins(twins.full, twins.full)
