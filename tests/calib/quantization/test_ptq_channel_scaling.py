"""Channels are scaled where the engine fuses that, and come closer by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from qdq_graphs import constants

from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.ptq import quantize
from vitedge.calib.quantization.smoothquant import RATIOS
from vitedge.metrics import sqnr_db

INTEGERS = (Scheme.ASYMMETRIC, Scheme.SYMMETRIC, Scheme.SHIFTED)


def uneven(makers: str, layer: str) -> Any:
    """A tensor ``x0`` with channels of very different sizes, which operators make of ``wide``, before a layer."""
    sizes = 10 ** np.linspace(-1.5, 0, graphs.WIDTH)
    body = f"wide = Mul(pixels, sizes) {makers} {layer} y = GlobalAveragePool(y0) flat = Flatten(y) "
    body += "hidden = MatMul(flat, wide_head) logits = MatMul(hidden, head)"
    square = (graphs.WIDTH, graphs.WIDTH)
    return graphs.model(
        body,
        sizes=sizes.reshape(1, -1, 1, 1),
        dense=graphs.weights(*square, 3, 3) / sizes[:, None, None],
        deep=graphs.weights(graphs.WIDTH, 1, 3, 3) / sizes.reshape(-1, 1, 1, 1),
        point=graphs.weights(*square, 1, 1),
        wide_head=graphs.weights(*square),
        head=graphs.weights(graphs.WIDTH, 5),
        same=np.array([0, 0, 0, 0], np.int64),
    )


DENSE = "y0 = Conv<pads=[1,1,1,1]>(x0, dense)"
DEPTHWISE = "d0 = Conv<pads=[1,1,1,1], group=12>(x0, deep) y0 = Conv(d0, point)"


@pytest.mark.parametrize("scheme", INTEGERS)
@pytest.mark.parametrize("layer", [DENSE, DEPTHWISE])
def test_channels_are_scaled_where_the_engine_takes_it_up(
    layer: str, scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, images = uneven("x0 = Relu(wide)", layer), graphs.frames(16)
    scaled = quantize(graph, images, scheme=scheme).graph
    (reference,), (reached,) = (graphs.answers(each, images) for each in (graph, scaled))
    (factors,) = [node for node in scaled.graph.node if node.name == "x0_scale_channels"]
    assert constants(scaled)[factors.input[1]].shape == (graphs.WIDTH, 1, 1)
    monkeypatch.setattr("vitedge.calib.quantization.ptq.fuses_channel_scaling", lambda _: False)
    (without,) = graphs.answers(quantize(graph, images, scheme=scheme).graph, images)
    rows = [each.reshape(16, -1) for each in (reference, reached, without)]
    assert sqnr_db(rows[0], rows[1]) > sqnr_db(rows[0], rows[2]) + 3


@pytest.mark.parametrize(
    "makers",
    [
        "x0 = Reshape(wide, same)",
        "product = MatMul(wide, wide) x0 = Add(product, sizes)",
        "product = MatMul(wide, wide) gate = Sigmoid(product) x0 = Mul(product, gate)",
    ],
)
def test_channels_are_not_scaled_elsewhere(makers: str) -> None:
    result = quantize(uneven(makers, DENSE), graphs.frames()).graph
    assert not [node for node in result.graph.node if "scale_channels" in node.name]


@pytest.mark.parametrize("scheme", INTEGERS)
def test_channels_behind_an_activation_function_come_closer(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few channels that reach far, as behind GELU in a vision transformer, in range and in what reads them."""
    sizes = np.where(np.arange(graphs.WIDTH) % 6, 1.0, 8.0)
    graph = graphs.model(
        "wide = Mul(x, sizes) gelu = Gelu(wide) narrow = MatMul(gelu, second) "
        "hidden = MatMul(narrow, hidden_weight) logits = MatMul(hidden, head)",
        sizes=sizes,
        second=graphs.weights(graphs.WIDTH, graphs.WIDTH) / sizes[:, None],
        hidden_weight=graphs.weights(graphs.WIDTH, graphs.WIDTH),
        head=graphs.weights(graphs.WIDTH, 5),
    )
    images = graphs.frames(24)
    scaled = quantize(graph, images, scheme=scheme).graph
    (factors,) = [node for node in scaled.graph.node if node.name == "gelu_scale_channels"]
    values = constants(scaled)[factors.input[1]]
    assert values.shape == (graphs.WIDTH,)
    assert values.min() == 1 < values.max() <= max(RATIOS)
    monkeypatch.setattr("vitedge.calib.quantization.engine_fusion.ACTIVATIONS", frozenset())
    without = quantize(graph, images, scheme=scheme).graph
    held_out = graphs.frames(24, seed=1)
    rows = [graphs.answers(each, held_out)[0].reshape(24, -1) for each in (graph, scaled, without)]
    assert sqnr_db(rows[0], rows[1]) > sqnr_db(rows[0], rows[2]) + 2
