"""Mean and standard deviation as two operators in front of the graph, where no convolution can take them in."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.frame_input import normalized_input, replace_input
from vitedge.converters.rewrites.places import ONE, Places


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where the graph still takes a normalized image.
    """
    return "" if normalized_input(model) else "the graph takes uint8 frames already"


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:
    """Compute ``(x − 255·mean) · 1/(255·std)`` and give it to whatever read the normalized image."""
    (pixels,) = model.graph.inputs
    mean, std = np.asarray(preprocessing.mean, np.float64), np.asarray(preprocessing.std, np.float64)
    steps = [("Sub", "frame_centered", 255 * mean), ("Mul", "frame_normalized", 1 / (255 * std))]
    ir.convenience.replace_all_uses_with(pixels, replace_input(model, preprocessing.input_size, steps))
    return ONE
