"""Constants computed once, indices in lists, idle, dead and repeated nodes removed, exporters' metadata dropped."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveInitializersFromInputsPass, RemoveUnusedNodesPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.gather_lists import flatten_gathers
from vitedge.converters.rewrites.places import ONE, Places
from vitedge.graph.edit import bypass
from vitedge.graph.folding import fold_constants
from vitedge.graph.operators import is_standard
from vitedge.graph.values import shape_of
from vitedge.version import VERSION


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Accept every graph."""
    return ""


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Fold, deduplicate and clean; names stay, so that equal sources give equal files."""
    RemoveInitializersFromInputsPass()(model)
    fold_constants(model)
    flatten_gathers(model)
    _drop_idle_reshapes(model)
    RemoveUnusedNodesPass()(model)
    ClearMetadataAndDocStringPass()(model)
    for value in _values(model.graph):
        value.metadata_props.clear()
        value.doc_string = None
    model.metadata_props.clear()
    model.doc_string = None
    model.producer_name, model.producer_version = "vitedge", VERSION
    return ONE


def _drop_idle_reshapes(model: ir.Model) -> None:
    """Remove the Reshapes that keep the shape, which would hide a layer from its readers."""
    for node in list(model.graph):
        data, output = (node.inputs[0], node.outputs[0]) if node.op_type == "Reshape" else (None, None)
        if data is None or output is None or not is_standard(node.domain) or output.is_graph_output():
            continue
        shape = shape_of(output)
        if shape is not None and shape == shape_of(data):
            bypass(model, node, data)


def _values(graph: ir.Graph) -> list[ir.Value]:
    outputs = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *outputs]
