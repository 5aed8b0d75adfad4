"""What a convolution multiplies its weights with, as the rows of a product: one patch of the image for each place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

DIMENSIONS = 4
Floats = NDArray[np.float32]


def has_patches(conv: onnx.NodeProto, weight_shape: tuple[int, ...]) -> bool:
    """Whether ``patches`` knows them: the convolution is one of two dimensions and spells out its padding."""
    padding = [each.s for each in conv.attribute if each.name == "auto_pad"]
    return len(weight_shape) == DIMENSIONS and padding in ([], [b"NOTSET"])


def is_padded(node: onnx.NodeProto) -> bool:
    """Whether an operator reads zeros around what it is given, as convolutions may."""
    automatic = [each.s for each in node.attribute if each.name == "auto_pad"]
    spelled = [each.ints for each in node.attribute if each.name == "pads"]
    return any(each not in (b"NOTSET", b"VALID") for each in automatic) or any(any(each) for each in spelled)


def patches(conv: onnx.NodeProto, weight_shape: tuple[int, ...], image: Floats) -> Floats:
    """The patches of an image, ``(groups, places, in / groups · kernel)``.

    Args:
        conv: of two dimensions, with its padding spelled out.
        weight_shape: of its weights, ``(out, in / groups, height, width)``.
        image: what it reads, ``(1, in, height, width)``.
    """
    settings = {each.name: list(each.ints) or each.i for each in conv.attribute}
    kernel, width = weight_shape[2:], weight_shape[1]
    top, left, bottom, right = settings.get("pads", [0] * 4)
    steps, spread = settings.get("strides", [1, 1]), settings.get("dilations", [1, 1])
    padded = np.pad(image[0], ((0, 0), (top, bottom), (left, right)))
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, spread, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
    windows = windows[:, :: steps[0], :: steps[1], :: spread[0], :: spread[1]]
    groups, places = len(padded) // width, windows.shape[1] * windows.shape[2]
    split = windows.reshape(groups, width, *windows.shape[1:]).transpose(0, 2, 3, 1, 4, 5)
    return np.ascontiguousarray(split).reshape(groups, places, -1)
