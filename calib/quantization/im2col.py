"""im2col: a convolution as a product of matrices, with one row of its input for each place of its output."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.graph.attributes import integers, spells_padding_out

DIMENSIONS = 4
Floats = NDArray[np.float32]


def supports_im2col(conv: ir.Node, weight_shape: tuple[int, ...]) -> bool:
    """Decide whether ``im2col`` knows a convolution: it has two dimensions and spells out its padding."""
    return len(weight_shape) == DIMENSIONS and spells_padding_out(conv)


def im2col(conv: ir.Node, weight_shape: tuple[int, ...], image: Floats) -> Floats:
    """Give the rows that a convolution multiplies with its weights, ``(groups, places, in / groups · kernel)``.

    Args:
        conv: one that ``supports_im2col``.
        weight_shape: of its weights, ``(out, in / groups, height, width)``.
        image: its input, ``(1, in, height, width)``.
    """
    kernel, width = weight_shape[2:], weight_shape[1]
    top, left, bottom, right = integers(conv, "pads", 0, 4)
    strides, dilations = integers(conv, "strides", 1, 2), integers(conv, "dilations", 1, 2)
    padded = np.pad(image[0], ((0, 0), (top, bottom), (left, right)))
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
    windows = windows[:, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    groups, places = len(padded) // width, windows.shape[1] * windows.shape[2]
    split = windows.reshape(groups, width, *windows.shape[1:]).transpose(0, 2, 3, 1, 4, 5)
    return np.ascontiguousarray(split).reshape(groups, places, -1)
