"""Tiny Vision Transformers as strongly typed ONNX graphs, from a uint8 frame to float32 logits."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vitedge.bundle.bundle import INPUT_NAME, OUTPUT_NAME

Kind = Literal["fp32", "fp16", "int8"]

SIDE, PATCH, CLASSES, HEADS = 32, 8, 3, 2
TOKENS = (SIDE // PATCH) ** 2


def vit(kind: Kind = "fp16", *, blocks: int = 2, head: int = 32) -> onnx.ModelProto:
    """Patches, blocks of attention with a residual connection, average, linear layer.

    Args:
        kind: what its products compute in; int8 puts Q/DQ pairs before both operands of each.
        blocks: how many.
        head: width of a head.
    """
    return _Vit(kind, blocks, head).model()


class _Vit:
    def __init__(self, kind: Kind, blocks: int, head: int) -> None:
        self.quantized = kind == "int8"
        self.float = np.float32 if kind == "fp32" else np.float16
        self.head, self.width = head, head * HEADS
        self.constants: dict[str, NDArray[np.generic]] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.generator = np.random.default_rng(0)
        tokens = self.patches()
        for index in range(blocks):
            tokens = self.block(f"block{index}", tokens)
        self.logits(tokens)

    def add(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: object) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, (self.generator.standard_normal(shape) / np.sqrt(shape[0])).astype(self.float))

    def fake_quantize(self, tensor: str, scale: float = 0.05) -> str:
        if not self.quantized:
            return tensor
        parameters = [
            self.constant(f"{tensor}_scale", self.float(scale)),
            self.constant(f"{tensor}_zero", np.int8(0)),
        ]
        self.add("QuantizeLinear", [tensor, *parameters], f"{tensor}_q")
        return self.add("DequantizeLinear", [f"{tensor}_q", *parameters], f"{tensor}_dq")

    def product(self, first: str, second: str, output: str, scale: float = 0.05) -> str:
        return self.add("MatMul", [self.fake_quantize(first, scale), self.fake_quantize(second)], output)

    def patches(self) -> str:
        pixels = self.add("Cast", [INPUT_NAME], "pixels", to=helper.np_dtype_to_tensor_dtype(np.dtype(self.float)))
        scaled = self.add("Mul", [pixels, self.constant("step", self.float(1 / 255))], "scaled")
        planes = self.add("Transpose", [scaled], "planes", perm=[0, 3, 1, 2])
        filters = self.weight("filters", self.width, 3, PATCH, PATCH)
        maps = self.add(
            "Conv",
            [self.fake_quantize(planes, 1 / 127), self.fake_quantize(filters)],
            "patches",
            strides=[PATCH, PATCH],
        )
        rows = self.add("Reshape", [maps, self.constant("rows", [1, self.width, TOKENS])], "patch_rows")
        return self.add("Transpose", [rows], "tokens", perm=[0, 2, 1])

    def block(self, name: str, tokens: str) -> str:
        scale, bias = (
            self.constant(f"{name}.{part}", np.full(self.width, value, self.float))
            for part, value in (("gamma", 1), ("beta", 0))
        )
        normal = self.add("LayerNormalization", [tokens, scale, bias], f"{name}.norm")
        joined = self.product(normal, self.weight(f"{name}.qkv_weight", self.width, 3 * self.width), f"{name}.qkv")
        shape = self.constant(f"{name}.heads", [1, TOKENS, 3, HEADS, self.head])
        split = self.add(
            "Transpose", [self.add("Reshape", [joined, shape], f"{name}.r")], f"{name}.t", perm=[2, 0, 3, 1, 4]
        )
        parts = [f"{name}.{part}" for part in ("query4", "key4", "value4")]
        self.nodes.append(helper.make_node("Split", [split], parts, name=f"{name}.split", axis=0, num_outputs=3))
        axis = self.constant(f"{name}.axis", [0])
        query, key, value = (self.add("Squeeze", [part, axis], part[:-1]) for part in parts)
        factor = self.constant(f"{name}.factor", self.float(self.head**-0.5))
        query = self.add("Mul", [query, factor], f"{name}.scaled_query")
        key = self.add("Transpose", [key], f"{name}.key_t", perm=[0, 1, 3, 2])
        weights = self.add("Softmax", [self.product(query, key, f"{name}.scores")], f"{name}.softmax", axis=-1)
        mixed = self.product(weights, value, f"{name}.mixed", 1 / 127)
        mixed = self.add("Transpose", [mixed], f"{name}.mixed_t", perm=[0, 2, 1, 3])
        mixed = self.add("Reshape", [mixed, self.constant(f"{name}.flat", [1, TOKENS, self.width])], f"{name}.joined")
        projected = self.product(mixed, self.weight(f"{name}.proj_weight", self.width, self.width), f"{name}.proj")
        return self.add("Add", [tokens, projected], f"{name}.residual")

    def logits(self, tokens: str) -> None:
        pooled = self.add("GlobalAveragePool", [self.add("Transpose", [tokens], "columns", perm=[0, 2, 1])], "pooled")
        features = self.add("Flatten", [pooled], "features")
        head = self.product(features, self.weight("head_weight", self.width, CLASSES), "head")
        self.add("Cast", [head], OUTPUT_NAME, to=TensorProto.FLOAT)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "tiny_vit",
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, [1, SIDE, SIDE, 3])],
            [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [1, CLASSES])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model
