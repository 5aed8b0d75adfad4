"""Mean and standard deviation as two operators in front of the graph, where no convolution can take them in."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.frame_input import add_after, normalized_input, replace_input
from vitedge.converters.rewrites.places import ONE, Places
from vitedge.graph.edit import add_constant


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where the graph still takes a normalized image.
    """
    return "" if normalized_input(model) else "the graph takes uint8 frames already"


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:
    """Compute ``(x − 255·mean) · 1/(255·std)`` and give it to whatever read the normalized image."""
    (pixels,) = model.graph.inputs
    mean, std = np.asarray(preprocessing.mean, np.float64), np.asarray(preprocessing.std, np.float64)
    planes = replace_input(model, preprocessing.input_size)
    offset = add_constant(model, "frame_mean", 255 * mean.reshape(1, 3, 1, 1))
    scale = add_constant(model, "frame_scale", 1 / (255 * std.reshape(1, 3, 1, 1)))
    centered = add_after(model, planes, "Sub", offset, "frame_centered")
    ir.convenience.replace_all_uses_with(pixels, add_after(model, centered, "Mul", scale, "frame_normalized"))
    return ONE
