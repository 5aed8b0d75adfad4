"""What the rules share: constants, layers with weights, and where each channel of a value goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

Array = NDArray[np.float64]
Channels = NDArray[np.int32]

ZERO = 0
"""In place of a channel: padding with zeros."""
OTHER = -1
"""In place of a channel: a value from elsewhere."""

MOVES = frozenset(
    {"Concat", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that move values and compute none; the first input is what they move, of Concat all are."""


PAD_VALUE = 2
"""Which input of Pad holds what it pads with."""


def constant(value: ir.Value | None) -> Array | None:
    """The values of an initializer; None where they are computed or there is no such input."""
    if value is None or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy(), dtype=np.float64)


def is_read_once(value: ir.Value) -> bool:
    """Whether one input of one node, and no output of the graph, is all that reads a value."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def shape_of(value: ir.Value) -> tuple[int, ...] | None:
    """Its static shape; None where one is not known."""
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(size) for size in value.shape.numpy())


def add_constant(model: ir.Model, name: str, values: Array) -> ir.Value:
    """Add a float32 initializer; an underscore follows the name where it is taken."""
    return add_tensor(model.graph, name, values.astype(np.float32))


def add_tensor(graph: ir.Graph, name: str, values: NDArray[Any]) -> ir.Value:
    """Add an initializer of the type that the values have; an underscore follows the name where it is taken."""
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(values, name=name)
    value = ir.val(name, tensor.dtype, list(values.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def set_constant(model: ir.Model, node: ir.Node, index: int, name: str, values: Array) -> None:
    """Give an input of a node new values; other readers of the old ones keep them."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    node.replace_input_with(index, add_constant(model, name, values))
    drop_unused(model, old)


def drop_unused(model: ir.Model, value: ir.Value | None) -> None:
    """Remove an initializer that nothing reads."""
    if value is not None and value.is_initializer() and not value.uses() and not value.is_graph_output():
        model.graph.initializers.pop(str(value.name))


def bypass(model: ir.Model, node: ir.Node, value: ir.Value) -> None:
    """Remove a node of one output; what read it reads ``value``."""
    inputs = tuple(node.inputs)
    ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    for each in inputs:
        drop_unused(model, each)


def put_in_place(model: ir.Model, value: ir.Value, op_type: str, inputs: Sequence[ir.Value], **attributes: Any) -> None:
    """Have one new operator make what a value holds, for all that read it; what made the value stays, unread.

    Args:
        model: changed in place.
        value: made by a node of the graph.
        op_type: of the new operator.
        inputs: of the new operator; the output has type and shape of the first.
        attributes: of the new operator.
    """
    last = value.producer()
    if last is None:
        raise ValueError(f"{value.name} is made by no node")
    output = ir.val(f"{value.name}_fused", inputs[0].dtype, inputs[0].shape)
    node = ir.node(op_type, inputs, attributes, outputs=[output], name=output.name)
    model.graph.insert_before(last, node)
    ir.convenience.replace_all_uses_with(value, output, replace_graph_outputs=True)


@dataclass(frozen=True)
class Layer:
    """MatMul, Gemm, Conv or LayerNormalization with constant weights, together with the Add of its bias.

    Attributes:
        node: that operator; its first input is the data.
        add: the Add that follows a MatMul; None where there is none.
    """

    node: ir.Node
    add: ir.Node | None = None

    @property
    def data(self) -> ir.Value:
        """What it reads."""
        (value, *_) = self.node.inputs
        if value is None:
            raise ValueError(f"{self._name} is made from nothing")
        return value

    @property
    def output(self) -> ir.Value:
        """What it makes, bias included."""
        return (self.add or self.node).outputs[0]

    @property
    def axis(self) -> int:
        """Where the channels are, in input and output."""
        return 1 if self.node.op_type == "Conv" else -1

    @property
    def groups(self) -> int:
        """Of a convolution; else 1."""
        return self.node.attributes.get_int("group", 1) or 1

    @property
    def weight(self) -> Array:
        """``(out, in)``, ``(out, in / groups, *kernel)`` of a convolution, ``(out,)`` of a normalization."""
        weight = _values(self.node.inputs[1])
        return weight.T if self._transposed else weight

    @property
    def bias(self) -> Array:
        """``(out,)``; zeros where there is none."""
        if self.add is not None:
            return _values(self.add.inputs[_constant_index(self.add)])
        if len(self.node.inputs) < 3 or self.node.inputs[2] is None:
            return np.zeros(len(self.weight))
        return np.broadcast_to(np.ravel(_values(self.node.inputs[2])), len(self.weight))

    @property
    def _name(self) -> str:
        return str(self.node.outputs[0].name)

    @property
    def _transposed(self) -> bool:
        if self.node.op_type == "Gemm":
            return not self.node.attributes.get_int("transB", 0)
        return self.node.op_type == "MatMul"

    def set_weight(self, model: ir.Model, weight: Array) -> None:
        """Replace the weights; same shape as :attr:`weight`."""
        set_constant(model, self.node, 1, f"{self._name}_weight", weight.T if self._transposed else weight)

    def set_bias(self, model: ir.Model, bias: Array) -> Layer:
        """Replace, add or, where it is zero, remove the bias ``(out,)``; the layer as it is then."""
        if not bias.any():
            return self._without_bias(model)
        if self.add is not None:
            set_constant(model, self.add, _constant_index(self.add), f"{self._name}_bias", bias)
        elif self.node.op_type == "MatMul":
            return self._with_add(model, bias)
        else:
            set_constant(model, self.node, 2, f"{self._name}_bias", bias)
        return self

    def _without_bias(self, model: ir.Model) -> Layer:
        if self.add is not None:
            bypass(model, self.add, self.node.outputs[0])
        elif len(self.node.inputs) > 2:
            old = self.node.inputs[2]
            self.node.resize_inputs(2)
            drop_unused(model, old)
        return Layer(self.node)

    def _with_add(self, model: ir.Model, bias: Array) -> Layer:
        product = self.node.outputs[0]
        total = ir.val(f"{self._name}_biased", product.dtype, product.shape)
        offset = add_constant(model, f"{self._name}_bias", bias)
        ir.convenience.replace_all_uses_with(product, total, replace_graph_outputs=True)
        add = ir.node("Add", [product, offset], outputs=[total], name=f"{self._name}_add")
        model.graph.insert_after(self.node, add)
        return Layer(self.node, add)

    def scale_outputs(self, model: ir.Model, factors: Array) -> Layer:
        """Multiply what it makes by ``factors`` ``(out,)``; the layer as it is then."""
        weight = self.weight
        self.set_weight(model, weight * factors.reshape(-1, *[1] * (weight.ndim - 1)))
        return self.set_bias(model, self.bias * factors)

    def input_weight(self, vector: Array) -> Array:
        """``vector`` ``(in,)`` laid along the input channels of the weights, to be multiplied with them."""
        weight = self.weight
        out, inner = weight.shape[:2]
        rows = vector.reshape(self.groups, 1, inner).repeat(out // self.groups, axis=1).reshape(out, inner)
        return rows.reshape(out, inner, *[1] * (weight.ndim - 2))

    def shift_inputs(self, model: ir.Model, offsets: Array) -> Layer:
        """Add to the bias what ``offsets`` ``(in,)`` on every input would add; the layer as it is then.

        A convolution that pads would need them in its padding too.
        """
        weight = self.weight
        added = (weight * self.input_weight(offsets)).sum(axis=tuple(range(1, weight.ndim)))
        return self.set_bias(model, self.bias + added)

    def pads(self) -> bool:
        """Whether it is a convolution that pads with zeros."""
        pads = self.node.attributes.get_ints("pads", []) or []
        return any(pads) or self.node.attributes.get_string("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")


def layer_of(node: ir.Node | None) -> Layer | None:
    """The layer that a node is the main operator of."""
    if node is None or len(node.inputs) < 2 or node.inputs[0] is None or constant(node.inputs[0]) is not None:
        return None
    weight = constant(node.inputs[1])
    if weight is None or not _is_layer(node, weight):
        return None
    return Layer(node, _bias_add(node, weight.shape[1]) if node.op_type == "MatMul" else None)


def layer_behind(value: ir.Value | None) -> Layer | None:
    """The layer that makes a value, bias included."""
    if value is None:
        return None
    producer = value.producer()
    if producer is not None and producer.op_type == "Add" and _constant_index(producer) >= 0:
        before = producer.inputs[1 - _constant_index(producer)]
        producer = before.producer() if before is not None else None
    layer = layer_of(producer)
    return layer if layer is not None and layer.output is value else None


def layer_source(value: ir.Value | None) -> Layer | None:
    """The layer from which operators that only move values lead to this one; :func:`trace` tells which channels do."""
    while value is not None:
        layer = layer_behind(value)
        producer = value.producer()
        if layer is not None or producer is None or producer.op_type not in MOVES:
            return layer
        value = producer.inputs[0]
    return None


def _is_layer(node: ir.Node, weight: Array) -> bool:
    match node.op_type:
        case "MatMul":
            return weight.ndim == 2
        case "Gemm":
            plain = node.attributes.get_float("alpha", 1.0) == 1.0 == node.attributes.get_float("beta", 1.0)
            return plain and not node.attributes.get_int("transA", 0) and _has_constant_bias(node, weight)
        case "Conv":
            return _has_constant_bias(node, weight)
        case "LayerNormalization":
            rank = len(shape_of(_present(node.inputs[0])) or ())
            last = node.attributes.get_int("axis", -1) in (-1, rank - 1)
            return last and weight.ndim == 1 and _has_constant_bias(node, weight)
        case _:
            return False


def _has_constant_bias(node: ir.Node, weight: Array) -> bool:
    """A constant for each output channel, or none."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    bias = constant(node.inputs[2])
    return bias is not None and bias.size in (1, *weight.shape[:2])


def _values(value: ir.Value | None) -> Array:
    values = constant(value)
    if values is None:
        raise ValueError(f"{value} is not constant")
    return values


def _bias_add(matmul: ir.Node, width: int) -> ir.Node | None:
    product = matmul.outputs[0]
    consumers = product.consumers()
    if len(consumers) != 1 or product.is_graph_output() or consumers[0].op_type != "Add":
        return None
    (add,) = consumers
    bias = constant(add.inputs[_constant_index(add)]) if _constant_index(add) >= 0 else None
    return add if bias is not None and bias.shape == (width,) else None


def _constant_index(node: ir.Node) -> int:
    """Which input of a two-input node is constant; -1 if none is."""
    return next((index for index, value in enumerate(node.inputs) if constant(value) is not None), -1)


@dataclass(frozen=True)
class Reading:
    """A use of traced channels by an operator that does more than move them.

    Attributes:
        node: the operator; None where the value is an output of the graph.
        index: of its input.
        channels: of the shape of the value read: the channel that each element is from, counted from 1; else ``ZERO``
            or ``OTHER``.
    """

    node: ir.Node | None
    index: int
    channels: Channels

    @property
    def reader(self) -> str:
        """Who reads, for people."""
        return "the output" if self.node is None else self.node.op_type

    @property
    def layer(self) -> Layer | None:
        """The linear layer or convolution that reads them as its data; None for any other reader."""
        layer = layer_of(self.node) if self.index == 0 else None
        return None if layer is None or layer.node.op_type == "LayerNormalization" else layer


def numbered(value: ir.Value, axis: int) -> Channels | None:
    """Channel numbers, from 1, for a value with its channels on ``axis``; None where its shape is not known."""
    shape = shape_of(value)
    if shape is None:
        return None
    along = np.arange(1, shape[axis] + 1, dtype=np.int32)
    return np.broadcast_to(along.reshape(-1, *[1] * (-axis - 1 if axis < 0 else len(shape) - axis - 1)), shape)


def trace(graph: ir.Graph, value: ir.Value, channels: Channels) -> tuple[Reading, ...]:
    """Follow channels through operators that only move them to whatever computes with them.

    The moves are carried out on the channel numbers themselves, so that the result holds for any chain of them.

    Args:
        graph: in topological order.
        value: where to begin.
        channels: of its shape, as in :class:`Reading`.
    """
    known, readings = {value: channels}, list[Reading]()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        traced = [index for index, each in enumerate(node.inputs) if each in known]
        if not traced:
            continue
        moved = _moved(node, known)
        if moved is None:
            readings += [Reading(node, index, known[_present(node.inputs[index])]) for index in traced]
        else:
            known.update(zip(node.outputs, moved, strict=True))
    outputs = [Reading(None, 0, each) for key, each in known.items() if key.is_graph_output()]
    return (*readings, *outputs)


def traced_layer(graph: ir.Graph, layer: Layer) -> tuple[Reading, ...]:
    """Where the output channels of a layer go; empty where the shape of its output is not known."""
    channels = numbered(layer.output, layer.axis)
    return () if channels is None else trace(graph, layer.output, channels)


def input_columns(layer: Layer, channels: Channels) -> Channels | None:
    """The channel that each input column of a layer reads, ``(in,)``, as in :class:`Reading`.

    None where a column reads several channels, or values from elsewhere. Padding does not count beside a channel.
    """
    columns = np.moveaxis(channels, layer.axis, 0).reshape(channels.shape[layer.axis], -1)
    highest = columns.max(axis=1)
    lowest = np.where(columns == ZERO, highest[:, None], columns).min(axis=1)
    return highest if (lowest == highest).all() and (lowest != OTHER).all() else None


def _present(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise ValueError("no such input")
    return value


def _moved(node: ir.Node, known: dict[ir.Value, Channels]) -> Sequence[Channels] | None:
    """The channels of a node's outputs; None where it does more than move, or how it moves is not known."""
    if node.op_type not in MOVES or node.domain:
        return None
    inputs = [_moved_input(node, index, known) for index in range(len(node.inputs))]
    if any(each is None for each in inputs):
        return None
    feeds = {str(value.name): each for value, each in zip(node.inputs, inputs, strict=True) if value is not None}
    outputs = ReferenceEvaluator(ir.to_proto(node)).run(None, feeds)
    return [np.asarray(each, dtype=np.int32) for each in outputs]


def _moved_input(node: ir.Node, index: int, known: dict[ir.Value, Channels]) -> NDArray[Any] | None:
    value = node.inputs[index]
    if value is None:
        return np.empty(0)
    if value in known:
        return known[value]
    if node.op_type == "Concat":
        shape = shape_of(value)
        return None if shape is None else np.full(shape, OTHER, dtype=np.int32)
    if value.const_value is None:
        return None
    if node.op_type == "Pad" and index == PAD_VALUE:
        return np.asarray(ZERO if not value.const_value.numpy().any() else OTHER, dtype=np.int32)
    return value.const_value.numpy()
