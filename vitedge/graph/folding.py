"""Constants computed once and operators simplified, in graphs of onnx_ir."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common as rules

LARGEST_FOLDED = 1 << 24
"""Elements. The position biases of BEiT and SwinV2, which networks without the image compute, reach 5 million."""
ROUNDS = 2
RULES: Mapping[str, tuple[rewriter.RewriteRule, ...]] = {
    "Add": tuple(rules.add_0_rule.commute()),
    "BatchNormalization": (rules.fuse_batchnorm_into_conv_rule, rules.fuse_batchnorm_into_gemm_rule),
    "Clip": (rules.successive_clip_relu_rule, rules.successive_clip_rule),
    "Conv": (
        rules.normalize_pad_format_conv_rule,
        rules.fuse_pad_into_conv_rule,
        rules.remove_optional_bias_from_conv_rule,
    ),
    "Div": (rules.div_by_1_rule,),
    "Flatten": (rules.flatten_to_reshape_rule,),
    "Gemm": (rules.remove_optional_bias_from_gemm_rule,),
    "Max": (rules.max_max_rule, rules.min_max_rule),
    "Min": (rules.min_min_rule, rules.max_min_rule),
    "Mul": tuple(rules.mul_by_1_rule.commute()),
    "Relu": (rules.successive_relu_clip_rule, rules.successive_relu_rule),
    "Reshape": (
        rules.two_reshapes_matmul_reshape_rule,
        rules.one_reshape_matmul_reshape_rule,
        rules.reshape_reshape_rule,
    ),
    "ScatterND": (rules.no_op_static_scatter_nd_rule,),
    "Slice": (rules.collapse_slice2_rule,),
    "Sub": (rules.sub_0_rule,),
    "Transpose": (rules.no_op_transpose_rule, rules.transpose_transpose_rule),
    "Unsqueeze": (rules.unsqueeze_unsqueeze_rule,),
}
"""The rules of ONNX Script by the operator that each of them ends in, in ONNX Script's order.

``slice_split_rule`` is left out. It compares each operator with all others, which takes nine tenths of the time for
10,000 operators, and engines slice the halves of a tensor as well as they split it. Also left out are rules for dynamic
shapes, for integers, and for Cast, Dropout and Expand that do nothing, which the folding of constants removes.
"""


def fold_constants(model: ir.Model) -> None:
    """Replace what does not depend on the image by its value, and simplify operators, in place; names stay.

    It is ``onnxscript.optimizer.optimize_ir`` with the rules that the operators of the graph can need.
    """
    ir.passes.Sequential(passes.InlinePass(), passes.RemoveUnusedFunctionsPass())(model)  # type: ignore[no-untyped-call]
    for _ in range(ROUNDS):
        if not _simplified(model):
            break
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)


def _simplified(model: ir.Model) -> bool:
    """Fold and apply rules once; say whether that changed anything."""
    folded = optimizer.fold_constants_ir(
        model,
        onnx_shape_inference=True,
        input_size_limit=LARGEST_FOLDED,
        output_size_limit=LARGEST_FOLDED,
        should_fold=_should_fold,
    )
    operators = {node.op_type for node in ir.traversal.RecursiveGraphIterator(model.graph)}
    needed = [rule for operator, found in RULES.items() if operator in operators for rule in found]
    applied = bool(needed) and rewriter.RewritePass(needed)(model).modified
    cleaned = ir.passes.Sequential(passes.RemoveUnusedNodesPass(), passes.RemoveUnusedOpsetsPass())(model)
    return bool(folded.modified or applied or cleaned.modified)


def _should_fold(node: ir.Node) -> bool | None:
    """Fold shapes that older exporters compute with ConstantOfShape; else leave the choice to the optimizer."""
    return True if node.op_type == "ConstantOfShape" else None
