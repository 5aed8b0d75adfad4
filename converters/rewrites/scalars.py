"""Products with constant factors, as exporters spell them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import isclose

import onnx_ir as ir

from vitedge.graph.values import constant, producer_of

RELATIVE_TOLERANCE = 1e-6  # what is left of a constant after float32


def scalar(value: ir.Value | None) -> float | None:
    """Read the one element of a constant; None for any other value."""
    values = constant(value)
    return None if values is None or values.size != 1 else float(values.item())


def is_close(value: float | None, expected: float) -> bool:
    """Decide whether a constant is this number in float32."""
    return value is not None and isclose(value, expected, rel_tol=RELATIVE_TOLERANCE)


def plus_scalar(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """Read the operands of an Add of a scalar constant, the constant last."""
    if node is None or node.op_type != "Add":
        return None
    for value, other in (node.inputs, reversed(node.inputs)):
        number = scalar(other)
        if value is not None and number is not None:
            return value, number
    return None


@dataclass(frozen=True)
class Product:
    """A product, multiplied out.

    Attributes:
        number: of all constant factors.
        factors: the computed ones.
    """

    number: float
    factors: tuple[ir.Value, ...]

    def is_of(self, number: float, *factors: ir.Value) -> bool:
        """Decide whether it is the product of these, in any order."""
        return is_close(self.number, number) and sorted(map(id, self.factors)) == sorted(map(id, factors))


def product(value: ir.Value | None, within: Collection[ir.Value] = ()) -> Product:
    """Multiply out Mul, Div by a constant and Pow by a small whole number.

    Args:
        value: the product.
        within: values that are factors by themselves, whatever produces them.
    """
    number = 1.0
    factors: list[ir.Value] = []
    for each in _factors(value, within):
        if isinstance(each, float):
            number *= each
        else:
            factors.append(each)
    return Product(number, tuple(factors))


def _factors(value: ir.Value | None, within: Collection[ir.Value]) -> Iterator[ir.Value | float]:
    number = scalar(value)
    node = None if value in within else producer_of(value, "Mul", "Div", "Pow")
    exponent = scalar(node.inputs[1]) if node is not None and node.op_type != "Mul" else None
    if number is not None:
        yield number
    elif node is not None and node.op_type == "Mul":
        yield from _factors(node.inputs[0], within)
        yield from _factors(node.inputs[1], within)
    elif node is not None and node.op_type == "Div" and exponent:
        yield from _factors(node.inputs[0], within)
        yield 1 / exponent
    elif node is not None and node.op_type == "Pow" and exponent in (2, 3):
        for _ in range(int(exponent)):
            yield from _factors(node.inputs[0], within)
    elif value is not None:
        yield value
