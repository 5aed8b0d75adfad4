"""Graphs as files: in one piece, and beyond what protobuf takes, which a lowered limit stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vitedge.graph import files
from vitedge.graph.files import is_beyond_protobuf, with_data, without_weights, write_graph
from vitedge.graph.session import open_session


@pytest.fixture
def graph() -> onnx.ModelProto:
    """``y = x · w + b``, with a weight of 4 KB and a bias of 64 bytes."""
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(generator.standard_normal((64, 16), dtype=np.float32), "w"),
        numpy_helper.from_array(generator.standard_normal(16, dtype=np.float32), "b"),
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 64), ("y", 16))]
    body = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "GRAPH_WHOLE_BYTES", 2048)


def output_of(graph: onnx.ModelProto | Path) -> np.ndarray:
    (output,) = open_session(graph).run(None, {"x": np.ones((1, 64), np.float32)})
    return np.asarray(output)


def test_a_graph_of_ordinary_size_is_one_file(tmp_path: Path, graph: onnx.ModelProto) -> None:
    write_graph(tmp_path / "g.onnx", graph)
    assert [each.name for each in tmp_path.iterdir()] == ["g.onnx"]
    assert onnx.load(tmp_path / "g.onnx") == graph


@pytest.mark.usefixtures("lowered")
def test_a_graph_beyond_protobuf_has_its_weights_beside_it(tmp_path: Path, graph: onnx.ModelProto) -> None:
    assert is_beyond_protobuf(graph)
    for name in ("g.onnx", "h.onnx"):
        write_graph(tmp_path / name, graph)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["g.onnx", "g.onnx.data", "h.onnx", "h.onnx.data"]
    assert (tmp_path / "g.onnx.data").read_bytes() == (tmp_path / "h.onnx.data").read_bytes()
    assert len((tmp_path / "g.onnx").read_bytes()) < 2048
    np.testing.assert_array_equal(output_of(tmp_path / "g.onnx"), output_of(graph))
    onnx.checker.check_model(tmp_path / "g.onnx", full_check=True)
    light = onnx.load(tmp_path / "g.onnx", load_external_data=False)
    filled = with_data(light, memoryview((tmp_path / "g.onnx.data").read_bytes()))
    for one, other in zip(
        sorted(filled.graph.initializer, key=lambda each: each.name),
        sorted(graph.graph.initializer, key=lambda each: each.name),
        strict=True,
    ):
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))


@pytest.mark.usefixtures("lowered")
def test_weights_that_are_cut_off_are_refused(tmp_path: Path, graph: onnx.ModelProto) -> None:
    write_graph(tmp_path / "g.onnx", graph)
    light = onnx.load(tmp_path / "g.onnx", load_external_data=False)
    with pytest.raises(ValueError, match="the weights 'w' are cut off"):
        with_data(light, memoryview((tmp_path / "g.onnx.data").read_bytes()[:-1]))


@pytest.mark.usefixtures("lowered")
def test_a_function_of_onnx_gets_the_graph_without_its_weights(graph: onnx.ModelProto) -> None:
    seen = []

    def change(light: onnx.ModelProto) -> onnx.ModelProto:
        seen.append(([each.name for each in light.graph.input], [each.name for each in light.graph.initializer]))
        return onnx.shape_inference.infer_shapes(light, strict_mode=True)

    changed = without_weights(graph, change)
    assert seen == [(["x", "w"], ["b"])]
    assert [each.name for each in changed.graph.input] == ["x"]
    assert {each.name for each in changed.graph.initializer} == {"w", "b"}
    assert [each.name for each in changed.graph.value_info] == ["p"]
    np.testing.assert_array_equal(output_of(changed), output_of(graph))
    assert without_weights(graph, onnx.checker.check_model) is graph


def test_a_function_of_onnx_gets_the_whole_graph_where_it_can(graph: onnx.ModelProto) -> None:
    assert without_weights(graph, lambda whole: whole) is graph
