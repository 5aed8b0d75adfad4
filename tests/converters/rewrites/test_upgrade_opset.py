from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from graphs import PREPROCESSING, outputs

from vitedge.converters.onnx_export import OPSET
from vitedge.converters.rewrites import upgrade_opset
from vitedge.converters.rewrites.apply import is_exact
from vitedge.metrics import parity


def mean_of(opset: int) -> ir.Model:
    """A mean whose axes are an attribute up to opset 17, and an input since."""
    axes = "a = Constant<value = int64[1] {1}>() y = ReduceMean(x, a)" if opset > 17 else "y = ReduceMean<axes=[1]>(x)"
    signature = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[1,5,8] x) => (float[1,1,8] y)'
    return ir.from_proto(onnx.parser.parse_model(f"{signature} {{ {axes} }}"))


@pytest.mark.parametrize("opset", [13, 17, OPSET - 1])
def test_an_older_graph_is_upgraded(opset: int) -> None:
    graph = mean_of(opset)
    before = outputs(graph)
    assert upgrade_opset.check(graph, PREPROCESSING) == ""
    assert upgrade_opset.rewrite(graph, PREPROCESSING).changed == 1
    assert is_exact(parity(before, outputs(graph)))
    assert upgrade_opset.check(graph, PREPROCESSING) == f"the graph has opset {OPSET}"


@pytest.mark.parametrize("opset", [OPSET, OPSET + 1])
def test_a_newer_graph_is_left(opset: int) -> None:
    assert upgrade_opset.check(mean_of(opset), PREPROCESSING) == f"the graph has opset {opset}"
