"""Constants computed once, indices in lists, dead and repeated nodes removed, metadata of the exporter dropped."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveInitializersFromInputsPass, RemoveUnusedNodesPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.gather_lists import flatten_gathers
from vitedge.converters.rewrites.places import ONE, Places
from vitedge.graph.folding import fold_constants
from vitedge.version import VERSION


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Accept every graph."""
    return ""


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Fold, deduplicate and clean; names stay, so that equal sources give equal files."""
    RemoveInitializersFromInputsPass()(model)
    fold_constants(model)
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


def _values(graph: ir.Graph) -> list[ir.Value]:
    outputs = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *outputs]
