from __future__ import annotations

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import PREPROCESSING, outputs

from vitedge.converters.onnx_export import OPSET
from vitedge.converters.reference import graph_logits
from vitedge.converters.rewrites import upgrade_opset
from vitedge.converters.rewrites.apply import apply_rewrites, is_exact
from vitedge.errors import ConversionError
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


def resized(opset: int, mode: str, scales: tuple[float, float]) -> onnx.ModelProto:
    """A classifier that resizes before a convolution, so that the positions of the pixels count."""
    factors = f"{{1.0, 1.0, {scales[0]}, {scales[1]}}}"
    resize = {
        7: f'u = Upsample<mode = "{mode}", scales = [1.0, 1.0, {scales[0]}, {scales[1]}]>(x)',
        9: f's = Constant<value = float[4] {factors}>() u = Upsample<mode = "{mode}">(x, s)',
        10: f's = Constant<value = float[4] {factors}>() u = Resize<mode = "{mode}">(x, s)',
    }[opset]
    graph = onnx.parser.parse_model(
        f"""<ir_version: 6, opset_import: ["" : {opset}]> g (float[1,3,12,12] x) => (float[1,5] logits)
        {{ {resize} c = Conv<strides = [3, 3]>(u, w) r = Relu(c) m = GlobalAveragePool(r) logits = Flatten(m) }}"""
    )
    weights = np.random.default_rng(0).normal(size=(5, 3, 5, 5)).astype(np.float32)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return graph


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("opset", "scales"), [(7, (1.7, 1.3)), (9, (2.0, 1.5)), (10, (1.7, 1.3)), (10, (0.5, 0.5)), (10, (0.7, 0.6))]
)
def test_a_resize_of_an_old_opset_keeps_its_coordinates(opset: int, scales: tuple[float, float], mode: str) -> None:
    graph = resized(opset, mode, scales)
    frames = graphs.noise()
    expected = graph_logits(graph, frames, graphs.PHOTOS)
    result = apply_rewrites(graph, frames, graphs.PHOTOS)
    assert "upgrade old opset" in result.applied
    assert is_exact(parity(expected, result.logits))


def test_an_upgrade_that_changes_the_meaning_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnx's converter alone gives a linear Resize the coordinates of opset 11."""
    monkeypatch.setattr(upgrade_opset, "upgraded", onnx.version_converter.convert_version)
    with pytest.raises(ConversionError, match="'upgrade old opset' changed the outputs") as caught:
        apply_rewrites(resized(10, "linear", (0.5, 0.5)), graphs.noise(), graphs.PHOTOS)
    assert "opset_version=20" in str(caught.value)
