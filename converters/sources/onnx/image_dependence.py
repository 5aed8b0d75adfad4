"""Find sizes and branches of a graph that depend on the content of the image."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

SIZES: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "CropAndResize": (3,),
    "DFT": (1,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}
"""Inputs that determine the size of the outputs, by operator."""
VALUES = ("Compress", "ImageDecoder", "NonMaxSuppression", "NonZero", "StringSplit", "Unique")
"""Operators whose output sizes depend on the values of their inputs."""
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
FIXED = ("Shape", "Size")
"""Operators that return a size, which is the same for every image unless another operator made it depend on one."""


def first_dependence(graph: ir.Graph) -> ir.Node | None:
    """Find the first node whose size or branch depends on the image, or on random numbers.

    Args:
        graph: a graph with folded constants, and so without branches that no image decides; nodes are in order.

    Returns:
        The node, or None. Without such a node, every run takes the same memory and the same branches.
    """
    dependent: set[ir.Value | None] = set(graph.inputs)
    for node in graph:
        inputs = [value in dependent for value in node.inputs]
        if node.op_type == "If" or (node.op_type in VALUES and any(inputs)):
            return node
        if any(inputs[index] for index in SIZES.get(node.op_type, ()) if index < len(inputs)):
            return node
        if (any(inputs) or node.op_type in RANDOM) and node.op_type not in FIXED:
            dependent.update(node.outputs)
    return None
