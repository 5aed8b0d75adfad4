"""A float32 graph to a strongly typed one: constants, casts and the types of all values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass

from vitedge.converters.tensorrt.float32_placement import QUANTIZERS, float32_nodes, is_float
from vitedge.converters.tensorrt.halves import half_scales, holds_scales, rescaled
from vitedge.errors import ConversionError
from vitedge.graph.edit import add_tensor, drop_unused

HALF, FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT
SUFFIXES: Mapping[ir.DataType, str] = {HALF: "_half", FULL: "_full"}
FULL_INPUTS: Mapping[str, tuple[int, ...]] = {"Resize": (2,)}
"""Inputs that are float32 whatever the operator computes in."""


@dataclass(frozen=True)
class Typed:
    """A strongly typed graph.

    Attributes:
        graph: uint8 ``frame`` in, float32 ``logits`` out.
        full: the nodes that compute in float32 and why, by name.
    """

    graph: onnx.ModelProto
    full: Mapping[str, str]


def half_graph(graph: onnx.ModelProto, peaks: Mapping[str, float]) -> Typed:
    """Type a graph: float16, but for what ``placement`` leaves in float32.

    Args:
        graph: float32, also with Q/DQ, with the types of its values. It is not changed.
        peaks: largest magnitude of every value.

    Raises:
        ConversionError: the graph has branches or loops.
    """
    model = ir.from_proto(graph)
    for node in model.graph:
        if any(each.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for each in node.attributes.values()):
            raise ConversionError(
                f"the layer {node.name!r} is a {node.op_type}, a branch or loop",
                expected="a graph without control flow",
                fix="export the model for one input size, without conditions on the image",
            )
    full = float32_nodes(model.graph, peaks)
    _Typing(model, full).apply()
    NameFixPass()(model)
    return Typed(ir.to_proto(model), {str(node.name): reason for node, reason in full.items()})


class _Typing:
    """The nodes in ``full`` keep float32, all others get float16; a value that is read in both types is cast once."""

    def __init__(self, model: ir.Model, full: Mapping[ir.Node, str]) -> None:
        self._model, self._full = model, full
        self._cast = dict[tuple[ir.Value, ir.DataType], ir.Value]()

    def apply(self) -> None:
        """Change the graph in place, in its order: what a node reads has its type by then."""
        (logits,) = self._model.graph.outputs
        for node in [node for node in self._model.graph if is_float(node)]:
            kind = FULL if node in self._full else HALF
            if node.op_type in QUANTIZERS:
                self._round_scales(node)
            self._set_inputs(node, kind)
            self._set_outputs(node, kind)
        if logits.dtype == HALF:
            name, logits.name = logits.name, f"{logits.name}_half"
            self._model.graph.outputs[0] = self._as(logits, FULL)
            self._model.graph.outputs[0].name = name

    def _set_inputs(self, node: ir.Node, kind: ir.DataType) -> None:
        for index, value in enumerate(node.inputs):
            wanted = FULL if index in FULL_INPUTS.get(node.op_type, ()) else kind
            if value is not None and value.dtype in (HALF, FULL) and value.dtype != wanted:
                node.replace_input_with(index, self._as(value, wanted))
                drop_unused(self._model, value)

    def _set_outputs(self, node: ir.Node, kind: ir.DataType) -> None:
        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", int(kind))
        for value in node.outputs:
            if value.dtype == FULL:
                value.dtype = kind

    def _as(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """Return a value in another type."""
        if (value, kind) not in self._cast:
            self._cast[value, kind] = (
                self._constant(value, kind) if value.is_initializer() else self._casted(value, kind)
            )
        return self._cast[value, kind]

    def _constant(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        return add_tensor(self._model.graph, f"{value.name}{SUFFIXES[kind]}", _array(value).astype(kind.numpy()))

    def _casted(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        output = ir.val(f"{value.name}{SUFFIXES[kind]}", kind, value.shape)
        cast = ir.node("Cast", [value], {"to": int(kind)}, outputs=[output], name=f"{value.name}_cast{SUFFIXES[kind]}")
        self._model.graph.insert_after(value.producer(), cast)  # type: ignore[arg-type]
        return output

    def _round_scales(self, node: ir.Node) -> None:
        """Have both nodes of a pair mean the same scale, one that float16 holds, whichever type each of them has."""
        data, scale = node.inputs[:2]
        if data is None or scale is None or not holds_scales(_array(scale)):
            return
        half = half_scales(_array(scale))
        self._replace(node, 1, half.astype(np.float32))
        if data.is_initializer():
            axis = node.attributes.get_int("axis", 1) or 0
            self._replace(node, 0, rescaled(_array(data), _array(scale), half, axis))

    def _replace(self, node: ir.Node, index: int, values: NDArray[Any]) -> None:
        """Give a node a constant of its own, where its values are not those already."""
        old = node.inputs[index]
        if old is not None and (values != _array(old)).any():
            node.replace_input_with(index, add_tensor(self._model.graph, f"{old.name}_rounded", values))
            drop_unused(self._model, old)


def _array(value: ir.Value) -> NDArray[Any]:
    if value.const_value is None:
        raise ConversionError(f"{value.name} is computed", expected="a constant", fix="please report this model")
    return value.const_value.numpy()
