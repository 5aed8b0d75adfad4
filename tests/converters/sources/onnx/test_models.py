"""Loading ONNX files: activations, labels, operator sets, external data, and what no backend can serve."""

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
from onnx import TensorProto, helper, numpy_helper
from onnx_files import Frames, copy_of, load, write

from vitedge.bundle.bundle import Bundle
from vitedge.converters.reference import graph_logits, normalized
from vitedge.converters.rewrites.apply import Rewritten, apply_rewrites
from vitedge.converters.sources.onnx.models import load_onnx
from vitedge.converters.sources.parse import OnnxFile
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.errors import CheckpointError, ConversionError, UsageError
from vitedge.metrics import sqnr_db
from vitedge.progress import Terminal


def ending_in(graph: onnx.ModelProto, *kinds: str) -> onnx.ModelProto:
    """A copy of a graph that applies operators to its logits, one after the other."""
    changed = copy_of(graph)
    for kind in kinds:
        (output,) = changed.graph.output
        changed.graph.node.append(helper.make_node(kind, [output.name], [f"{output.name}_{kind}"]))
        output.name = f"{output.name}_{kind}"
    return changed


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
