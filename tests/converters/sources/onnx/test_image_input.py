"""Layouts, types and open dimensions of the image that a graph takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_files import Frames, after_input, copy_of, load, logits_of

from vitedge.converters.reference import graph_logits, normalized
from vitedge.converters.rewrites.apply import Rewritten, apply_rewrites
from vitedge.errors import CheckpointError
from vitedge.metrics import sqnr_db


def test_open_dimensions_and_other_names_are_fixed(
    tmp_path: Path, small_export: onnx.ModelProto, small_graph: Rewritten, frames: Frames
) -> None:
    graph = copy_of(small_export)
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = {"pixels": "x", "logits": "y", "conv2d": "logits"}.get(name, name)
    graph.graph.input[0].name, graph.graph.output[0].name = "x", "y"
    for dim, name in zip(graph.graph.input[0].type.tensor_type.shape.dim, "N3HW", strict=True):
        dim.Clear()
        if name == "3":
            dim.dim_value = 3
        else:
            dim.dim_param = name
    del graph.graph.value_info[:]
    model = load(tmp_path, graph)
    assert [dim.dim_value for dim in model.graph.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 32, 32]
    result = apply_rewrites(model.graph, frames, model.card.preprocessing)
    assert result.graph.graph.output[0].name == "logits"
    assert sqnr_db(small_graph.logits, result.logits) > 100
    onnx.checker.check_model(result.graph, full_check=True)


def test_a_graph_that_takes_frames(tmp_path: Path, small_graph: Rewritten, frames: Frames) -> None:
    model = load(tmp_path, small_graph.graph)
    np.testing.assert_allclose(
        graph_logits(model.graph, frames, model.card.preprocessing), small_graph.logits, rtol=1e-5, atol=1e-5
    )


@pytest.mark.usefixtures("in_process")
def test_an_image_may_have_the_name_of_the_logits(tmp_path: Path, frames: Frames) -> None:
    graph = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N,3,32,32] logits) => (float[N,3] image) '
        "{m = GlobalAveragePool(logits) image = Flatten(m)}"
    )
    model = load(tmp_path, graph, label_names=None)
    means = normalized(frames, model.card.preprocessing).mean(axis=(2, 3))
    np.testing.assert_allclose(graph_logits(model.graph, frames, model.card.preprocessing), means, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("shape", "order"), [(["N", "H", "W", 3], [0, 1, 2, 3]), (["N", 3, "H", "W"], [0, 2, 3, 1])])
def test_bytes_become_the_frame_whatever_their_name(
    tmp_path: Path, small_graph: Rewritten, frames: Frames, shape: list[int | str], order: list[int]
) -> None:
    moved = helper.make_node("Transpose", ["image"], ["x"], perm=order)
    model = load(tmp_path, after_input(small_graph.graph, TensorProto.UINT8, shape, moved))
    assert [each.name for each in model.graph.graph.input] == ["frame"]
    assert sqnr_db(small_graph.logits, logits_of(model, frames)) > 100


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("shape", [[1, 32, 32, 3], ["N", "H", "W", 3], ["N", "H", "W", "C"], ["?", 32, 32, "C"]])
def test_float_images_with_channels_last(
    tmp_path: Path, small_export: onnx.ModelProto, small_graph: Rewritten, frames: Frames, shape: list[int | str]
) -> None:
    planes = helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2])
    model = load(tmp_path, after_input(small_export, TensorProto.FLOAT, shape, planes))
    assert sqnr_db(small_graph.logits, logits_of(model, frames)) > 100


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("shape", [["N", "C", "H", "W"], ["N", 3, "H", "W"], [1, "C", 32, 32]])
def test_float_images_with_channels_first(
    tmp_path: Path, small_export: onnx.ModelProto, small_graph: Rewritten, frames: Frames, shape: list[int | str]
) -> None:
    same = helper.make_node("Identity", ["image"], ["x"])
    model = load(tmp_path, after_input(small_export, TensorProto.FLOAT, shape, same))
    assert sqnr_db(small_graph.logits, logits_of(model, frames)) > 100


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["float", "uint8"])
def test_a_graph_that_runs_in_both_layouts_is_refused(tmp_path: Path, kind: str) -> None:
    graph = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g ({kind}[N,C,H,W] x) => (float[1,K] y) '
        "{c = Cast<to = 1>(x) y = Flatten(c)}"
    )
    with pytest.raises(CheckpointError, match="runs on images with channels first and with channels last"):
        load(tmp_path, graph)
