"""Older graphs to the opset in which LayerNormalization and Gelu are single operators."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.onnx_export import OPSET
from vitedge.converters.rewrites.places import ONE, Places


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies to graphs below the opset that we export.
    """
    opset = model.opset_imports.get("", OPSET)
    return "" if opset < OPSET else f"the graph has opset {opset}"


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Convert with onnx's own converter."""
    upgraded = ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), OPSET))
    model.graph = upgraded.graph
    return ONE
