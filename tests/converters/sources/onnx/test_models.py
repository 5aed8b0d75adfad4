from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vitedge.bundle.bundle import Bundle
from vitedge.converters.reference import graph_logits, normalized
from vitedge.converters.rewrites.apply import Rewritten, apply_rewrites
from vitedge.converters.sources.onnx.models import OnnxModel, load_onnx
from vitedge.converters.sources.parse import OnnxFile
from vitedge.converters.sources.torch_model import TorchModel
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
    assert "preprocessing=timm:NAME" in caught.value.fix
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


@pytest.mark.parametrize("content", [b"\xff\xfe", b" " * ((1 << 20) + 1)])
def test_a_manifest_that_is_none(tmp_path: Path, small_export: onnx.ModelProto, content: bytes) -> None:
    source = write(tmp_path, small_export)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json cannot be read"):
        load_onnx(source, labels=None)
