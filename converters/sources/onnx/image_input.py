"""The input and output of an ONNX graph: which layouts and types of an image it may take.

    float image, NCHW or NHWC ─▶ float32 (1,3,H,W), normalized
    uint8 image, NCHW or NHWC ─▶ uint8 (1,H,W,3), which the graph normalizes itself

The layout follows from the static dimensions and from the size of the images. Where both layouts fit, the child runs
both: a graph that runs in one alone has that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnx import TensorProto, ValueInfoProto

from vitedge.converters.sources.onnx.graph_check import type_name

Layout: TypeAlias = Literal["NCHW", "NHWC"]

LAYOUTS: tuple[Layout, ...] = ("NCHW", "NHWC")
PLACES: Mapping[Layout, tuple[int, int, int]] = {"NCHW": (1, 2, 3), "NHWC": (3, 1, 2)}
"""Axes of channels, height and width."""
CHANNELS = 3
HALF_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
IMAGE_TYPES = (TensorProto.UINT8, TensorProto.FLOAT, *HALF_TYPES)


@dataclass(frozen=True)
class GraphValue:
    """An input or output.

    Attributes:
        name: name of the value.
        kind: number of its type.
        dimensions: sizes; names or "?" for dynamic dimensions.
    """

    name: str
    kind: int
    dimensions: tuple[int | str, ...]

    @classmethod
    def of(cls, value: ValueInfoProto) -> GraphValue:
        """Read an input or output of a graph."""
        tensor = value.type.tensor_type
        sizes = (each.dim_value if each.HasField("dim_value") else each.dim_param or "?" for each in tensor.shape.dim)
        return cls(value.name, tensor.elem_type, tuple(sizes))

    @property
    def size(self) -> tuple[int, int] | None:
        """Return (height, width) of an image; None if one of them is dynamic, or if the layout is open."""
        if len(self.dimensions) != 4:
            return None
        found = [layout for layout in LAYOUTS if self.dimensions[PLACES[layout][0]] == CHANNELS]
        if len(found) != 1:
            return None
        _, rows, columns = PLACES[found[0]]
        height, width = self.dimensions[rows], self.dimensions[columns]
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def layouts(self, size: tuple[int, int]) -> tuple[Layout, ...]:
        """Return the layouts in which the value may be one image of (height, width) pixels; empty if it is none."""
        if self.kind not in IMAGE_TYPES or len(self.dimensions) != 4:
            return ()
        return tuple(layout for layout in LAYOUTS if all(map(_may_be, self.dimensions, shape_in(layout, size))))

    def __str__(self) -> str:
        return f"{self.name} {type_name(self.kind)} ({','.join(map(str, self.dimensions))})"


def shape_in(layout: Layout, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the shape of one image of (height, width) pixels."""
    height, width = size
    return (1, CHANNELS, height, width) if layout == "NCHW" else (1, height, width, CHANNELS)


def _may_be(dimension: int | str, size: int) -> bool:
    return dimension == size or not isinstance(dimension, int)
