"""Int8 weights for products of a single row, where they are many and add little noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import WIDTH, answers, weights

from vitedge.calib.quantization import row_weights
from vitedge.calib.quantization.layerwise import logits_of
from vitedge.calib.quantization.ptq import quantize
from vitedge.calib.quantization.row_weights import RowWeights, quantize_row_weights
from vitedge.calib.sensitivity.paired_graphs import mixed, pair_graphs
from vitedge.graph.layers import linear_layers
from vitedge.metrics import sqnr_db

HIDDEN = 64


def network() -> Any:
    """Two layers on tokens, whose mean goes through two layers more."""
    body = (
        "wide = MatMul(x, first) gelu = Gelu(wide) narrow = MatMul(gelu, second) sum = Add(x, narrow) "
        "norm = LayerNormalization<axis=-1>(sum, gamma) mean = ReduceMean<keepdims=0>(norm, tokens) "
        "hidden = Gemm<transB=1>(mean, third, offset) active = Relu(hidden) logits = MatMul(active, head)"
    )
    return graphs.model(
        body,
        first=weights(WIDTH, 2 * WIDTH),
        second=weights(2 * WIDTH, WIDTH, seed=1),
        gamma=np.linspace(0.5, 1.5, WIDTH),
        tokens=np.array([1], np.int64),
        third=weights(HIDDEN, WIDTH, seed=2),
        offset=np.linspace(-0.1, 0.1, HIDDEN),
        head=weights(HIDDEN, 5, seed=3),
    )


@pytest.fixture
def graph_pair() -> tuple[Any, Any]:
    full = network()
    return full, quantize(full, graphs.frames(32)).graph


@pytest.fixture(autouse=True)
def _for_small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_weights, "CACHED_WEIGHTS", 200)
    monkeypatch.setattr(row_weights, "LARGEST_NOISE", 100.0)


def eight_bit_weights(graph: Any) -> set[str]:
    """Names of the int8 constants."""
    return {each.name for each in graph.graph.initializer if each.data_type == onnx.TensorProto.INT8 and each.dims[1:]}


def test_many_weights_of_a_row_become_int8_and_the_row_stays_in_floating_point(graph_pair: tuple[Any, Any]) -> None:
    full, quantized = graph_pair
    frames = graphs.frames(48)
    found = quantize_row_weights(full, quantized, frames)
    assert len(found.layers) == 2
    assert len(eight_bit_weights(found.graph)) == len(eight_bit_weights(quantized)) + 2
    quantizers = [[node.op_type for node in graph.graph.node].count("QuantizeLinear") for graph in graph_pair]
    assert [node.op_type for node in found.graph.graph.node].count("QuantizeLinear") == quantizers[1]
    before, after = (answers(graph, frames)[0] for graph in (quantized, found.graph))
    assert sqnr_db(before, after) > 35
    onnx.checker.check_model(found.graph)


@pytest.mark.parametrize(
    ("name", "value"), [("LARGEST_NOISE", 0.0), ("CACHED_WEIGHTS", 1 << 18), ("LEAST_WEIGHTS", 1.0)]
)
def test_the_graph_stays_where_weights_are_noisy_or_few(
    graph_pair: tuple[Any, Any], name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_weights, name, value)
    assert quantize_row_weights(*graph_pair, graphs.frames(8)) == RowWeights(graph_pair[1])


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_the_noise_is_compared_with_the_noise_that_is_there(
    graph_pair: tuple[Any, Any], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = graphs.frames(20)
    rounded = quantize_row_weights(*graph_pair, frames).graph
    exact, before, after = (
        logits_of(ir.from_proto(graph), frames[10:]).astype(np.float64) for graph in (*graph_pair, rounded)
    )
    ratio = np.square(after - before).sum() / np.square(before - exact).sum()
    monkeypatch.setattr(row_weights, "LARGEST_NOISE", share * ratio)
    assert bool(quantize_row_weights(*graph_pair, frames).layers) == (share > 1)


def test_a_paired_graph_can_undo_them(graph_pair: tuple[Any, Any]) -> None:
    full, _ = graph_pair
    found = quantize_row_weights(*graph_pair, graphs.frames(20))
    pair = pair_graphs(full, found.graph)
    assert {layer.name for layer in pair.layers} >= set(found.layers)
    undone = mixed(pair, [layer.name for layer in pair.layers])
    frames = graphs.frames(3)
    np.testing.assert_allclose(answers(undone, frames)[0], answers(full, frames)[0], rtol=1e-4, atol=1e-6)


def test_one_image_cannot_round_and_judge(graph_pair: tuple[Any, Any]) -> None:
    assert quantize_row_weights(*graph_pair, graphs.frames(1)).layers == ()


def test_layers_that_read_many_rows_keep_their_weights() -> None:
    full = network()
    names = [layer.name for layer in linear_layers(ir.from_proto(full).graph)]
    quantized = quantize(full, graphs.frames(32), keep_float=names[-3:-2]).graph
    found = quantize_row_weights(full, quantized, graphs.frames(8))
    assert found.layers == tuple(names[-2:])
    assert len(eight_bit_weights(found.graph)) == len(eight_bit_weights(quantized)) + 2


def test_the_noise_is_judged_on_images_that_did_not_round(
    graph_pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Any]] = {"rounded": [], "judged": []}
    plain_rounded, plain_logits = row_weights._rounded, row_weights.logits_of
    monkeypatch.setattr(
        row_weights, "_rounded", lambda *given: seen["rounded"].append(given[2]) or plain_rounded(*given)
    )
    monkeypatch.setattr(
        row_weights, "logits_of", lambda *given: seen["judged"].append(given[1]) or plain_logits(*given)
    )
    frames = graphs.frames(10)
    quantize_row_weights(*graph_pair, frames)
    np.testing.assert_array_equal(seen["rounded"][0], frames[:5])
    for judged in seen["judged"]:
        np.testing.assert_array_equal(judged, frames[5:])
