"""Files of a stranger: what would cost memory, time or secrets is refused before, or in a child."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto
from onnx_files import copy_of, write

from vitedge.converters.sources.onnx.models import load_onnx
from vitedge.converters.sources.parse import OnnxFile
from vitedge.errors import CheckpointError, ConversionError
from vitedge.safety.limits import MANIFEST_BYTES

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
