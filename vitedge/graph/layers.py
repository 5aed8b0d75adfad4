"""Layers with weights: MatMul, Gemm, Conv and LayerNormalization, whatever their operator lays the weights out like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.graph.attributes import pads_with_zeros
from vitedge.graph.edit import add_constant, bypass, drop_input, set_constant
from vitedge.graph.operators import LINEAR_OPERATORS, is_standard
from vitedge.graph.values import Array, constant, constant_shape, present, shape_of


@dataclass(frozen=True)
class Layer:
    """MatMul, Gemm, Conv or LayerNormalization with constant weights, together with the Add of its bias.

    Attributes:
        node: that operator; its first input is the data.
        add: the Add of the bias behind a MatMul; None without one.
    """

    node: ir.Node
    add: ir.Node | None = None

    @property
    def name(self) -> str:
        """Return the name of the operator, or of its output if it has none."""
        return self.node.name or self._output_name

    @property
    def operator(self) -> str:
        """Return ``MatMul``, ``Gemm``, ``Conv`` or ``LayerNormalization``."""
        return self.node.op_type

    @property
    def data(self) -> ir.Value:
        """Return the value that the layer reads."""
        return present(self.node.inputs[0])

    @property
    def output(self) -> ir.Value:
        """Return the value that the layer produces, bias included."""
        return (self.add or self.node).outputs[0]

    @property
    def channel_axis(self) -> int:
        """Return the axis of the channels, in data and output."""
        return 1 if self.node.op_type == "Conv" else -1

    @property
    def groups(self) -> int:
        """Return the number of groups of a convolution; 1 for other layers."""
        return self.node.attributes.get_int("group", 1) or 1

    @property
    def out_axis(self) -> int:
        """Return the axis of the output channels in the weights as the operator stores them."""
        if self.node.op_type == "Gemm":
            return 1 - (self.node.attributes.get_int("transB", 0) or 0)
        return int(self.node.op_type == "MatMul")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Return the shape of :attr:`weight`."""
        shape = constant_shape(self.node.inputs[1])
        if shape is None:
            raise ValueError(f"the weights of {self.name} are not constant")
        return shape[::-1] if self.out_axis else shape

    @property
    def weight(self) -> Array:
        """Return ``(out, in)``, ``(out, in / groups, *kernel)`` of a convolution, ``(out,)`` of a normalization."""
        weight = _values(self.node.inputs[1])
        return weight.T if self.out_axis else weight

    @property
    def weight_matrix(self) -> Array:
        """Return :attr:`weight` as ``(out, in)``; ``(out, in / groups · kernel)`` of a convolution."""
        weight = self.weight
        return np.ascontiguousarray(weight.reshape(len(weight), -1))

    @property
    def has_bias(self) -> bool:
        """Return whether the layer adds a constant."""
        return self._bias_input is not None

    @property
    def bias(self) -> Array:
        """Return the bias, ``(out,)``; zeros for a layer without a bias."""
        found = self._bias_input
        if found is None:
            return np.zeros(self.weight_shape[0])
        node, index = found
        return np.broadcast_to(np.ravel(_values(node.inputs[index])), self.weight_shape[0])

    @property
    def _bias_input(self) -> tuple[ir.Node, int] | None:
        """Return the node that adds the bias, and the index of its input."""
        if self.add is not None:
            return self.add, _constant_index(self.add)
        return (self.node, 2) if len(self.node.inputs) > 2 and self.node.inputs[2] is not None else None

    @property
    def _output_name(self) -> str:
        return str(self.node.outputs[0].name)

    def stored(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Lay a matrix out like the operator stores its weights.

        Args:
            matrix: like :attr:`weight` or :attr:`weight_matrix`, of any type.
        """
        weight = matrix.reshape(self.weight_shape)
        return np.ascontiguousarray(weight.T) if self.out_axis else weight

    def set_weight(self, model: ir.Model, weight: Array) -> None:
        """Replace the weights; like :attr:`weight` or :attr:`weight_matrix`."""
        set_constant(model, self.node, 1, f"{self._output_name}_weight", self.stored(weight))

    def set_bias(self, model: ir.Model, bias: Array) -> Layer:
        """Replace or add the bias ``(out,)``, or remove it where all of it is zero; returns the changed layer."""
        if not bias.any():
            return self._without_bias(model)
        if self.has_bias:
            self.replace_bias(model, bias)
            return self
        if self.node.op_type == "MatMul":
            return self._with_add(model, bias)
        set_constant(model, self.node, 2, f"{self._output_name}_bias", bias)
        return self

    def replace_bias(self, model: ir.Model, bias: Array) -> None:
        """Replace the bias ``(out,)``, even by zeros.

        Raises:
            ValueError: the layer has no bias.
        """
        if self._bias_input is None:
            raise ValueError(f"{self.name} has no bias")
        node, index = self._bias_input
        set_constant(model, node, index, f"{self._output_name}_bias", bias)

    def _without_bias(self, model: ir.Model) -> Layer:
        if self.add is not None:
            bypass(model, self.add, self.node.outputs[0])
        elif len(self.node.inputs) > 2:
            drop_input(model, self.node, 2)
        return Layer(self.node)

    def _with_add(self, model: ir.Model, bias: Array) -> Layer:
        product = self.node.outputs[0]
        total = ir.val(f"{self._output_name}_biased", product.dtype, product.shape)
        offset = add_constant(model, f"{self._output_name}_bias", bias)
        ir.convenience.replace_all_uses_with(product, total, replace_graph_outputs=True)
        add = ir.node("Add", [product, offset], outputs=[total], name=f"{self._output_name}_add")
        model.graph.insert_after(self.node, add)
        return Layer(self.node, add)

    def scale_outputs(self, model: ir.Model, factors: Array) -> Layer:
        """Multiply the output by ``factors`` ``(out,)``; returns the changed layer."""
        weight = self.weight
        self.set_weight(model, weight * factors.reshape(-1, *[1] * (weight.ndim - 1)))
        return self.set_bias(model, self.bias * factors)

    def scale_inputs(self, model: ir.Model, factors: Array) -> None:
        """Multiply the weights of each input channel by ``factors`` ``(in,)``."""
        self.set_weight(model, self.weight * self.input_weight(factors))

    def input_weight(self, vector: Array) -> Array:
        """Lay ``vector`` ``(in,)`` along the input channels of the weights, to be multiplied with them."""
        out, inner, *kernel = self.weight_shape
        rows = vector.reshape(self.groups, 1, inner).repeat(out // self.groups, axis=1).reshape(out, inner)
        return rows.reshape(out, inner, *[1] * len(kernel))

    def weight_by_input(self) -> Array:
        """Give the weights that each input channel is multiplied with, ``(out / groups · kernel, in)``."""
        out, inner, *_ = self.weight_shape
        grouped = self.weight_matrix.reshape(self.groups, out // self.groups, inner, -1)
        return np.asarray(grouped.transpose(1, 3, 0, 2).reshape(-1, self.groups * inner))

    def shift_inputs(self, model: ir.Model, offsets: Array) -> Layer:
        """Add to the bias what ``offsets`` ``(in,)`` on every input would add; returns the changed layer.

        A convolution that pads would need the offsets in its padding too.
        """
        return self.set_bias(model, self.bias + self.response(offsets))

    def response(self, constant_input: Array) -> Array:
        """Return the output ``(out,)``, without the bias and where nothing is padded, for ``(in,)`` on every input."""
        weight = self.weight
        return np.asarray((weight * self.input_weight(constant_input)).sum(axis=tuple(range(1, weight.ndim))))

    def pads(self) -> bool:
        """Decide whether the layer is a convolution that pads with zeros."""
        return pads_with_zeros(self.node)


def linear_layers(graph: ir.Graph) -> Iterator[Layer]:
    """Give all linear layers and convolutions with constant weights, in the graph's order.

    The layers within bodies of If and Loop are not among them.
    """
    for node in graph:
        layer = layer_of(node) if node.op_type in LINEAR_OPERATORS else None
        if layer is not None:
            yield layer


def layer_of(node: ir.Node | None) -> Layer | None:
    """Give the layer that a node is the main operator of."""
    if node is None or not is_standard(node.domain) or len(node.inputs) < 2:
        return None
    shape = constant_shape(node.inputs[1])
    if shape is None or node.inputs[0] is None or node.inputs[0].const_value is not None or not _is_layer(node, shape):
        return None
    return Layer(node, _bias_add(node, shape[1]) if node.op_type == "MatMul" else None)


def layer_behind(value: ir.Value | None) -> Layer | None:
    """Give the layer that produces a value, bias included."""
    if value is None:
        return None
    producer = value.producer()
    if producer is not None and producer.op_type == "Add" and _constant_index(producer) >= 0:
        before = producer.inputs[1 - _constant_index(producer)]
        producer = before.producer() if before is not None else None
    layer = layer_of(producer)
    return layer if layer is not None and layer.output is value else None


def _is_layer(node: ir.Node, shape: tuple[int, ...]) -> bool:
    match node.op_type:
        case "MatMul":
            return len(shape) == 2
        case "Gemm":
            plain = node.attributes.get_float("alpha", 1.0) == 1.0 == node.attributes.get_float("beta", 1.0)
            out = shape[1 - (node.attributes.get_int("transB", 0) or 0)]
            return plain and not node.attributes.get_int("transA", 0) and _has_channel_bias(node, out)
        case "Conv":
            return _has_channel_bias(node, shape[0])
        case "LayerNormalization":
            data = shape_of(present(node.inputs[0])) or ()
            last = node.attributes.get_int("axis", -1) in (-1, len(data) - 1)
            of_channels = len(shape) == 1 and (shape[0] > 1 or data[-1:] == (1,))  # one number may scale all channels
            return last and of_channels and _has_channel_bias(node, shape[0])
        case _:
            return False


def _has_channel_bias(node: ir.Node, channels: int) -> bool:
    """Decide whether a node adds a constant for each output channel, or nothing."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    shape = constant_shape(node.inputs[2])
    return shape is not None and all(size == 1 for size in shape[:-1]) and shape[-1:] in ((), (1,), (channels,))


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
    index = _constant_index(add)
    return add if index >= 0 and constant_shape(add.inputs[index]) == (width,) else None


def _constant_index(node: ir.Node) -> int:
    """Return the index of a node's constant input; -1 without one."""
    return next((index for index, value in enumerate(node.inputs) if constant_shape(value) is not None), -1)
