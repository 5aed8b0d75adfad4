"""Sets of ONNX operators by what they do to values."""

from __future__ import annotations

LINEAR_OPERATORS = frozenset({"Conv", "Gemm", "MatMul"})
"""Operators of linear layers and convolutions."""

LAYOUT_OPERATORS = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that lay out the same values differently: none is dropped, repeated or added."""

DATA_MOVEMENT_OPERATORS = LAYOUT_OPERATORS | {
    "Concat", "DepthToSpace", "Flatten", "Gather", "Identity", "Pad", "Slice", "SpaceToDepth", "Split",
}  # fmt: skip
"""Operators that copy values and compute none. They copy the first input; Concat copies all of them."""


def is_standard(domain: str) -> bool:
    """Decide whether an operator's domain is ONNX's own."""
    return domain in ("", "ai.onnx")
