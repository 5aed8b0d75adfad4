from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vitedge.bundle import Bundle
from vitedge.converters.onnx_models import OnnxModel, load_onnx
from vitedge.converters.reference import graph_logits, normalized
from vitedge.converters.rewrites import Rewritten, apply_rewrites
from vitedge.converters.sources import OnnxFile
from vitedge.converters.timm_models import TorchModel
from vitedge.errors import CheckpointError, ConversionError, UsageError
from vitedge.metrics import sqnr_db
from vitedge.progress import Terminal

Frames = NDArray[np.uint8]


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


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_a_final_softmax_is_taken_off(
    tmp_path: Path, small_export: onnx.ModelProto, small_graph: Rewritten, frames: Frames, kind: str
) -> None:
    graph = copy_of(small_export)
    graph.graph.node.append(helper.make_node(kind, ["logits"], ["scores"], axis=-1))
    graph.graph.output[0].name = "scores"
    model = load(tmp_path, graph)
    assert graph_logits(model.graph, frames, model.card.preprocessing).shape == (8, 5)
    assert sqnr_db(small_graph.logits, graph_logits(model.graph, frames, model.card.preprocessing)) > 100
    onnx.checker.check_model(model.graph, full_check=True)


def test_probabilities_are_refused(tmp_path: Path, small_export: onnx.ModelProto) -> None:
    graph = copy_of(small_export)
    graph.graph.node.append(helper.make_node("Softmax", ["logits"], ["scores"], axis=-1))
    graph.graph.node.append(helper.make_node("Identity", ["scores"], ["copied"]))
    graph.graph.output[0].name = "copied"
    with pytest.raises(CheckpointError, match="gives probabilities"):
        load(tmp_path, graph)


def test_nothing_says_how_images_are_prepared(tmp_path: Path, small_export: onnx.ModelProto) -> None:
    onnx.save(small_export, tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="nothing says how images are preprocessed") as caught:
        load_onnx(OnnxFile(tmp_path / "net.onnx"), labels=None)
    assert "--preprocessing timm:NAME" in caught.value.fix
    example = json.loads(caught.value.fix.partition("FILE with ")[2])
    assert set(example) == {"input_size", "mean", "std", "interpolation", "crop_pct"}


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


def test_a_graph_that_is_quantized_already(tmp_path: Path, make_bundle: Any) -> None:
    bundle = make_bundle(tmp_path / "int8.bundle", precision="int8")
    with pytest.raises(CheckpointError, match="is quantized already"):
        load_onnx(OnnxFile(bundle.path / "model.onnx"), labels=None)


def test_half_weights_are_refused(tmp_path: Path, small_export: onnx.ModelProto) -> None:
    graph = copy_of(small_export)
    head = next(each for each in graph.graph.initializer if each.name == "head.weight")
    half = numpy_helper.from_array(numpy_helper.to_array(head).astype(np.float16), "half")
    graph.graph.initializer.append(half)
    with pytest.raises(CheckpointError, match="float16 weights"):
        load(tmp_path, graph)


@pytest.mark.parametrize(
    ("signature", "problem"),
    [
        ("(float[1,3,48,48] x) => (float[1,6912] y) {y = Flatten(x)}", r"FLOAT \(1,3,48,48\)"),
        ("(float[1,32,32,3] x) => (float[1,3072] y) {y = Flatten(x)}", "the input of"),
        ("(uint8[1,3,32,32] x) => (float[1,3072] y) {c = Cast<to = 1>(x) y = Flatten(c)}", "the input of"),
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


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_an_old_opset_is_upgraded_with_a_notice(tmp_path: Path, opset: int) -> None:
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
    assert model.graph.opset_import[0].version == 20
    frames = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    means = normalized(frames, model.card.preprocessing).mean(axis=(2, 3))
    np.testing.assert_allclose(
        graph_logits(model.graph, frames, model.card.preprocessing), means * means.sum(), rtol=1e-4
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
        ("y = Sigmoid(f)", r"y FLOAT \(1,3072\), made by Sigmoid: it has no logits"),
        ("s = Slice(f, b, e, b) y = Identity(s)", r"shape \(0, 3072\)|shape \(1, 1\)|cannot run the graph"),
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
