"""Graphs that normalize images themselves: that is not done twice."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_files import Frames, after_input, copy_of, load, logits_of, write

from vitedge.converters.rewrites.apply import Rewritten
from vitedge.converters.sources.onnx.models import load_onnx
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.errors import CheckpointError
from vitedge.metrics import sqnr_db


def normalizing(graph: onnx.ModelProto, small_model: TorchModel) -> tuple[onnx.ModelProto, list[onnx.NodeProto]]:
    """A copy of a graph with constants, and the nodes that normalize ``planes`` of 0…255 into ``x``."""
    changed, preprocessing = copy_of(graph), small_model.card.preprocessing
    mean, std = (np.array(each, np.float32).reshape(1, 3, 1, 1) for each in (preprocessing.mean, preprocessing.std))
    changed.graph.initializer.append(numpy_helper.from_array(255 * mean, "mean"))
    changed.graph.initializer.append(numpy_helper.from_array(255 * std, "std"))
    return changed, [
        helper.make_node("Sub", ["planes", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["x"]),
    ]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ([1, 3, 32, 32], (0, 1, 2, 3)),
        ([1, 32, 32, 3], (0, 3, 1, 2)),
        (["N", "a", "b", "c"], (0, 1, 2, 3)),
        (["N", "a", "b", "c"], (0, 3, 1, 2)),
    ],
)
def test_bytes_are_normalized_by_the_graph_alone(
    tmp_path: Path,
    small_export: onnx.ModelProto,
    small_model: TorchModel,
    small_graph: Rewritten,
    frames: Frames,
    shape: list[int | str],
    order: tuple[int, ...],
) -> None:
    graph, nodes = normalizing(small_export, small_model)
    floating = helper.make_node("Cast", ["image"], ["floating"], to=TensorProto.FLOAT)
    planes = helper.make_node("Transpose", ["floating"], ["planes"], perm=order)
    model = load(tmp_path, after_input(graph, TensorProto.UINT8, shape, floating, planes, *nodes))
    assert sqnr_db(small_graph.logits, logits_of(model, frames)) > 100


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("highest", [1.0, 255.0])
@pytest.mark.parametrize("last", [False, True])
def test_planes_are_not_normalized_twice(
    tmp_path: Path,
    small_export: onnx.ModelProto,
    small_model: TorchModel,
    small_graph: Rewritten,
    frames: Frames,
    highest: float,
    last: bool,
) -> None:
    graph, nodes = normalizing(small_export, small_model)
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(255 / highest), "range"))
    scaled = helper.make_node("Mul", ["range", "image"], ["scaled"])
    order = helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2] if last else [0, 1, 2, 3])
    shape = [1, 32, 32, 3] if last else [1, 3, 32, 32]
    model = load(tmp_path, after_input(graph, TensorProto.FLOAT, shape, scaled, order, *nodes))
    assert (model.card.preprocessing.mean, model.card.preprocessing.std) == ((0, 0, 0), (1 / highest,) * 3)
    assert sqnr_db(small_graph.logits, logits_of(model, frames)) > 100


@pytest.mark.usefixtures("in_process")
def test_a_graph_that_divides_bytes_is_not_fed_normalized_images(tmp_path: Path, small_export: onnx.ModelProto) -> None:
    graph = copy_of(small_export)
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(255), "range"))
    divided = helper.make_node("Div", ["image", "range"], ["x"])
    source = write(tmp_path, after_input(graph, TensorProto.FLOAT, [1, 3, 32, 32], divided))
    with pytest.raises(CheckpointError, match="begins by multiplying its image") as caught:
        load_onnx(source, labels=None)
    assert '"std": [0.00392157' in caught.value.fix
    plain = {**checkpoints.PRETRAINED_CFG, "mean": [0, 0, 0], "std": [1 / 255] * 3}
    (tmp_path / "plain.json").write_text(json.dumps(plain), encoding="utf-8")
    card = load_onnx(source, labels=None, preprocessing=str(tmp_path / "plain.json")).card
    assert card.preprocessing.std == (1 / 255, 1 / 255, 1 / 255)


CHANNELS = numpy_helper.from_array(np.array([2, 1, 0]), "channels")
FORMS = {
    "attributes": [
        helper.make_node("Constant", [], ["m"], value_float=0.5),
        helper.make_node("Constant", [], ["s"], value_float=2.0),
        helper.make_node("Sub", ["image", "m"], ["centred"]), helper.make_node("Mul", ["centred", "s"], ["x"]),
    ],
    "batch normalization": [
        helper.make_node("Constant", [], ["one"], value_floats=[1.0, 1.0, 1.0]),
        helper.make_node("Constant", [], ["zero"], value_floats=[0.0, 0.0, 0.0]),
        helper.make_node("Constant", [], ["m"], value_floats=[0.5, 0.5, 0.5]),
        helper.make_node("Constant", [], ["v"], value_floats=[0.25, 0.25, 0.25]),
        helper.make_node("BatchNormalization", ["image", "one", "zero", "m", "v"], ["x"]),
    ],
    "channels turned": [
        helper.make_node("Constant", [], ["bgr"], value=CHANNELS),
        helper.make_node("Constant", [], ["m"], value=numpy_helper.from_array(np.float32([[[0.3]], [[0.4]], [[0.5]]]))),
        helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.float32([[[0.7]], [[0.6]], [[0.5]]]))),
        helper.make_node("Gather", ["image", "bgr"], ["turned"], axis=1),
        helper.make_node("Sub", ["turned", "m"], ["centred"]), helper.make_node("Div", ["centred", "s"], ["x"]),
    ],
}  # fmt: skip
"""Normalization by mean and std 0.5, and by (0.5, 0.4, 0.3) and (0.5, 0.6, 0.7) in the order BGR."""


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("form", FORMS)
def test_a_normalization_in_another_form_is_not_done_twice(
    tmp_path: Path, small_export: onnx.ModelProto, form: str
) -> None:
    graph = after_input(copy_of(small_export), TensorProto.FLOAT, [1, 3, 32, 32], *FORMS[form])
    mean, std = ([0.5, 0.4, 0.3], [0.5, 0.6, 0.7]) if form == "channels turned" else ([0.5] * 3, [0.5] * 3)
    (tmp_path / "given.json").write_text(
        json.dumps({**checkpoints.PRETRAINED_CFG, "mean": mean, "std": std}), encoding="utf-8"
    )
    model = load_onnx(write(tmp_path, graph), labels=None, preprocessing=str(tmp_path / "given.json"))
    assert (model.card.preprocessing.mean, model.card.preprocessing.std) == ((0, 0, 0), (1, 1, 1))


def test_a_graph_that_subtracts_a_mean_of_bytes_is_not_fed_normalized_images(
    tmp_path: Path, small_export: onnx.ModelProto
) -> None:
    """As Keras' older models do: the mean of each channel, and no division."""
    mean = helper.make_node(
        "Constant", [], ["m"], value=numpy_helper.from_array(np.float32([[[104]], [[117]], [[124]]]))
    )
    graph = after_input(
        copy_of(small_export), TensorProto.FLOAT, [1, 3, 32, 32], mean, helper.make_node("Sub", ["image", "m"], ["x"])
    )
    with pytest.raises(CheckpointError, match="adding -104, -117, -124"):
        load_onnx(write(tmp_path, graph), labels=None)
