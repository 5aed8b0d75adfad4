"""Strided int8 convolutions get a column of zeros: exact in ONNX Runtime, and right in OpenVINO where AMX is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from vitedge.converters.openvino.parts import engine_outputs, values_at
from vitedge.converters.openvino.strided_convolutions import widen_strided_convolutions
from vitedge.metrics import sqnr_db
from vitedge.runtime.system.capabilities import read_features

SIZE = 32


def convolution(*, channels: int = 32, kernel: int = 8, stride: int = 8, pads: int = 0, readers: int = 1) -> Any:
    """Make a graph of int8 convolutions, which share their weights, from ``x`` ``(1,channels,32,32)`` to ``y``."""
    generator = np.random.default_rng(0)
    levels = generator.integers(-127, 128, (channels, channels, kernel, kernel), dtype=np.int8)
    constants = {
        "scale": np.float32(0.02), "zero": np.uint8(100), "levels": levels,
        "scales": np.full(channels, 0.001, np.float32), "zeros": np.zeros(channels, np.int8),
        "bias": generator.standard_normal(channels).astype(np.float32),
    }  # fmt: skip
    shape = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": [0, 0, pads, pads]}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["data"]),
        helper.make_node("DequantizeLinear", ["levels", "scales", "zeros"], ["weights"], axis=0, name="weights"),
        *(helper.make_node("Conv", ["data", "weights", "bias"], [f"y{i}"], **shape) for i in range(readers)),
        helper.make_node("Sum", [f"y{i}" for i in range(readers)], ["y"]),
    ]
    side = (SIZE + pads - kernel) // stride + 1
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, channels, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, channels, side, side])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def image(channels: int = 32) -> Any:
    return np.random.default_rng(1).standard_normal((1, channels, SIZE, SIZE)).astype(np.float32)


@pytest.mark.parametrize("readers", [1, 2])
def test_the_wider_kernel_computes_the_same(readers: int) -> None:
    graph = convolution(readers=readers)
    before = graph.SerializeToString(deterministic=True)
    wide = widen_strided_convolutions(graph)
    assert graph.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(wide, full_check=True)
    kernels = [numpy_helper.to_array(each).shape for each in wide.graph.initializer if len(each.dims) == 4]
    assert kernels == [(32, 32, 8, 9)] * readers
    expected, found = (values_at(each, ["y"], image())["y"] for each in (graph, wide))
    assert sqnr_db(expected, found) > 120


@pytest.mark.parametrize(
    "other",
    [{"kernel": 2, "stride": 2}, {"pads": 1}, {"kernel": 7, "stride": 4}, {"channels": 64}, {"channels": 3}],
    ids=["small stride", "padded", "no common divisor", "many channels", "few channels"],
)
def test_other_convolutions_stay(other: dict[str, int]) -> None:
    graph = convolution(**other)
    assert widen_strided_convolutions(graph) is graph


@pytest.mark.parametrize(("channels", "kernel", "stride"), [(32, 8, 8), (16, 8, 8), (48, 12, 4), (32, 4, 4)])
def test_openvino_computes_it_rightly(channels: int, kernel: int, stride: int) -> None:
    graph, frame = convolution(channels=channels, kernel=kernel, stride=stride), image(channels)
    expected = values_at(graph, ["y"], frame)["y"]
    (found,) = engine_outputs(widen_strided_convolutions(graph), [frame], "f32")
    assert sqnr_db(expected, found) > 20  # without VNNI, sums of int8 products saturate


@pytest.mark.skipif("AMX-INT8" not in (read_features() or ()), reason="this CPU has no AMX")
def test_a_version_has_not_mended_it() -> None:
    """A failure with a new version says that it has mended the fault: note it in the docs, and drop the form later."""
    graph, frame = convolution(), image()
    (found,) = engine_outputs(graph, [frame], "f32")
    assert sqnr_db(values_at(graph, ["y"], frame)["y"], found) < 20
