"""Constants computed once, in graphs of onnx_ir."""

from __future__ import annotations

import onnx_ir as ir
import onnxscript.optimizer

LARGEST_FOLDED = 1 << 24
"""Elements. The position biases of BEiT and SwinV2, which networks without the image compute, reach 5 million."""


def fold_constants(model: ir.Model) -> None:
    """Replace what does not depend on the image by its value, in place; names stay."""
    onnxscript.optimizer.optimize_ir(
        model, input_size_limit=LARGEST_FOLDED, output_size_limit=LARGEST_FOLDED, should_fold=_should_fold
    )


def _should_fold(node: ir.Node) -> bool | None:
    """Fold shapes that older exporters compute with ConstantOfShape; else leave the choice to the optimizer."""
    return True if node.op_type == "ConstantOfShape" else None
