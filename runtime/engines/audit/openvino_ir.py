"""The linear layers and convolutions of an OpenVINO model, and which of them it makes int8."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MOVES = frozenset(
    {
        "BatchToSpace", "Broadcast", "Concat", "DepthToSpace", "Gather", "MaxPool", "Pad", "Reshape", "Roll",
        "ShuffleChannels", "Slice", "SpaceToBatch", "SpaceToDepth", "Split", "Squeeze", "StridedSlice", "Tile",
        "Transpose", "Unsqueeze", "VariadicSplit",
    }
)  # fmt: skip
"""Operators that move values and do not change them; a quantizer may lie before them."""
WITHOUT_BIAS = "/WithoutBiases"
"""Ending of the name that OpenVINO's ONNX reader gives a convolution, whose name the addition of its bias then has."""

_CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
_PRODUCTS = (*_CONVOLUTIONS, "MatMul")
_SCALES = ("Multiply", "Subtract", "Add", "Divide")
_8_BIT = ("i8", "u8")
_MOVES_KEPT = 8


@dataclass(frozen=True)
class IrLayer:
    """A convolution or a matrix product of a model.

    Attributes:
        name: of the layer.
        operator: OpenVINO's name of its kind.
        quantized: whether its input and its weights are quantized to 8 bits; of a product of two activations, whether
            both are.
        aliases: names of its operator and of those behind it that a kernel may take in, nearest first.
        weights: name of the constant that holds its weights; empty for a product of two activations.
        moved: kinds of the operators between the quantizer of its input and the layer, nearest first.
    """

    name: str
    operator: str
    quantized: bool
    aliases: tuple[str, ...]
    weights: str
    moved: tuple[str, ...] = ()


def layers_of(model: Any) -> tuple[IrLayer, ...]:
    """Find the layers with constant weights, and the products of two quantized activations, in the model's order."""
    operators = model.get_ordered_ops()
    constants = _constants(operators)
    moves = _moves(operators, constants)
    products = (node for node in operators if node.get_type_name() in _PRODUCTS)
    layers = (_layer(node, constants, moves) for node in products if node.get_name() not in constants)
    return tuple(layer for layer in layers if layer.weights or layer.quantized)


def _constants(operators: list[Any]) -> frozenset[str]:
    """Return the names of the operators whose output no input of the model decides."""
    constants: set[str] = set()
    for node in operators:
        sources = [_source(value) for value in node.input_values()]
        if node.get_type_name() in ("Constant", "ShapeOf") or (sources and constants.issuperset(sources)):
            constants.add(node.get_name())
    return frozenset(constants)


def _moves(operators: list[Any], constants: Collection[str]) -> dict[str, tuple[str, ...]]:
    """List the operators that moved the 8-bit numbers of each operator, the last one first."""
    found: dict[str, tuple[str, ...]] = {}
    for node in operators:
        kind, inputs = node.get_type_name(), node.input_values()
        if kind == "FakeQuantize" or (kind == "Convert" and inputs[0].get_element_type().get_type_name() in _8_BIT):
            found[node.get_name()] = ()
            continue
        followed = inputs[:1] if kind in MOVES or kind == "Convert" else []
        if kind == "Concat":
            followed = inputs
        elif kind in _SCALES:
            followed = _scaled(inputs, constants)
        if followed and all(_source(value) in found for value in followed):
            before = found[_source(followed[0])]
            found[node.get_name()] = (kind, *before)[:_MOVES_KEPT] if kind in MOVES else before
    return found


def _scaled(inputs: list[Any], constants: Collection[str]) -> list[Any]:
    """Return the operand that a constant scales or shifts: the larger of two constants; none if both are computed."""
    computed = [value for value in inputs if _source(value) not in constants]
    return computed[:1] if len(computed) == 1 else [] if computed else [max(inputs, key=_numbers)]


def _source(value: Any) -> str:
    return str(value.get_node().get_name())


def _layer(node: Any, constants: Collection[str], moves: Mapping[str, tuple[str, ...]]) -> IrLayer:
    data, other = node.input_value(0), node.input_value(1)
    if _source(data) in constants:  # a product may have its weights first
        data, other = other, data
    return IrLayer(
        name=node.get_friendly_name().removesuffix(WITHOUT_BIAS),
        operator=node.get_type_name(),
        quantized=_source(data) in moves and _source(other) in moves,
        aliases=tuple(_taken_in(node, constants)),
        weights=_weights(other) if _source(other) in constants else "",
        moved=moves.get(_source(data), ()),
    )


def _numbers(value: Any) -> int:
    shape = value.get_partial_shape()
    return 0 if shape.is_dynamic else math.prod(shape.to_shape())


def _weights(value: Any) -> str:
    """Return the name of the largest constant that a value is computed from, by following the larger operand."""
    node = value.get_node()
    while node.get_type_name() != "Constant" and node.input_values():
        node = max(node.input_values(), key=_numbers).get_node()
    return str(node.get_friendly_name())


def _taken_in(node: Any, constants: Collection[str]) -> Iterator[str]:
    """Give the names of an operator, and of those behind it that only constants join, as far as none branches off."""
    yield node.get_friendly_name()
    while node.get_output_size() == 1:
        readers = [each.get_node() for each in node.output(0).get_target_inputs()]
        readers = [each for each in readers if each.get_name() not in constants]  # its shape, for a bias
        if len(readers) != 1:
            return
        (node,) = readers
        computed = [each for each in node.input_values() if _source(each) not in constants]
        if len(computed) != 1 or node.get_type_name() in (*_PRODUCTS, "Result"):
            return
        yield node.get_friendly_name()
