"""HardSigmoid as a Clip, which OpenVINO fuses into the convolution before it.

OpenVINO's reader of ONNX keeps HardSigmoid as an operator of its own, which a reference kernel computes in float32,
with changes of type and layout around it. It recognizes PyTorch's ``hardsigmoid`` in a Clip of the same slope.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.converters.rewrites.scalars import is_close
from vitedge.graph.edit import add_constant, bypass

WIDTH, MIDDLE = 6.0, 3.0
"""``hardsigmoid(x)`` is 0 up to -3, 1 from 3 on, and a straight line between."""
OTHER_LINE = "its slope is not 1/6, or its middle is not 1/2"


@dataclass(frozen=True)
class _HardSigmoid:
    """A HardSigmoid of PyTorch's slope.

    Attributes:
        node: the operator.
    """

    node: ir.Node

    def apply(self, model: ir.Model) -> None:
        node, old = self.node, self.node.outputs[0]
        low, middle, high, factor = (
            add_constant(model, f"{old.name}_{name}", np.asarray(number))
            for name, number in (("low", 0.0), ("middle", MIDDLE), ("high", WIDTH), ("factor", 1 / WIDTH))
        )
        moved = ir.node("Add", [node.inputs[0], middle], name=f"{old.name}_move")
        clipped = ir.node("Clip", [moved.outputs[0], low, high], name=f"{old.name}_clip")
        new = ir.val(f"{old.name}_clipped", old.dtype, old.shape)
        scaled = ir.node("Mul", [clipped.outputs[0], factor], outputs=[new], name=f"{old.name}_scale")
        model.graph.insert_before(node, [moved, clipped, scaled])
        bypass(model, node, new)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies to a HardSigmoid of slope 1/6 and middle 1/2.
    """
    return refusal(_found(model.graph), nothing="there is no HardSigmoid")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Put an Add, a Clip and a Mul in the place of each."""
    return apply_all(model, _found(model.graph))


def _found(graph: ir.Graph) -> Iterator[_HardSigmoid | str]:
    for node in list(graph):
        if node.op_type == "HardSigmoid" and not node.domain:
            slope, middle = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
            yield _HardSigmoid(node) if is_close(slope, 1 / WIDTH) and is_close(middle, 0.5) else OTHER_LINE
