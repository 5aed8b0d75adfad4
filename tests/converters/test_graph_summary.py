from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from vitedge.converters.graph_summary import GraphSummary, summarize
from vitedge.errors import BundleError

pytestmark = pytest.mark.timeout(60)

MANY = 20_000


def summary(folder: Path, nodes: list[onnx.NodeProto]) -> GraphSummary:
    weights = [numpy_helper.from_array(np.ones((2, 2), np.float32), "w")]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], weights))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return summarize(folder / "model.onnx")


def node(kind: str, inputs: str, output: str) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output])


def test_layers_with_constant_weights(tmp_path: Path) -> None:
    nodes = [
        node("DequantizeLinear", "x s z", "d"),
        node("Transpose", "d", "t"),
        node("DequantizeLinear", "w s z", "v"),
        node("MatMul", "t v", "quantized"),
        node("Cast", "w", "c"),
        node("Gemm", "x c", "float"),
        node("Constant", "", "k"),
        node("Conv", "t k", "half"),
        node("MatMul", "x x", "attention"),
    ]
    found = summary(tmp_path, nodes)
    assert (found.weight_layers, found.quantized_layers) == (3, 1)
    assert list(found.operators.items())[:2] == [("DequantizeLinear", 2), ("MatMul", 2)]


def test_circles_are_walked_once(tmp_path: Path) -> None:
    circle = [
        node("Cast", "b", "a"),
        node("Transpose", "a", "b"),
        node("Reshape", "c", "c"),
        node("MatMul", "c a", "y"),
    ]
    assert summary(tmp_path, circle).weight_layers == 0


def test_long_ways_are_walked_once(tmp_path: Path) -> None:
    casts = [node("Cast", "w" if not index else f"c{index}", f"c{index + 1}") for index in range(MANY)]
    layers = [node("MatMul", f"c{MANY} c{MANY}", f"y{index}") for index in range(MANY)]
    assert summary(tmp_path, casts + layers).weight_layers == MANY


def test_layers_without_inputs_are_no_layers(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x", "a"), node("Conv", "", "b"), node("Cast", "", "c"), node("MatMul", "c c", "d")]
    assert summary(tmp_path, nodes).weight_layers == 0


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"\x3a\xff\xff\xff\xff\x0f", b"not a graph", b"\x3a\x02\x0a\x05"]
)
def test_a_damaged_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"the graph .*model\.onnx cannot be read"):
        summarize(tmp_path / "model.onnx")


def test_a_graph_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="it is a FIFO"):
        summarize(tmp_path / "model.onnx")
