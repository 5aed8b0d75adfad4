"""What cannot be quantized is one clear error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import bundles
from onnx import TensorProto, helper, numpy_helper
from qdq_graphs import Frames, changed, layers

from vitedge.calib.quantization.ptq import QuantizedGraph, quantize
from vitedge.errors import CalibrationError, ConversionError


def test_a_graph_that_is_quantized_already(quantized: QuantizedGraph, frames: Frames) -> None:
    with pytest.raises(ConversionError, match="quantized already"):
        quantize(quantized.graph, frames)
    with pytest.raises(ConversionError, match="quantized already"):
        quantize(bundles.colour_graph("int8"), frames)


def test_no_images(graph: Any, frames: Frames) -> None:
    with pytest.raises(CalibrationError, match="no calibration images"):
        quantize(graph, frames[:0])


def test_nothing_to_quantize(frames: Frames) -> None:
    with pytest.raises(ConversionError, match="no layer to quantize"):
        quantize(bundles.colour_graph(), frames)  # a first convolution and a classifier
    nothing = helper.make_graph(
        [
            helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT, name="cast"),
            helper.make_node("ReduceMean", ["float"], ["logits"], keepdims=0, name="mean"),
        ],
        "nothing",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, 32, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [])],
    )
    with pytest.raises(ConversionError, match="no layer to quantize"):
        quantize(helper.make_model(nothing, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), frames)


def test_frames_of_another_size(graph: Any) -> None:
    problem = r"uint8 of shape \(2, 16, 16, 3\)\n  expected: uint8 of shape \(N, 32, 32, 3\)"
    with pytest.raises(ConversionError, match=problem):
        quantize(graph, np.zeros((2, 16, 16, 3), np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(graph: Any, frames: Frames, value: float) -> None:
    broken = changed(graph)
    layer = layers(broken)[3]
    (tensor,) = [each for each in broken.graph.initializer if each.name == layer.input[1]]
    weights = numpy_helper.to_array(tensor).copy()
    weights[5, 7] = value
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    with pytest.raises(ConversionError, match="not finite") as caught:
        quantize(broken, frames)
    assert layer.name in caught.value.problem
    assert tensor.name in caught.value.problem


@pytest.mark.parametrize("value", [np.nan, np.float32(3e38)])
def test_activations_that_are_not_finite_name_the_layer_where_it_begins(
    graph: Any, frames: Frames, value: float
) -> None:
    broken = changed(graph)
    (norm,) = [each for each in broken.graph.node if each.name == "blocks.0.norm2"]
    broken.graph.initializer.append(numpy_helper.from_array(np.full(32, value, np.float32), "gamma"))
    norm.input[1] = "gamma"  # the original is shared by all LayerNorms
    with pytest.raises(CalibrationError, match="calibration image 1 is not finite") as caught:
        quantize(broken, frames)
    assert "from the layer 'blocks.0.norm2' on" in caught.value.problem
    assert caught.value.fix


def test_only_an_image_that_breaks_it_is_named(graph: Any, frames: Frames) -> None:
    """A black frame's logarithm is −∞; the frames before it are fine."""
    broken = changed(graph)
    (convolution,) = [each for each in broken.graph.node if each.op_type == "Conv"]
    logarithm = helper.make_node("Log", [convolution.input[0]], ["logarithm"], name="node_log")
    convolution.input[0] = "logarithm"
    broken.graph.node.insert(list(broken.graph.node).index(convolution), logarithm)
    bright = np.maximum(frames[:3], 1)
    bright[2] = 0
    with pytest.raises(CalibrationError, match="calibration image 3 is not finite from the layer 'node_log' on"):
        quantize(broken, bright)
