"""Constants computed once, dead and repeated nodes removed, metadata of the exporter dropped."""

from __future__ import annotations

import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveInitializersFromInputsPass

from vitedge.converters.rewrites.places import ONE, Places
from vitedge.preprocessing import Preprocessing
from vitedge.version import VERSION


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Applies to every graph."""
    return ""


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Fold, deduplicate and clean; names stay, so that equal sources give equal files."""
    RemoveInitializersFromInputsPass()(model)
    onnxscript.optimizer.optimize_ir(model, should_fold=_should_fold)
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
