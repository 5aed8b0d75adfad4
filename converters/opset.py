"""Conversion of ONNX graphs to a newer opset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import version_converter

from vitedge.graph.files import without_weights
from vitedge.graph.operators import is_standard

RESIZE_OPSET = 11
"""Since it, Resize says how it computes coordinates. Older Resize and Upsample have one rule."""


def upgraded(graph: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Convert a graph to a newer opset.

    onnx's converter gives a linear Resize or Upsample of opset 7 to 10 the coordinates of opset 11 (half-pixel). They
    keep their own: the corner of each pixel (asymmetric), as ONNX Runtime computes them.

    Args:
        graph: of any opset that the converter reads. It is not changed.
        opset: the new one.

    Raises:
        Exception: the converter refuses the graph; its errors have no other base.
    """
    rules = _old_rules(graph)
    converted = without_weights(graph, lambda light: version_converter.convert_version(light, opset))
    resizes = [node for node in converted.graph.node if node.op_type == "Resize"]
    for node, rule in zip(resizes, rules, strict=True) if rules else ():
        _set(node, rule)
    return converted


@dataclass(frozen=True)
class _ResizeRule:
    """How an operator of opset 7 to 10 resizes, in the words of opset 11."""

    nearest_mode: str
    mode: str


def _old_rules(graph: onnx.ModelProto) -> list[_ResizeRule]:
    """Return the rule of each Resize and Upsample that opset 11 would compute in another way, in the graph's order."""
    opset = max((each.version for each in graph.opset_import if is_standard(each.domain)), default=RESIZE_OPSET)
    if opset >= RESIZE_OPSET:
        return []
    constants = _constants(graph.graph)
    return [_rule(node, constants) for node in graph.graph.node if node.op_type in ("Resize", "Upsample")]


def _rule(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.float32]]) -> _ResizeRule:
    """Say how ONNX Runtime computes an operator: nearest takes the next pixel where it shrinks, else the one before."""
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    given = attributes.get("scales", constants.get(node.input[1]) if len(node.input) > 1 else None)
    scales = np.asarray([1.0] if given is None else given, dtype=np.float32)
    return _ResizeRule(
        "ceil" if scales.min(initial=1.0) < 1.0 else "floor", attributes.get("mode", b"nearest").decode()
    )


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.float32]]:
    """Return the constants of a graph by name: small ones, as scales are."""
    found = {each.name: onnx.numpy_helper.to_array(each) for each in _small(graph.initializer)}
    for node in graph.node:
        if node.op_type == "Constant":
            for value in _small(each.t for each in node.attribute if each.name == "value"):
                found[node.output[0]] = onnx.numpy_helper.to_array(value)
    return found


def _small(tensors: Iterable[onnx.TensorProto]) -> Iterable[onnx.TensorProto]:
    return (each for each in tensors if len(each.dims) == 1 and each.dims[0] <= 8 and not each.external_data)


def _set(node: onnx.NodeProto, rule: _ResizeRule) -> None:
    kept = [each for each in node.attribute if each.name not in ("coordinate_transformation_mode", "nearest_mode")]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    if rule.mode == "nearest":
        node.attribute.append(onnx.helper.make_attribute("nearest_mode", rule.nearest_mode))
