"""Older graphs to the opset in which LayerNormalization and Gelu are single operators."""

from __future__ import annotations

import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.onnx_export import OPSET
from vitedge.converters.opset import upgraded
from vitedge.converters.rewrites.places import ONE, Places

OLD_OPSET = 13
"""Below it, attributes hold what are inputs since: axes, pads, limits. The other rewrites read inputs."""


def check_old(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the graph needs no upgrade; empty if the other rewrites cannot read its opset."""
    opset = model.opset_imports.get("", OPSET)
    return "" if opset < OLD_OPSET else f"the graph has opset {opset}"


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies to graphs below the opset that we export.
    """
    opset = model.opset_imports.get("", OPSET)
    return "" if opset < OPSET else f"the graph has opset {opset}"


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Convert with onnx's own converter, and mend what it leaves wrong."""
    converted = ir.from_proto(upgraded(ir.to_proto(model), OPSET))
    model.graph = converted.graph
    return ONE
