"""A cubic Resize of maps becomes two products with constant matrices, one for the rows and one for the columns.

Each pixel of a cubic Resize is a sum of four rows and four columns with constant weights. OpenVINO computes it pixel by
pixel, and takes a fifth of the time of CrossViT for it, whose two branches read the image in two sizes. The matrices
have an axis of size 1 in front, because a product with a plain matrix is a layer, which the quantizer makes int8.
A bilinear Resize is faster as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.edit import add_constant, bypass
from vitedge.graph.values import constant, present, shape_of

OTHER_FORM = "it is no plain cubic Resize of height and width by half-pixel coordinates"
NO_SHAPE = "the sizes are not known"
MAPS = ("batch", "channels", "height", "width")
TAPS = np.arange(-1, 3)
"""The four pixels that a pixel is made of, from the one before its coordinate on."""


@dataclass(frozen=True)
class _CubicResize:
    """A cubic Resize.

    Attributes:
        node: the operator.
        rows: ``(height after, height before)``.
        columns: ``(width before, width after)``.
    """

    node: ir.Node
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]

    def apply(self, model: ir.Model) -> None:
        node, old = self.node, self.node.outputs[0]
        rows = add_constant(model, f"{old.name}_rows", self.rows[np.newaxis])
        columns = add_constant(model, f"{old.name}_columns", self.columns[np.newaxis])
        wide = ir.node("MatMul", [node.inputs[0], columns], name=f"{old.name}_resize_columns")
        new = ir.val(f"{old.name}_resized", old.dtype, old.shape)
        high = ir.node("MatMul", [rows, wide.outputs[0]], outputs=[new], name=f"{old.name}_resize_rows")
        model.graph.insert_before(node, [wide, high])
        bypass(model, node, new)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies to a cubic Resize of the height and width of maps to a constant size.
    """
    return refusal(_found(model.graph), nothing="there is no cubic Resize")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Multiply the rows and the columns by constant matrices."""
    return apply_all(model, _found(model.graph))


def cubic_matrix(before: int, after: int, scale: float, a: float) -> NDArray[np.float64]:
    """Give the matrix ``(after, before)`` of a cubic Resize along one axis; the pixels at the edges go on beyond them.

    Args:
        before: number of pixels.
        after: number of pixels that are made of them.
        scale: how much larger an object becomes.
        a: coefficient of the cubic kernel.
    """
    place = (np.arange(after) + 0.5) / scale - 0.5
    first = np.floor(place)
    distance = np.abs(place[:, np.newaxis] - first[:, np.newaxis] - TAPS)
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    pixels = np.clip(first[:, np.newaxis] + TAPS, 0, before - 1).astype(int)
    matrix = np.zeros((after, before))
    np.add.at(matrix, (np.arange(after)[:, np.newaxis], pixels), np.where(distance <= 1, near, far))
    return matrix


def _found(graph: ir.Graph) -> Iterator[_CubicResize | str]:
    for node in list(graph):
        if node.op_type == "Resize" and not node.domain and node.attributes.get_string("mode", "nearest") == "cubic":
            yield _resize_of(node)


def _resize_of(node: ir.Node) -> _CubicResize | str:
    before, after = shape_of(present(node.inputs[0])), shape_of(node.outputs[0])
    if before is None or after is None:
        return NO_SHAPE
    if present(node.inputs[0]).dtype != ir.DataType.FLOAT:
        return OTHER_FORM
    if len(before) != len(MAPS) or before[:2] != after[:2] or not _is_plain(node):
        return OTHER_FORM
    scales = [new / old for old, new in zip(before, after, strict=True)]
    if len(node.inputs) > len(("data", "roi")) and node.inputs[2] is not None:
        given = constant(node.inputs[2])
        if given is None or given.size not in (0, len(MAPS)):
            return OTHER_FORM
        scales = list(given) if given.size else scales
    a = node.attributes.get_float("cubic_coeff_a", -0.75) or 0.0
    rows, columns = (cubic_matrix(before[axis], after[axis], float(scales[axis]), a) for axis in (2, 3))
    return _CubicResize(node, rows, np.ascontiguousarray(columns.T))


def _is_plain(node: ir.Node) -> bool:
    """Decide whether each pixel is a sum of four pixels an axis, around half-pixel coordinates."""
    attributes = node.attributes
    if "axes" in attributes or any(attributes.get_int(name, 0) for name in ("antialias", "exclude_outside")):
        return False
    if attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    return attributes.get_string("coordinate_transformation_mode", "half_pixel") == "half_pixel"
