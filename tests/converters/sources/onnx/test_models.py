from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import NameFixPass

from vitedge.bundle.bundle import Bundle
from vitedge.converters.reference import graph_logits, normalized
from vitedge.converters.rewrites.apply import Rewritten, apply_rewrites
from vitedge.converters.sources.onnx import worker
from vitedge.converters.sources.onnx.models import OnnxModel, load_onnx
from vitedge.converters.sources.parse import OnnxFile
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.errors import CheckpointError, ConversionError, UsageError
from vitedge.metrics import sqnr_db
from vitedge.progress import Terminal
from vitedge.safety.limits import MANIFEST_BYTES

Frames = NDArray[np.uint8]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare graphs in this process, without limits, where a test is about their meaning: a child takes a second."""

    def serve(module: str, request: dict[str, Any], folder: Path, *_: Any, **__: Any) -> Any:
        assert module == worker.__name__
        return json.loads(json.dumps(worker.serve(json.loads(json.dumps(request)), folder)))

    monkeypatch.setattr(worker, "_limit_time", lambda file: None)
    monkeypatch.setattr("vitedge.converters.sources.onnx.models.run_sandboxed", serve)


def copy_of(graph: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    return copied


def write(folder: Path, graph: onnx.ModelProto, **config: Any) -> OnnxFile:
    """A graph with the small network's configuration beside it."""
    onnx.save(graph, folder / "net.onnx")
    whole = {**checkpoints.PRETRAINED_CFG, "label_names": list(checkpoints.CLASSES), **config}
    (folder / "config.json").write_text(json.dumps(whole), encoding="utf-8")
    return OnnxFile(folder / "net.onnx")


def ending_in(graph: onnx.ModelProto, *kinds: str) -> onnx.ModelProto:
    """A copy of a graph that applies operators to its logits, one after the other."""
    changed = copy_of(graph)
    for kind in kinds:
        (output,) = changed.graph.output
        changed.graph.node.append(helper.make_node(kind, [output.name], [f"{output.name}_{kind}"]))
        output.name = f"{output.name}_{kind}"
    return changed


def load(folder: Path, graph: onnx.ModelProto, **config: Any) -> OnnxModel:
    return load_onnx(write(folder, graph, **config), labels=None)


def test_a_graph_of_torch(
    tmp_path: Path, small_export: onnx.ModelProto, small_graph: Rewritten, small_model: TorchModel, frames: Frames
) -> None:
    model = load(tmp_path, small_export)
    assert (model.card.name, model.card.architecture) == ("net", "onnx")
    assert model.card.labels == checkpoints.CLASSES
    assert model.card.preprocessing == small_model.card.preprocessing
    assert model.card.pretrained
    result = apply_rewrites(model.graph, frames, model.card.preprocessing)
    assert sqnr_db(small_graph.logits, result.logits) > 100


def test_the_configuration_may_be_that_of_a_hub_folder(tmp_path: Path, small_export: onnx.ModelProto) -> None:
    onnx.save(small_export, tmp_path / "net.onnx")
    (tmp_path / "config.json").write_text(json.dumps(checkpoints.config()), encoding="utf-8")
    model = load_onnx(OnnxFile(tmp_path / "net.onnx"), labels=None)
    assert model.card.labels == checkpoints.CLASSES
    assert model.card.preprocessing.resize_size == (35, 35)


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


def test_the_graph_of_a_bundle_is_described_by_its_manifest(tmp_path: Path, tiny_bundle: Bundle) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    card = load_onnx(OnnxFile(tmp_path / "copy" / "model.onnx"), labels=None).card
    assert card.preprocessing == tiny_bundle.manifest.model.preprocessing
    assert card.labels == ("red", "green", "blue")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("kinds", "activation"),
    [
        (["Softmax"], "softmax"),
        (["LogSoftmax"], "softmax"),
        (["Softmax", "Identity"], "softmax"),
        (["Sigmoid"], "sigmoid"),
        (["Neg", "Exp", "Softplus", "Neg", "Exp"], None),
    ],
)
def test_a_final_activation_is_taken_off(
    tmp_path: Path,
    small_export: onnx.ModelProto,
    small_graph: Rewritten,
    frames: Frames,
    kinds: list[str],
    activation: str | None,
) -> None:
    graph = ending_in(small_export, *kinds)
    if activation is None:
        with pytest.raises(CheckpointError, match="made by Exp: it has no logits"):
            load(tmp_path, graph)
        return
    model = load(tmp_path, graph)
    assert model.activation == activation
    assert graph_logits(model.graph, frames, model.card.preprocessing).shape == (8, 5)
    assert sqnr_db(small_graph.logits, graph_logits(model.graph, frames, model.card.preprocessing)) > 100
    onnx.checker.check_model(model.graph, full_check=True)


def test_probabilities_are_refused(tmp_path: Path, small_export: onnx.ModelProto) -> None:
    graph = ending_in(small_export, "Softmax")
    graph.graph.initializer.append(numpy_helper.from_array(np.eye(5, dtype=np.float32), "same"))
    graph.graph.node.append(helper.make_node("MatMul", ["logits_Softmax", "same"], ["scores"]))
    graph.graph.output[0].name = "scores"
    with pytest.raises(CheckpointError, match="gives probabilities"):
        load(tmp_path, graph)


def test_a_softmax_over_another_axis_is_refused(tmp_path: Path, small_export: onnx.ModelProto) -> None:
    graph = ending_in(small_export, "Softmax")
    graph.graph.node[-1].attribute.append(helper.make_attribute("axis", 0))
    with pytest.raises(CheckpointError, match=r"^the Softmax at the end of .* is no softmax of 5 classes"):
        load(tmp_path, graph)


def test_a_child_that_names_another_activation_is_not_believed(
    tmp_path: Path, small_export: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"shape": [1, 5], "dtype": "float32", "probabilities": False, "activation": "relu"}
    monkeypatch.setattr("vitedge.converters.sources.onnx.models.run_sandboxed", lambda *_, **__: said)
    with pytest.raises(CheckpointError, match="did not describe its activation"):
        load(tmp_path, small_export)


def test_nothing_says_how_images_are_prepared(tmp_path: Path, small_export: onnx.ModelProto) -> None:
    onnx.save(small_export, tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="nothing says how images are preprocessed") as caught:
        load_onnx(OnnxFile(tmp_path / "net.onnx"), labels=None)
    assert "preprocessing=timm:NAME" in caught.value.fix
    example = json.loads(caught.value.fix.partition("FILE with ")[2])
    assert set(example) == {"input_size", "mean", "std", "interpolation", "crop_pct"}


@pytest.mark.usefixtures("in_process")
def test_labels_that_do_not_match(tmp_path: Path, small_export: onnx.ModelProto) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json has 2 labels, the network has 5 logits"):
        load(tmp_path, small_export, label_names=["a", "b"])
    (tmp_path / "labels.txt").write_text("a\nb\nc\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"labels\.txt has 3 labels, the network has 5 logits"):
        load_onnx(OnnxFile(tmp_path / "net.onnx"), labels=tmp_path / "labels.txt")


def test_classes_without_names_are_numbered(tmp_path: Path, small_export: onnx.ModelProto) -> None:
    assert load(tmp_path, small_export, label_names=None).card.labels[0] == "class_0"


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_truncated_file(tmp_path: Path, small_export: onnx.ModelProto, kept: float) -> None:
    source = write(tmp_path, small_export)
    data = source.path.read_bytes()
    source.path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match="is cut off, or not a valid ONNX file"):
        load_onnx(source, labels=None)


@pytest.mark.parametrize(
    ("groups", "shape", "problem"),
    [(3, (9, 2, 3, 3), "C: 8 kernel channels: 2 group: 3"), (4, (9, 2, 3, 3), "Output channels M is not divisible")],
)
def test_groups_of_a_convolution_that_do_not_divide_its_channels(
    tmp_path: Path, groups: int, shape: tuple[int, ...], problem: str
) -> None:
    weights = {"stem": (8, 3, 4, 4), "deep": shape, "head": (shape[0], len(checkpoints.CLASSES))}
    initializers = [numpy_helper.from_array(np.ones(each, np.float32), name) for name, each in weights.items()]
    initializers.append(numpy_helper.from_array(np.array([2, 3]), "places"))
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["maps"], name="stem", strides=[4, 4]),
        helper.make_node("Conv", ["maps", "deep"], ["deep_maps"], name="block.deep", group=groups),
        helper.make_node("ReduceMean", ["deep_maps", "places"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, checkpoints.SIDE, checkpoints.SIDE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(checkpoints.CLASSES)])
    graph = helper.make_graph(nodes, "g", [image], [logits], initializers)
    with pytest.raises(ConversionError, match=r"block\.deep") as caught:
        load(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    assert problem in caught.value.problem


def test_a_graph_that_is_quantized_already(tmp_path: Path, make_bundle: Any) -> None:
    bundle = make_bundle(tmp_path / "int8.bundle", precision="int8")
    with pytest.raises(CheckpointError, match="is quantized already"):
        load_onnx(OnnxFile(bundle.path / "model.onnx"), labels=None)


def after_input(graph: onnx.ModelProto, kind: int, shape: list[int | str], *nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A copy of a graph that computes its input from ``image``."""
    changed = copy_of(graph)
    (entry,) = changed.graph.input
    for node in changed.graph.node:
        node.input[:] = ["x" if name == entry.name else name for name in node.input]
    old = list(changed.graph.node)
    del changed.graph.node[:]
    changed.graph.node.extend([*nodes, *old])
    entry.CopyFrom(helper.make_tensor_value_info("image", kind, shape))
    return changed


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


def logits_of(model: OnnxModel, frames: Frames) -> NDArray[np.float32]:
    (entry,) = model.graph.graph.input
    shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    kind = entry.type.tensor_type.elem_type
    assert (kind, shape) in ((TensorProto.FLOAT, [1, 3, 32, 32]), (TensorProto.UINT8, [1, 32, 32, 3]))
    onnx.checker.check_model(model.graph, full_check=True)
    logits = graph_logits(model.graph, frames, model.card.preprocessing)
    assert logits.shape == (len(frames), len(checkpoints.CLASSES))
    rewritten = apply_rewrites(model.graph, frames, model.card.preprocessing).logits
    assert sqnr_db(logits, rewritten) > 80
    return logits


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


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["float", "uint8"])
def test_a_graph_that_runs_in_both_layouts_is_refused(tmp_path: Path, kind: str) -> None:
    graph = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g ({kind}[N,C,H,W] x) => (float[1,K] y) '
        "{c = Cast<to = 1>(x) y = Flatten(c)}"
    )
    with pytest.raises(CheckpointError, match="runs on images with channels first and with channels last"):
        load(tmp_path, graph)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("whole", [True, False])
def test_sixteen_bits_become_float32(
    tmp_path: Path, small_export: onnx.ModelProto, small_graph: Rewritten, frames: Frames, kind: int, whole: bool
) -> None:
    graph, narrow = ir.from_proto(small_export), ir.DataType(kind)
    for weight in graph.graph.initializers.values():
        if weight.const_value is not None and weight.const_value.dtype == ir.DataType.FLOAT:
            weight.const_value = ir.tensor(weight.const_value.numpy().astype(narrow.numpy()), name=weight.name)
            weight.dtype = narrow
    for value in (value for node in graph.graph for value in node.outputs):
        value.dtype = narrow if value.dtype == ir.DataType.FLOAT else value.dtype
    (image,), (logits,) = graph.graph.inputs, graph.graph.outputs
    if whole:
        image.dtype = narrow
    else:
        outer = ir.val("outer", ir.DataType.FLOAT, image.shape)
        cast = ir.node("Cast", [outer], {"to": kind})
        ir.convenience.replace_all_uses_with(image, cast.outputs[0])
        graph.graph.insert_before(graph.graph[0], cast)
        back = ir.node("Cast", [logits], {"to": int(ir.DataType.FLOAT)})
        back.outputs[0].type, back.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), logits.shape
        graph.graph.append(back)
        graph.graph.inputs[:], graph.graph.outputs[:] = [outer], [back.outputs[0]]
        NameFixPass()(graph)
    model = load(tmp_path, ir.to_proto(graph))
    least = 50 if kind == TensorProto.FLOAT16 else 30
    assert sqnr_db(small_graph.logits, logits_of(model, frames)) > least


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("shape", [[1, 1, -1], [1, -1, 1, 1], [-1], [1, 1, 1, -1], [-1, 1]])
def test_logits_of_other_shapes_are_flattened(
    tmp_path: Path, small_export: onnx.ModelProto, small_graph: Rewritten, frames: Frames, shape: list[int]
) -> None:
    graph = copy_of(small_export)
    graph.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "shape"))
    graph.graph.node.append(helper.make_node("Reshape", ["logits", "shape"], ["shaped"]))
    sizes = [len(checkpoints.CLASSES) if size == -1 else size for size in shape]
    graph.graph.output[0].CopyFrom(helper.make_tensor_value_info("shaped", TensorProto.FLOAT, sizes))
    assert sqnr_db(small_graph.logits, logits_of(load(tmp_path, graph), frames)) > 100


def with_features(graph: onnx.ModelProto) -> onnx.ModelProto:
    changed = copy_of(graph)
    changed.graph.node.append(helper.make_node("Neg", ["logits"], ["features"]))
    changed.graph.output.insert(0, helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, "K"]))
    return changed


@pytest.mark.usefixtures("in_process")
def test_one_of_several_outputs_is_chosen_by_name(
    tmp_path: Path, small_export: onnx.ModelProto, small_graph: Rewritten, frames: Frames
) -> None:
    source = write(tmp_path, with_features(small_export))
    with pytest.raises(CheckpointError, match=r"2 outputs: features FLOAT \(1,K\), logits FLOAT \(1,\d+\)") as caught:
        load_onnx(source, labels=None)
    assert "logits=NAME" in caught.value.fix
    with pytest.raises(UsageError, match="has no output 'logit'") as misspelled:
        load_onnx(replace(source, logits="logit"), labels=None)
    assert misspelled.value.fix == "did you mean logits?"
    assert "features FLOAT (1,K)" in misspelled.value.expected
    model = load_onnx(replace(source, logits="logits"), labels=None)
    assert sqnr_db(small_graph.logits, logits_of(model, frames)) > 100
    negative = load_onnx(replace(source, logits="features"), labels=None)
    assert sqnr_db(-small_graph.logits, logits_of(negative, frames)) > 100


@pytest.mark.parametrize(
    ("signature", "problem"),
    [
        ("(float[1,3,48,48] x) => (float[1,6912] y) {y = Flatten(x)}", r"FLOAT \(1,3,48,48\)"),
        ("(float[1,32,32,4] x) => (float[1,4096] y) {y = Flatten(x)}", "the input of"),
        ("(float[1,1,32,32] x) => (float[1,1024] y) {y = Flatten(x)}", "the input of"),
        ("(int32[1,3,32,32] x) => (float[1,3072] y) {c = Cast<to = 1>(x) y = Flatten(c)}", "INT32"),
        ("(double[1,3,32,32] x) => (float[1,3072] y) {c = Cast<to = 1>(x) y = Flatten(c)}", "DOUBLE"),
        ("(float[2,3,32,32] x) => (float[2,3072] y) {y = Flatten(x)}", "the input of"),
        ("(float[3,32,32] x) => (float[3,1024] y) {y = Flatten(x)}", "the input of"),
        ("(float[1,3,32,32] x, float[1] z) => (float[1,3072] y) {f = Flatten(x) y = Add(f, z)}", "2 inputs"),
        ("(float[1,3,32,32] x) => (float[1,3072] y, float[1,3072] z) {y = Flatten(x) z = Neg(y)}", "2 outputs"),
        ("(float[1,3,32,32] x) => (float[1,3,32,32] y) {y = Neg(x)}", "the output of"),
        ("(float[1,3,32,32] x) => (double[1,3072] y) {f = Flatten(x) y = Cast<to = 11>(f)}", "float64"),
    ],
)
def test_graphs_that_are_no_classifiers(tmp_path: Path, signature: str, problem: str) -> None:
    graph = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {signature}')
    with pytest.raises(CheckpointError, match=problem):
        load(tmp_path, graph)


def test_initializers_that_are_inputs_too(tmp_path: Path) -> None:
    """IR version 3 lists weights among the inputs."""
    graph = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[1,3,32,32] x, float[3072,5] w) => (float[1,5] y) {f = Flatten(x) y = MatMul(f, w)}
        """
    )
    weights = np.random.default_rng(0).standard_normal((3072, 5)).astype(np.float32)
    graph.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    assert graph.graph.input[1].type.tensor_type.elem_type == TensorProto.FLOAT
    assert load(tmp_path, graph).card.num_classes == 5


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("opset", [9, 11, 12])
def test_an_old_opset_is_kept_as_the_reference_and_upgraded_later_with_a_notice(tmp_path: Path, opset: int) -> None:
    graph = onnx.parser.parse_model(
        f"""
        <ir_version: 6, opset_import: ["" : {opset}]>
        g (float[N,3,32,32] x) => (float[N,3] y)
        {{m = ReduceMean<axes = [2, 3], keepdims = 0>(x) s = ReduceSum<axes = [1]>(m) y = Mul(m, s)}}
        """
    )
    stream = io.StringIO()
    source = write(tmp_path, graph, label_names=None)
    model = load_onnx(source, labels=None, progress=Terminal(stream))
    assert f"upgrading the graph from opset {opset} to 20" in stream.getvalue()
    assert model.graph.opset_import[0].version == opset
    frames = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    rewritten = apply_rewrites(model.graph, frames, model.card.preprocessing)
    assert "upgrade old opset" in rewritten.applied
    assert rewritten.graph.opset_import[0].version == 20
    means = normalized(frames, model.card.preprocessing).mean(axis=(2, 3))
    np.testing.assert_allclose(
        graph_logits(model.graph, frames, model.card.preprocessing), means * means.sum(), rtol=1e-4
    )


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("opset", [7, 8])
def test_a_graph_of_the_first_format_whose_weights_are_inputs_is_upgraded(tmp_path: Path, opset: int) -> None:
    """Files of IR version 3 have each initializer among the inputs; onnx's converter demands it of them."""
    graph = onnx.parser.parse_model(
        f"""
        <ir_version: 3, opset_import: ["" : {opset}]>
        g (float[N,3,32,32] x, float[3,4] w) => (float[N,4] y) <float[3,4] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}}>
        {{m = ReduceMean<axes = [2, 3], keepdims = 0>(x) y = MatMul(m, w)}}
        """
    )
    assert [each.name for each in graph.graph.input] == ["x", "w"]
    model = load(tmp_path, graph, label_names=None)
    frames = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    rewritten = apply_rewrites(model.graph, frames, model.card.preprocessing)
    assert "upgrade old opset" in rewritten.applied
    means = normalized(frames, model.card.preprocessing).mean(axis=(2, 3))
    weights = numpy_helper.to_array(graph.graph.initializer[0])
    np.testing.assert_allclose(
        graph_logits(model.graph, frames, model.card.preprocessing), means @ weights, rtol=1e-4, atol=1e-5
    )


def test_preprocessing_is_given(tmp_path: Path, small_export: onnx.ModelProto) -> None:
    onnx.save(small_export, tmp_path / "net.onnx")
    source = OnnxFile(tmp_path / "net.onnx")
    card = load_onnx(source, labels=None, preprocessing="timm:deit_tiny_patch16_224").card
    assert (card.preprocessing.input_size, card.preprocessing.resize_size) == ((32, 32), (35, 35))
    assert card.labels[0] == "class_0"


def test_external_data(tmp_path: Path, small_export: onnx.ModelProto, frames: Frames) -> None:
    source = write(tmp_path, small_export)
    whole = load_onnx(source, labels=None)
    onnx.save(copy_of(small_export), source.path, save_as_external_data=True, location="net.weights", size_threshold=0)
    model, preprocessing = load_onnx(source, labels=None), whole.card.preprocessing
    np.testing.assert_array_equal(
        graph_logits(model.graph, frames, preprocessing), graph_logits(whole.graph, frames, preprocessing)
    )
    (tmp_path / "net.weights").unlink()
    with pytest.raises(CheckpointError, match=r"are in net\.weights, which is not beside it"):
        load_onnx(source, labels=None)


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ("y = mine.Attention(f)", r"no backend has the operator mine\.Attention, layer 'y'"),
        ("y = Attenshun(f)", "no backend has the operator Attenshun, layer 'y'"),
        ("y = HardSigmoid(f)", r"y FLOAT \(1,3072\), made by HardSigmoid: it has no logits"),
        ("s = Slice(f, b, e, b) y = Identity(s)", r"shape \(0, 3072\)|one logit|cannot run the graph"),
    ],
)
def test_graphs_that_no_backend_can_serve(tmp_path: Path, node: str, problem: str) -> None:
    graph = onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["" : 20, "mine" : 1]>
        g (float[1,3,32,32] x) => (float[1,3072] y) <int64[1] b = {{1}}, int64[1] e = {{2}}>
        {{f = Flatten(x) {node}}}
        """
    )
    with pytest.raises((CheckpointError, ConversionError), match=problem):
        load(tmp_path, graph)


def test_an_index_is_no_logits(tmp_path: Path) -> None:
    graph = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[1,3,32,32] x) => (int64[1] y) {f = Flatten(x) y = ArgMax<axis = 1, keepdims = 0>(f)}
        """
    )
    with pytest.raises(CheckpointError, match="made by ArgMax") as caught:
        load(tmp_path, graph)
    assert "['f']" in caught.value.fix


FEATURES = "f = Flatten(x) l = Slice(f, b, e)"
"""Five values of the image, that a graph may add to."""
CONSTANTS = (
    "int64[2] b = {0, 0}, int64[2] e = {1, 5}, float one = {1}, int64[1] big = {1250000000}, float[1] ones = {1}"
)


def written(folder: Path, body: str, *, constants: str = "", functions: str = "") -> OnnxFile:
    """A graph of one image to five logits."""
    text = f"""
        <ir_version: 10, opset_import: ["" : 20, "mine" : 1]>
        g (float[1,3,32,32] x) => (float[1,N] y) <{CONSTANTS}{constants}> {{ {FEATURES} {body} }}
        {functions}
    """
    return write(folder, onnx.parser.parse_model(text))


def test_such_a_graph_converts(tmp_path: Path) -> None:
    assert load_onnx(written(tmp_path, "y = Identity(l)"), labels=None).card.num_classes == 5


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "body",
    [
        "w = Expand(one, big) s = ReduceSum<keepdims = 0>(w) y = Add(l, s)",
        "w = Expand(one, big) y = Identity(l)",
        "m = ReduceMean<keepdims = 0>(x) w = Expand(m, big) s = ReduceSum<keepdims = 0>(w) y = Add(l, s)",
        "w = ConstantOfShape(big) s = ReduceSum<keepdims = 0>(w) y = Add(l, s)",
        "w = RandomNormal<shape = [1250000000]>() s = ReduceSum<keepdims = 0>(w) y = Add(l, s)",
        "".join(f"c{i + 1} = Concat<axis = 0>(c{i}, c{i}) " for i in range(40)).replace("c0", "ones")
        + "s = ReduceSum<keepdims = 0>(c40) y = Add(l, s)",
    ],
    ids=["expand", "unused", "of the image", "constant", "random", "doubled"],
)
def test_gigabytes_of_a_small_file(tmp_path: Path, body: str) -> None:
    with pytest.raises(CheckpointError, match=r"net\.onnx took more than .* MiB of memory"):
        load_onnx(written(tmp_path, body), labels=None)


@pytest.mark.timeout(120)
def test_hours_of_a_small_file(tmp_path: Path) -> None:
    products = " ".join(f"m{i + 1} = MatMul(m{i}, m{i})" for i in range(300))
    body = f"m0 = Expand(one, s) {products} r = ReduceSum<keepdims = 0>(m300) y = Add(l, r)"
    with pytest.raises(CheckpointError, match="took too much processor time"):
        load_onnx(written(tmp_path, body, constants=", int64[2] s = {4096, 4096}"), labels=None)


@pytest.mark.timeout(60)
def test_a_graph_that_crashes_onnx_runtime(tmp_path: Path) -> None:
    """The smallest integer by minus one is a fault of the processor."""
    body = "d = Div(i, m) w = Cast<to = 1>(d) y = Add(l, w)"
    with pytest.raises((CheckpointError, ConversionError), match=r"SIGFPE|cannot run the graph"):
        load_onnx(
            written(tmp_path, body, constants=", int64[1] i = {-9223372036854775808}, int64[1] m = {-1}"), labels=None
        )


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("z = Neg(y) y = Add(l, z)", "topologically sorted"),
        ("y = Neg(l) y = Abs(l)", "single static assignment"),
        ("y = Add(l, nowhere)", "topologically sorted"),
        ("y = Neg<nothing = 1>(l)", "nothing"),
        (
            "n = NonZero(x) w = Cast<to = 1>(n) s = ReduceSum<keepdims = 0>(w) y = Add(l, s)",
            "the content of the image decides",
        ),
        ("c = Cast<to = 8>(l) y = Identity(c)", r"type object|cannot run the graph"),
        ("w = Transpose<perm = [1099511627776, 0]>(l) y = Neg(w)", "cannot run the graph"),
    ],
)
def test_graphs_that_are_refused_once_they_were_tried(tmp_path: Path, body: str, problem: str) -> None:
    with pytest.raises((CheckpointError, ConversionError), match=problem):
        load_onnx(written(tmp_path, body), labels=None)


@pytest.mark.usefixtures("in_process")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("branch", [0, 1])
def test_branches_that_a_constant_decides(tmp_path: Path, branch: int) -> None:
    """Older exporters ask whether an axis has one element."""
    body = (
        "y = If <then_branch = t () => (float[1,5] p) {p = Neg(l)}, "
        "else_branch = e () => (float[1,5] q) {q = Abs(l)}> (c)"
    )
    model = load_onnx(written(tmp_path, body, constants=f", bool c = {{{branch}}}"), labels=None)
    assert model.card.num_classes == 5


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("body", "functions", "problem"),
    [
        ("y = mine.A(l)", '<domain: "mine", opset_import: ["mine" : 1]> A (p) => (q) {q = mine.A(p)}', "calls itself"),
        (
            "y = mine.F0(l)",
            "\n".join(
                f'<domain: "mine", opset_import: ["" : 20, "mine" : 1]> F{i} (p) => (q) '
                + (f"{{r = mine.F{i + 1}(p) q = mine.F{i + 1}(r)}}" if i < 30 else "{q = Neg(p)}")
                for i in range(31)
            ),
            "more than 200000 nodes",
        ),
        (
            "y = Loop <body = b (int64 i, bool c, float[1,5] p) => (bool c, float[1,5] q) {q = Neg(p)}> (, , l)",
            "",
            "a loop",
        ),
    ],
    ids=["itself", "doubling", "loop"],
)
def test_graphs_without_end_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, functions: str, problem: str
) -> None:
    monkeypatch.setattr("vitedge.converters.sources.onnx.models.run_sandboxed", None)
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_onnx(written(tmp_path, body, functions=functions), labels=None)
    assert "a graph without loops" in caught.value.expected


def test_functions_are_inlined(tmp_path: Path) -> None:
    functions = '<domain: "mine", opset_import: ["" : 20]> A (p) => (q) {r = Neg(p) q = Abs(r)}'
    model = load_onnx(written(tmp_path, "k = mine.A(l) y = Neg(k)", functions=functions), labels=None)
    assert not model.graph.functions
    assert {"Neg", "Abs"} <= {node.op_type for node in model.graph.graph.node}


@pytest.mark.timeout(60)
def test_a_file_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.onnx")
    with pytest.raises(CheckpointError, match="it is a FIFO"):
        load_onnx(OnnxFile(tmp_path / "net.onnx"), labels=None)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("location", ["/etc/hostname", "../secret", "secret", "net.onnx"])
def test_weights_outside_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "secret").symlink_to("../secret")
    source = written(folder, "k = Add(l, w) y = Neg(k)")
    graph = onnx.load(source.path)
    tensor = TensorProto(name="w", dims=[1, 5], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="1000000")
    graph.graph.initializer.append(tensor)
    source.path.write_bytes(graph.SerializeToString())
    with pytest.raises(CheckpointError, match=r"no file of its folder|a link out of its folder|has .* bytes; .* needs"):
        load_onnx(source, labels=None)


def test_what_the_child_leaves_is_not_trusted(
    tmp_path: Path, small_export: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, said = write(tmp_path, small_export), {"shape": [1, 5], "dtype": "float32", "probabilities": False}
    outside = copy_of(small_export)
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    outside.graph.initializer[0].ClearField("raw_data")
    for told, left, problem in (
        ({}, small_export.SerializeToString(), "did not describe"),
        ([], small_export.SerializeToString(), "did not describe"),
        ({**said, "shape": [1, -5]}, small_export.SerializeToString(), "has no logits"),
        ({**said, "shape": [1, 5.0]}, small_export.SerializeToString(), "has no logits"),
        (said, b"no graph", "is cut off"),
        (said, outside.SerializeToString(), "weights outside"),
    ):

        def sandboxed(*arguments: Any, told: Any = told, left: bytes = left, **options: Any) -> Any:
            (arguments[2] / "graph.onnx").write_bytes(left)
            return told

        monkeypatch.setattr("vitedge.converters.sources.onnx.models.run_sandboxed", sandboxed)
        with pytest.raises(CheckpointError, match=problem):
            load_onnx(source, labels=None)


@pytest.mark.parametrize("content", [b"\xff\xfe", b" " * (MANIFEST_BYTES + 1)])
def test_a_manifest_that_is_none(tmp_path: Path, small_export: onnx.ModelProto, content: bytes) -> None:
    source = write(tmp_path, small_export)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json cannot be read"):
        load_onnx(source, labels=None)
