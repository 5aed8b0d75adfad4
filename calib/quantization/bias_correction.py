"""Bias correction: a layer's bias takes up what quantization adds to its output on average.

The mean of every output channel is taken over some images before and after the layer is quantized (Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, with images).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.calib.quantization.graph_parts import Values
from vitedge.calib.quantization.parallel import parallel_map
from vitedge.graph.edit import add_constant, set_constant
from vitedge.graph.layers import Layer, linear_layers
from vitedge.graph.session import open_part


def add_missing_biases(model: ir.Model) -> tuple[Layer, ...]:
    """Give every linear layer and convolution a bias, of zeros where it had none.

    Args:
        model: changed in place; its values keep their names.

    Returns:
        All linear layers and convolutions, in the graph's order.
    """
    for layer in tuple(linear_layers(model.graph))[::-1]:
        if layer.has_bias:
            continue
        zeros = np.zeros(layer.weight_shape[0])
        if layer.operator == "MatMul":
            _insert_add(model, layer, zeros)
        else:
            set_constant(model, layer.node, 2, f"{layer.output.name}_bias", zeros)
    return tuple(linear_layers(model.graph))


def _insert_add(model: ir.Model, layer: Layer, bias: NDArray[np.float64]) -> None:
    """Add a bias behind a MatMul; the sum takes the product's name."""
    product, name = layer.node.outputs[0], layer.node.outputs[0].name
    total = ir.val(name, product.dtype, product.shape)
    offset = add_constant(model, f"{name}_bias", bias)
    ir.convenience.replace_all_uses_with(product, total, replace_graph_outputs=True)
    add = ir.node("Add", [product, offset], outputs=[total], name=f"{layer.name}_bias")
    model.graph.insert_after(layer.node, add)
    product.name = f"{name}_unbiased"


def mean_output(model: ir.Model, layer: Layer, images: Sequence[Values], data: str) -> NDArray[np.float64]:
    """Average every output channel of a layer's operator over images, ``(out,)``.

    A product of the mean input is the mean of the products; only convolutions run, because some of them pad.

    Args:
        model: the graph.
        layer: with the weights and the bias that it has now; the bias of an Add is left out.
        images: the values of each.
        data: name of the value to feed to the layer.

    Raises:
        ConversionError: ONNX Runtime refuses the layer.
    """
    if layer.operator != "Conv":
        own_bias = 0.0 if layer.add is not None else layer.bias
        return layer.response(_mean_input(layer, images, data)) + own_bias
    read = str(layer.data.name)
    session = open_part(model, [layer.node], {read: images[0][data]}, [str(layer.node.outputs[0].name)], threads=1)

    def mean(values: Values) -> NDArray[np.float64]:
        output = session.run(None, {read: values[data]})[0]
        axes = tuple(axis for axis in range(output.ndim) if axis != layer.channel_axis % output.ndim)
        return np.asarray(output.mean(axis=axes, dtype=np.float64))

    return np.asarray(np.mean(list(parallel_map(mean, images)), axis=0))


def _mean_input(layer: Layer, images: Sequence[Values], data: str) -> NDArray[np.float64]:
    """Average every input channel of a product over images, ``(in,)``."""

    def mean(values: Values) -> NDArray[np.float64]:
        array = np.moveaxis(values[data], layer.channel_axis, -1)
        return np.asarray(array.reshape(-1, array.shape[-1]).mean(axis=0, dtype=np.float64))

    return np.asarray(np.mean(list(parallel_map(mean, images)), axis=0))
