"""Attention of five dimensions and more, ``(1,windows,heads,tokens,width)``, in four: ``(windows,heads,tokens,width)``.

OpenVINO fuses the two products of attention and the softmax between them up to four dimensions. Of five, each runs
alone, and a quantizer behind the second makes it compute in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.edit import add_tensor
from vitedge.graph.values import is_read_once, present, producer_of, shape_of

RANK = 4
NOTHING = "no attention has more than four dimensions"
NO_SHAPE = "shapes of queries, keys or values are not known"
OTHERS_READ = "others read the scores"
BROADCAST = "queries, keys and values differ in windows or heads"
OUTPUT = "its result is an output of the graph"
OTHER_AXIS = "the softmax is over another axis than the keys"


@dataclass(frozen=True)
class _Attention:
    """A product, a softmax and a product; nothing else reads what lies between them."""

    first: ir.Node
    softmax: ir.Node
    second: ir.Node

    @property
    def operands(self) -> tuple[tuple[ir.Node, int], ...]:
        """Return the places where queries, keys and values are read."""
        return (self.first, 0), (self.first, 1), (self.second, 1)

    def apply(self, model: ir.Model) -> None:
        for node, index in self.operands:
            value = present(node.inputs[index])
            node.replace_input_with(index, _in_four(model, node, value, f"{node.outputs[0].name}_{index}"))
        result = self.second.outputs[0]
        whole, readers = shape_of(result) or (), tuple(result.uses())
        for node in (self.first, self.softmax, self.second):
            node.outputs[0].shape = ir.Shape(_four(shape_of(node.outputs[0]) or ()))
        self.softmax.attributes["axis"] = ir.AttrInt64("axis", -1)
        reshape = _reshape(model, result, whole, f"{result.name}_whole")
        model.graph.insert_after(self.second, reshape)
        for reader, index in readers:
            reader.replace_input_with(index, reshape.outputs[0])


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where the scores of attention have more than four dimensions.
    """
    return refusal(_found(model.graph), nothing=NOTHING)


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Merge the dimensions before the heads, and part them again behind the second product."""
    return apply_all(model, _found(model.graph))


def _found(graph: ir.Graph) -> Iterator[_Attention | str]:
    for softmax in list(graph):
        scores = softmax.inputs[0] if softmax.op_type == "Softmax" else None
        first = producer_of(scores, "MatMul")
        if scores is None or first is None or len(shape_of(scores) or ()) <= RANK:
            continue
        second = next(
            (node for node, index in softmax.outputs[0].uses() if node.op_type == "MatMul" and not index), None
        )
        if second is not None:
            yield _attention(first, softmax, second)


def _attention(first: ir.Node, softmax: ir.Node, second: ir.Node) -> _Attention | str:
    scores, result = softmax.inputs[0], second.outputs[0]
    if not (scores is not None and is_read_once(scores) and is_read_once(softmax.outputs[0])):
        return OTHERS_READ
    found = _Attention(first, softmax, second)
    shapes = [shape_of(present(node.inputs[index])) or () for node, index in found.operands]
    if not all(shapes):
        return NO_SHAPE
    if result.is_graph_output():
        return OUTPUT
    if len({shape[:-2] for shape in shapes}) > 1:
        return BROADCAST
    axis = softmax.attributes.get_int("axis", -1)
    return found if axis in (-1, len(shapes[0]) - 1) else OTHER_AXIS


def _four(shape: Sequence[int]) -> tuple[int, ...]:
    """Merge the dimensions before the heads."""
    return (math.prod(shape[:-3]), *shape[-3:])


def _in_four(model: ir.Model, reader: ir.Node, value: ir.Value, name: str) -> ir.Value:
    """Reshape a value before its reader; before the Transpose of keys, which the engine fuses with the product."""
    turned = producer_of(value, "Transpose")
    rank = len(shape_of(value) or ())
    leading = list(range(rank - 3))
    order = list(turned.attributes.get_ints("perm", ())) if turned is not None else []
    if turned is None or order[: rank - 3] != leading or not is_read_once(value):
        reshape = _reshape(model, value, _four(shape_of(value) or ()), name)
        model.graph.insert_before(reader, reshape)
        return reshape.outputs[0]
    turned.replace_input_with(0, _in_four(model, turned, present(turned.inputs[0]), name))
    turned.attributes["perm"] = ir.AttrInt64s("perm", [0, *(axis - rank + RANK for axis in order[rank - 3 :])])
    value.shape = ir.Shape(_four(shape_of(value) or ()))
    return value


def _reshape(model: ir.Model, value: ir.Value, shape: Sequence[int], name: str) -> ir.Node:
    sizes = add_tensor(model.graph, f"{name}_shape", np.asarray(shape, np.int64))
    return ir.node("Reshape", [value, sizes], outputs=[ir.val(name, value.dtype, list(shape))], name=name)
