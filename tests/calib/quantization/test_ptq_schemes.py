"""Integers with zero points, without, and shifted; and float8."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs  # noqa: E402 - needs onnx
from onnx import TensorProto  # noqa: E402
from qdq_graphs import Frames, constants, dequantized_inputs, layers, run_onnxruntime  # noqa: E402 - needs onnx

from vitedge.calib.quantization.affine import Scheme  # noqa: E402
from vitedge.calib.quantization.ptq import QuantizedGraph, quantize  # noqa: E402
from vitedge.metrics import sqnr_db  # noqa: E402

MIN_SQNR_DB = 25.0
INTEGERS = (Scheme.ASYMMETRIC, Scheme.SYMMETRIC, Scheme.SHIFTED)


@pytest.mark.parametrize("scheme", [Scheme.SYMMETRIC, Scheme.SHIFTED])
def test_symmetric_activations_for_engines_without_zero_points(graph: Any, frames: Frames, scheme: Scheme) -> None:
    result = quantize(graph, frames, scheme=scheme).graph
    known = constants(result)
    steps = [node for node in result.graph.node if node.op_type == "QuantizeLinear"]
    inner = [known[node.input[2]] for node in steps if "frame" not in node.name]
    assert len(inner) == 5
    assert all(each.dtype == np.int8 and not each.any() for each in inner)
    assert sqnr_db(run_onnxruntime(graph, frames), run_onnxruntime(result, frames)) > MIN_SQNR_DB


def one_sided(layer: str, *, result: str = "y0") -> Any:
    """A layer behind an activation function whose values are hardly ever negative."""
    body = f"wide = Mul(pixels, ten) x0 = Gelu(wide) y0 = {layer} y = GlobalAveragePool({result}) flat = Flatten(y) "
    body += "hidden = MatMul(flat, wide_head) logits = MatMul(hidden, head)"
    square = (graphs.WIDTH, graphs.WIDTH)
    return graphs.model(
        body,
        ten=np.full(1, 10.0),
        point=graphs.weights(*square, 1, 1),
        dense=graphs.weights(*square, 3, 3),
        depthwise=graphs.weights(graphs.WIDTH, 1, 3, 3),
        wide_head=graphs.weights(*square),
        head=graphs.weights(graphs.WIDTH, 5),
    )


def test_a_shift_brings_back_what_zero_points_of_zero_cost() -> None:
    """Twice as many levels for the values that there are: 6 dB where these quantizers make the noise."""
    graph, images, held_out = one_sided("Conv(x0, point)"), graphs.frames(24), graphs.frames(24, seed=1)
    (reference,) = graphs.answers(graph, held_out)
    reached = {}
    for scheme in INTEGERS:
        made = quantize(graph, images, scheme=scheme).graph
        reached[scheme] = sqnr_db(reference.reshape(24, -1), graphs.answers(made, held_out)[0].reshape(24, -1))
        shifts = [node for node in made.graph.node if node.op_type == "Sub"]
        assert [node.input[0] for node in shifts] == ["x0_scaled"] * (scheme is Scheme.SHIFTED)
    assert reached[Scheme.SHIFTED] > reached[Scheme.SYMMETRIC] + 3
    assert reached[Scheme.SHIFTED] > reached[Scheme.ASYMMETRIC] - 3


def test_what_a_convolution_pads_with_zeros_is_not_shifted() -> None:
    padded, valid = one_sided("Conv<pads=[1,1,1,1]>(x0, dense)"), one_sided("Conv(x0, dense)")
    made = [quantize(graph, graphs.frames(), scheme=Scheme.SHIFTED).graph for graph in (padded, valid)]
    assert [sum(node.op_type == "Sub" for node in graph.graph.node) for graph in made] == [0, 1]


@pytest.mark.parametrize("scheme", INTEGERS)
def test_a_depthwise_convolution_before_a_shortcut_is_int8_for_tensorrt_alone(scheme: Scheme) -> None:
    deep = f"Conv<pads=[1,1,1,1], group={graphs.WIDTH}>(x0, depthwise) r = Add(y0, pixels) y1 = Conv(r, point)"
    graph = one_sided(deep, result="y1")
    names = {node.output[0]: node.name for node in graph.graph.node}
    made = quantize(graph, graphs.frames(), scheme=scheme).graph
    assert len(dequantized_inputs(made, names["y0"])) == (0 if scheme is Scheme.ASYMMETRIC else 2)
    assert len(dequantized_inputs(made, names["y1"])) == 2


@pytest.fixture(scope="module")
def in_float8(graph: Any, frames: Frames) -> QuantizedGraph:
    """The ViT in float8; do not change it."""
    return quantize(graph, frames, scheme=Scheme.FLOAT8)


def test_float8_is_as_onnx_defines_it_in_the_layers_of_int8(
    in_float8: QuantizedGraph, quantized: QuantizedGraph
) -> None:
    onnx.checker.check_model(in_float8.graph, full_check=True)
    known = {each.name: each.data_type for each in in_float8.graph.graph.initializer}
    pairs = [node for node in in_float8.graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {known[node.input[2]] for node in pairs} == {TensorProto.FLOAT8E4M3FN}
    assert {known[node.input[0]] for node in pairs if node.input[0] in known} == {TensorProto.FLOAT8E4M3FN}
    for layer in layers(in_float8.graph)[1:]:
        assert len(dequantized_inputs(in_float8.graph, layer.name)) == len(
            dequantized_inputs(quantized.graph, layer.name)
        )
    assert in_float8.recipe.startswith(
        "vitedge: 5 layers float8 (e4m3), weights per channel, activations float8 (e4m3);"
    )


def test_float8_comes_close(graph: Any, in_float8: QuantizedGraph, frames: Frames) -> None:
    assert sqnr_db(run_onnxruntime(graph, frames), run_onnxruntime(in_float8.graph, frames)) > MIN_SQNR_DB


def test_float8_keeps_values_that_no_calibration_image_held() -> None:
    """Planted: images whose values are three times larger than those of calibration, which int8 clips."""
    graph, held_out = one_sided("Conv(x0, point)"), (graphs.frames(24, seed=1) * 0.75).astype(np.uint8)
    (reference,), reached = graphs.answers(graph, held_out), {}
    for scheme in (Scheme.SHIFTED, Scheme.FLOAT8):
        made = quantize(graph, graphs.frames(24) // 4, scheme=scheme).graph
        reached[scheme] = sqnr_db(reference.reshape(24, -1), graphs.answers(made, held_out)[0].reshape(24, -1))
    assert reached[Scheme.FLOAT8] > reached[Scheme.SHIFTED] + 6


def test_float8_centres_what_an_activation_function_makes_and_no_convolution_pads() -> None:
    padded, valid = one_sided("Conv<pads=[1,1,1,1]>(x0, dense)"), one_sided("Conv(x0, dense)")
    made = [quantize(graph, graphs.frames(), scheme=Scheme.FLOAT8).graph for graph in (padded, valid)]
    centres = [[node for node in graph.graph.node if node.op_type == "Sub"] for graph in made]
    assert [len(each) for each in centres] == [0, 1]
    assert constants(made[1])[centres[1][0].input[1]].shape == (graphs.WIDTH, 1, 1)
    assert not [node for graph in made for node in graph.graph.node if "scale_channels" in node.name]


def test_centred_channels_are_finer_in_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: channels that hardly change, and lie far from 0."""
    graph = graphs.model(
        "far = Add(x, ten) wide = Gelu(far) narrow = MatMul(wide, second) "
        "hidden = MatMul(narrow, hidden_weight) logits = MatMul(hidden, head)",
        ten=np.full(graphs.WIDTH, 10.0),
        second=graphs.weights(graphs.WIDTH, graphs.WIDTH),
        hidden_weight=graphs.weights(graphs.WIDTH, graphs.WIDTH),
        head=graphs.weights(graphs.WIDTH, 5),
    )
    (hidden,) = [node.name for node in graph.graph.node if "hidden_weight" in node.input]
    images, held_out = graphs.frames(24), graphs.frames(24, seed=1)
    centred = quantize(graph, images, scheme=Scheme.FLOAT8, keep_float=[hidden]).graph
    monkeypatch.setattr("vitedge.calib.quantization.ptq.is_activation", lambda _: False)
    without = quantize(graph, images, scheme=Scheme.FLOAT8, keep_float=[hidden]).graph
    rows = [graphs.answers(each, held_out)[0].reshape(24, -1) for each in (graph, centred, without)]
    assert sqnr_db(rows[0], rows[1]) > sqnr_db(rows[0], rows[2]) + 6
