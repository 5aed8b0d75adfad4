"""GELU that an exporter has spelled out, into one operator: ``x/2 · (1 + erf(x/√2))``, or with the tanh that stands in.

One operator is what backends have a kernel for, and what int8 quantization leaves in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi, sqrt

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.converters.rewrites.scalars import is_close, plus_scalar, product
from vitedge.graph.edit import replace_value
from vitedge.graph.values import producer_of

CUBIC = 0.044715
MAX_PRODUCTS = 3
NO_GELU = "Erf or Tanh is not part of a GELU"


@dataclass(frozen=True)
class _Gelu:
    """A spelled-out GELU.

    Attributes:
        source: the value that it reads.
        result: the value that it produces.
        approximate: as in the operator's attribute.
    """

    source: ir.Value
    result: ir.Value
    approximate: str

    def apply(self, model: ir.Model) -> None:
        replace_value(model, self.result, "Gelu", [self.source], approximate=self.approximate)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where an Erf or Tanh is part of a GELU.
    """
    return refusal(_found(model), nothing="no GELU is spelled out")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Put Gelu in the place of each."""
    places = apply_all(model, _found(model))
    RemoveUnusedNodesPass()(model)
    return places


def _found(model: ir.Model) -> Iterator[_Gelu | str]:
    """Find the GELU of each Erf and Tanh lazily: one may read another, which must be fused first."""
    return (_gelu_of(node) or NO_GELU for node in list(model.graph) if node.op_type in ("Erf", "Tanh"))


def _gelu_of(node: ir.Node) -> _Gelu | None:
    curve = node.outputs[0]
    for source in _sources(node):
        for gate in _plus_one(curve):
            for result in _products_of(gate, MAX_PRODUCTS):
                if product(result, within=(source, gate)).is_of(0.5, source, gate):
                    return _Gelu(source, result, "none" if node.op_type == "Erf" else "tanh")
    return None


def _sources(node: ir.Node) -> Iterator[ir.Value]:
    """Find each ``x`` that makes the argument of Erf or Tanh a GELU's."""
    argument = node.inputs[0]
    if node.op_type == "Erf":
        scaling = producer_of(argument, "Mul", "Div")
        candidates = [] if scaling is None else [each for each in scaling.inputs if each is not None]
        yield from (each for each in candidates if product(argument, within=(each,)).is_of(1 / sqrt(2), each))
        return
    outer = product(argument)
    if is_close(outer.number, sqrt(2 / pi)):
        yield from (each for each in _cubic_sources(outer.factors) if each is not None)


def _cubic_sources(factors: tuple[ir.Value, ...]) -> Iterator[ir.Value]:
    """Find each ``x`` of ``x + c·x³``, or of ``x · (1 + c·x²)``."""
    for index, total in enumerate(factors):
        add, rest = producer_of(total, "Add"), (*factors[:index], *factors[index + 1 :])
        if add is None:
            continue
        for one, other in (add.inputs, reversed(add.inputs)):
            if one is not None and not rest and product(other, within=(one,)).is_of(CUBIC, one, one, one):
                yield one
        square, unit = plus_scalar(add) or (None, None)
        if len(rest) == 1 and unit == 1 and product(square, within=rest).is_of(CUBIC, *rest, *rest):
            yield rest[0]


def _plus_one(value: ir.Value) -> Iterator[ir.Value]:
    for add in value.consumers():
        operands = plus_scalar(add)
        if operands is not None and operands[1] == 1:
            yield add.outputs[0]


def _products_of(value: ir.Value, levels: int) -> Iterator[ir.Value]:
    """Yield the products that a value is a factor of, nearest first."""
    for node in value.consumers():
        if levels and node.op_type in ("Mul", "Div"):
            yield node.outputs[0]
            yield from _products_of(node.outputs[0], levels - 1)
