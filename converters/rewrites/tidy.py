"""Constants computed once, indices in lists, dead and repeated nodes removed, metadata of the exporter dropped."""

from __future__ import annotations

import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveInitializersFromInputsPass, RemoveUnusedNodesPass

from vitedge.converters.rewrites.gather_lists import flatten_gathers
from vitedge.converters.rewrites.places import ONE, Places
from vitedge.preprocessing import Preprocessing
from vitedge.version import VERSION

LARGEST_FOLDED = 1 << 24
"""Elements. The position biases of BEiT and SwinV2, which networks without the image compute, reach 5 million."""


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Applies to every graph."""
    return ""


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Fold, deduplicate and clean; names stay, so that equal sources give equal files."""
    RemoveInitializersFromInputsPass()(model)
    onnxscript.optimizer.optimize_ir(
        model, input_size_limit=LARGEST_FOLDED, output_size_limit=LARGEST_FOLDED, should_fold=_should_fold
    )
    flatten_gathers(model)
    RemoveUnusedNodesPass()(model)
    ClearMetadataAndDocStringPass()(model)
    for value in _values(model.graph):
        value.metadata_props.clear()
        value.doc_string = None
    model.metadata_props.clear()
    model.doc_string = None
    model.producer_name, model.producer_version = "vitedge", VERSION
    return ONE


def _should_fold(node: ir.Node) -> bool | None:
    """Shapes that older exporters compute with ConstantOfShape too; otherwise as the optimizer thinks best."""
    return True if node.op_type == "ConstantOfShape" else None


def _values(graph: ir.Graph) -> list[ir.Value]:
    outputs = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *outputs]
