"""Small Q/DQ graphs for audits: a layer behind shifted windows, one behind a scale, and a chain of layers."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 16


class QuantizedGraph:
    """Builds a graph with one float input, ``x``, and one output, ``y``.

    Args:
        shape: of ``x``.
        seed: of the weights.
    """

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self.shape: tuple[int | str, ...] = shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = {}
        self.random = np.random.default_rng(seed)

    def add(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: object, dtype: type[np.generic] = np.int64) -> str:
        self.constants[name] = np.array(value, dtype=dtype)
        return name

    def quantized(self, name: str, scale: float = 0.02) -> str:
        parameters = [
            self.constant(f"{name}_scale", scale, np.float32),
            self.constant(f"{name}_zero", 128, np.uint8),
        ]
        levels = self.add("QuantizeLinear", [name, *parameters], f"{name}_quantize")
        return self.add("DequantizeLinear", [levels, *parameters], f"{name}_dequantize")

    def weights(self, name: str, *shape: int) -> str:
        stored = self.constant(f"{name}_weight", self.random.integers(-127, 128, shape), np.int8)
        scale = self.constant(f"{name}_weight_scale", 0.01, np.float32)
        zero = self.constant(f"{name}_weight_zero", 0, np.int8)
        return self.add("DequantizeLinear", [stored, scale, zero], f"{name}_weight_dequantize")

    def model(self, output: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [output], ["y"], name="y")],
            "quantized",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def behind_shifted_windows() -> onnx.ModelProto:
    """A layer ``attn.qkv`` on windows of a map that is rolled, as in Swin; its quantizer lies behind the roll."""
    graph = QuantizedGraph((1, 8, 8, CHANNELS))
    rolled = graph.add("Relu", ["x"], "positive")
    begin, shift, end = (graph.constant(f"number_{each}", [each]) for each in (0, 3, 99))
    for axis in (1, 2):
        along = graph.constant(f"axis_{axis}", [axis])
        late = graph.add("Slice", [rolled, shift, end, along], f"late_{axis}")
        early = graph.add("Slice", [rolled, begin, shift, along], f"early_{axis}")
        rolled = graph.add("Concat", [late, early], f"roll_{axis}", axis=axis)
    levels = graph.quantized(rolled)
    split = graph.add("Reshape", [levels, graph.constant("split", [1, 2, 4, 2, 4, CHANNELS])], "split_windows")
    moved = graph.add("Transpose", [split], "moved_windows", perm=[0, 1, 3, 2, 4, 5])
    windows = graph.add("Reshape", [moved, graph.constant("merged", [4, 16, CHANNELS])], "windows")
    return graph.model(graph.add("MatMul", [windows, graph.weights("qkv", CHANNELS, 48)], "attn.qkv"))


def behind_a_scale() -> onnx.ModelProto:
    """A convolution ``conv`` that ends with a multiplication, which OpenVINO folds into its weights and renames."""
    graph = QuantizedGraph((1, CHANNELS, 8, 8))
    graph.constant("bias", graph.random.normal(size=8), np.float32)
    graph.constant("factors", graph.random.uniform(0.5, 2, (1, 8, 1, 1)), np.float32)
    conv = graph.add("Conv", [graph.quantized("x"), graph.weights("conv", 8, CHANNELS, 1, 1), "bias"], "conv")
    scaled = graph.add("Mul", [conv, "factors"], "scaled")
    second = graph.weights("second", 4, 8, 1, 1)
    return graph.model(graph.add("Conv", [graph.quantized(scaled), second], "second"))


def chain(*names: str, batch: int | str = 4) -> onnx.ModelProto:
    """Matrix products of 16 channels, one behind the other; the last of them is not quantized."""
    graph = QuantizedGraph((4, CHANNELS))
    graph.shape = (batch, CHANNELS)
    value = "x"
    for name in names[:-1]:
        value = graph.add("MatMul", [graph.quantized(value), graph.weights(name, CHANNELS, CHANNELS)], name)
    weight = graph.constant("weight", graph.random.normal(size=(CHANNELS, CHANNELS)), np.float32)
    return graph.model(graph.add("MatMul", [value, weight], names[-1]))
