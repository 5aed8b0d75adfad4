"""Pixels that Slices, Concats and Gathers move about are moved by one Gather of whole pixels.

Swin's shifted windows are a roll along two axes, then a partition: four Slices, two Concats and a Transpose, of which
OpenVINO copies some by reference kernels. It also moves the quantizer behind a Concat to before it, gives each row a
scale, and computes the product behind that in 16 bits. MobileViTv2's ``unfold`` and ``pixel_shuffle`` are such chains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.merge_layout_operators import TO_CHANNELS_FIRST, TO_CHANNELS_LAST
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.channels import trace
from vitedge.graph.edit import add_tensor
from vitedge.graph.operators import DATA_MOVEMENT_OPERATORS
from vitedge.graph.values import shape_of

Pixels = NDArray[np.int64]

COPIES = ("Concat", "DepthToSpace", "Gather")
"""Operators for which a chain is rewritten; what other chains do, one Transpose does."""

READ_BETWEEN = "something else reads a value on the way"
NO_PIXELS = "it drops, repeats or pads pixels, or moves parts of them"


@dataclass(frozen=True)
class _Gathered:
    """A chain of operators that only move pixels.

    Attributes:
        source: the value that it reads.
        result: the value that it produces.
        pixels: of each pixel of the result, its position among the pixels of the source.
        channel_axis: of both; 1 or the last.
    """

    source: ir.Value
    result: ir.Value
    pixels: Pixels
    channel_axis: int

    def apply(self, model: ir.Model) -> None:
        before, after = shape_of(self.source) or (), shape_of(self.result) or ()
        channels, value = before[self.channel_axis], self.source
        first = self.channel_axis == 1
        if first:
            value = self._inserted(model, value, "Transpose", [before[axis] for axis in TO_CHANNELS_LAST])
        value = self._inserted(model, value, "Reshape", (1, len(self.pixels), channels))
        value = self._inserted(model, value, "Gather", (1, len(self.pixels), channels))
        value = self._inserted(model, value, "Reshape", [after[axis] for axis in TO_CHANNELS_LAST] if first else after)
        if first:
            value = self._inserted(model, value, "Transpose", after)
        ir.convenience.replace_all_uses_with(self.result, value, replace_graph_outputs=True)

    def _inserted(self, model: ir.Model, value: ir.Value, op_type: str, shape: Any) -> ir.Value:
        """Insert one more operator before the last of the chain."""
        last = self.result.producer()
        if last is None:
            raise ValueError(f"no node produces {self.result.name}")
        name, inputs, attributes = f"{value.name}_{op_type.lower()}", [value], dict[str, Any]()
        if op_type == "Transpose":
            to_last = value is self.source
            attributes["perm"] = TO_CHANNELS_LAST if to_last else TO_CHANNELS_FIRST
        elif op_type == "Gather":
            attributes["axis"] = 1
            inputs.append(add_tensor(model.graph, f"{self.result.name}_pixels", self.pixels))
        else:
            inputs.append(add_tensor(model.graph, f"{name}_shape", np.asarray(shape, np.int64)))
        output = ir.val(name, value.dtype, list(shape))
        model.graph.insert_before(last, ir.node(op_type, inputs, attributes, outputs=[output], name=name))
        return output


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where operators with copies in between only change the order of a value's pixels.
    """
    return refusal(_found(model.graph), nothing="no operator copies pixels of one value to another order")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Put one Gather in the place of each chain."""
    places = apply_all(model, _found(model.graph))
    RemoveUnusedNodesPass()(model)
    return places


def _found(graph: ir.Graph) -> Iterator[_Gathered | str]:
    sources = dict.fromkeys(_source(node) for node in graph if node.op_type in COPIES and not node.domain)
    for source in sources:
        if source is not None:
            yield from _chains(graph, source)


def _source(node: ir.Node) -> ir.Value | None:
    """Return the value that only layout operators separate from a node; None if it is constant or of unknown shape.

    It is the nearest that something else reads as well: SwinV2's residual sum, say, with its layout already changed.
    """
    value = node.inputs[0]
    while value is not None and not _ends(value) and (before := value.producer()) is not None and _moves(before):
        value = before.inputs[0]
    computed = value is not None and value.const_value is None
    return value if value is not None and computed and shape_of(value) is not None else None


def _moves(node: ir.Node) -> bool:
    return node.op_type in DATA_MOVEMENT_OPERATORS and not node.domain


def _chains(graph: ir.Graph, source: ir.Value) -> Iterator[_Gathered | str]:
    shape = shape_of(source) or ()
    elements = np.arange(1, math.prod(shape) + 1, dtype=np.int32).reshape(shape)
    values = trace(graph, source, elements).values
    for result, moved in values.items():
        between = _between(source, result)
        if result is source or not _ends(result) or not _pays(between):
            continue
        if not _is_read_within(between, source, result):
            yield READ_BETWEEN
        else:
            yield _gathered(source, result, elements, moved) or NO_PIXELS


def _pays(between: tuple[ir.Node, ...]) -> bool:
    """Return whether operators copy what one Gather can move; a Gather alone is one."""
    copies = [node.op_type for node in between if node.op_type in COPIES]
    return copies not in ([], ["Gather"])


def _ends(value: ir.Value) -> bool:
    """Return whether an operator that computes reads a value, or the value is an output."""
    return value.is_graph_output() or not all(_moves(use.node) for use in value.uses())


def _between(source: ir.Value, result: ir.Value) -> tuple[ir.Node, ...]:
    """Return the operators that lead from one value to another."""
    found, pending = dict[ir.Node, None](), [result]
    while pending:
        value = pending.pop()
        node = None if value is source else value.producer()
        if node is not None and node not in found:
            found[node] = None
            pending += [each for each in node.inputs if each is not None]
    return tuple(found)


def _is_read_within(between: tuple[ir.Node, ...], source: ir.Value, result: ir.Value) -> bool:
    values = [value for node in between for value in node.outputs if value is not result and value is not source]
    return all(use.node in between for value in values for use in value.uses()) and not any(
        value.is_graph_output() for value in values
    )


def _gathered(source: ir.Value, result: ir.Value, elements: NDArray[Any], moved: NDArray[Any]) -> _Gathered | None:
    maps = elements.ndim == moved.ndim == 4 and len(elements) == len(moved) == 1
    for axis in (-1, 1) if maps else (-1,):
        channels = elements.shape[axis]
        if moved.shape[axis] == channels:
            rows = (np.moveaxis(each, axis, -1).reshape(-1, channels) for each in (elements, moved))
            positions = _positions(*rows)
            if positions is not None:
                return _Gathered(source, result, positions, axis)
    return None


def _positions(before: NDArray[Any], after: NDArray[Any]) -> Pixels | None:
    """Return the row of ``before`` that equals each row of ``after``; None unless they are a permutation."""
    order = np.argsort(before[:, 0], kind="stable")
    if len(before) != len(after):
        return None
    found = order[np.searchsorted(before[order, 0], after[:, 0]).clip(0, len(order) - 1)]
    same = np.array_equal(before[found], after) and len(np.unique(found)) == len(found)
    return found.astype(np.int64) if same else None
