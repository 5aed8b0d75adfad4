"""What DeepStream reads, from a bundle for a Jetson."""

from __future__ import annotations

import configparser
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bundles
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.bundle.accuracy_records import ConfidenceRecord
from vitedge.bundle.bundle import MODEL_FP16_ONNX, Bundle
from vitedge.bundle.manifest import FileRecord, Manifest
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.integrations.deepstream import configuration, window
from vitedge.converters.integrations.export import export
from vitedge.errors import UsageError, VitedgeError

CONFIDENCE = ConfidenceRecord(
    temperature=1.25,
    threshold=0.375,
    abstain_error=0.05,
    accepted=90.0,
    accepted_top1=95.0,
    ece_before=4.0,
    ece_after=2.0,
    images=100,
    sha256="",
)
SQUARE = Preprocessing(input_size=(32, 32), resize_size=(36, 36), interpolation="bicubic")

EXPECTED = """\
# dominant_colour (fp32, model.onnx) for DeepStream, by vitedge 0.1.0.
# Build the engine on the device first, in this folder, as nvinfer would not build it strongly typed:
#   /usr/src/tensorrt/bin/trtexec --onnx=model.onnx --saveEngine=model.plan --stronglyTyped --noTF32 --skipInference
# nvinfer resizes the whole frame to 32x32; vitedge looks at the middle of it. For the same view
# of 1920x1080 frames: nvvideoconvert src-crop=480:60:960:960 before nvstreammux.

[property]
gpu-id=0
gie-unique-id=1
model-engine-file=model.plan
labelfile-path=labels.txt
batch-size=1
# 1: classifier
network-type=1
# 1: whole frames; 2: the objects that a detector before it found
process-mode=1
# 1: NHWC
network-input-order=1
# 0: RGB, 1: BGR
model-color-format=0
# the graph normalizes
net-scale-factor=1.0
maintain-aspect-ratio=0
symmetric-padding=0
scaling-filter=2
output-blob-names=probabilities
classifier-threshold=0.375
"""


@pytest.fixture(scope="module")
def colour_manifest(tiny_bundle: Bundle) -> Manifest:
    return tiny_bundle.manifest


@pytest.fixture
def jetson_bundle(make_bundle: Callable[..., Bundle], tmp_path: Path) -> Callable[..., Bundle]:
    """``jetson_bundle(target=…, **changes)``: as ``make_bundle``, for a Jetson unless told otherwise."""

    def make(target: str = "jetson-orin-nano", **changes: object) -> Bundle:
        made = make_bundle(tmp_path / "colour.bundle", **changes)
        bundles.rewrite_manifest(made.path, replace(made.manifest, target=target))
        return Bundle.open(made.path)

    return make


def test_the_configuration(jetson_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = jetson_bundle(preprocessing=SQUARE, confidence=CONFIDENCE)
    exported = export(bundle, tool="deepstream", output=tmp_path / "out")
    assert (exported.path / "nvinfer.txt").read_text(encoding="utf-8") == EXPECTED
    assert sorted(each.name for each in exported.path.iterdir()) == ["labels.txt", "model.onnx", "nvinfer.txt"]
    assert "trtexec" in exported.notes[0]


def test_what_it_names_is_there(jetson_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    folder = export(jetson_bundle(), tool="deepstream", output=tmp_path / "out").path
    parser = configparser.ConfigParser()
    parser.read(folder / "nvinfer.txt")
    settings = parser["property"]
    graph = onnx.load(folder / "model.onnx").graph
    assert [output.name for output in graph.output] == settings["output-blob-names"].split(";")
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert (folder / settings["labelfile-path"]).read_text(encoding="utf-8") == "red;green;blue\n"


def test_a_semicolon_in_a_label_is_refused(jetson_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = jetson_bundle(labels=("a", "b;c", "d"))
    with pytest.raises(UsageError, match=r"labels cannot be written for DeepStream: 1 'b;c'") as caught:
        export(bundle, tool="deepstream", output=tmp_path / "out")
    assert "labels=FILE" in caught.value.fix
    assert not (tmp_path / "out").exists()


def test_a_multilabel_bundle_is_refused(jetson_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nvinfer's classifier names the best class") as caught:
        export(jetson_bundle(activation="sigmoid"), tool="deepstream", output=tmp_path / "out")
    assert "Triton" in caught.value.fix
    assert not (tmp_path / "out").exists()


HOSTILE = "nice\n[property]\ncustom-lib-path=/tmp/evil.so\nparse-classifier-func-name=run\n#"


@given(st.text() | st.just(HOSTILE), st.text() | st.just(HOSTILE))
def test_no_name_adds_a_setting(colour_manifest: Manifest, name: str, version: str) -> None:
    hostile = replace(colour_manifest, model=replace(colour_manifest.model, name=name), vitedge_version=version)
    settings = [line for line in configuration(hostile, "model.onnx", "trtexec").split("\n") if line and line[0] != "#"]
    plain = configuration(colour_manifest, "model.onnx", "trtexec").split("\n")
    assert settings == [line for line in plain if line and line[0] != "#"]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda graph: b"no graph", "is no ONNX graph"),
        (lambda graph: renamed(graph), r"takes \['camera'\] and gives \['logits'\]"),
    ],
)
def test_a_graph_that_is_none_is_one_clear_error(
    jetson_bundle: Callable[..., Bundle], tmp_path: Path, spoil: Callable[[bytes], bytes], problem: str
) -> None:
    bundle = jetson_bundle()
    path = bundle.file("model.onnx")
    path.write_bytes(spoil(path.read_bytes()))
    record = FileRecord(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
    files = {**bundle.manifest.files, "model.onnx": record}
    bundles.rewrite_manifest(bundle.path, replace(bundle.manifest, files=files))
    with pytest.raises(VitedgeError, match=problem):
        export(bundle.path, tool="deepstream", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def renamed(graph: bytes) -> bytes:
    """The same graph with another name for its input."""
    model = onnx.load_from_string(graph)
    model.graph.input[0].name = "camera"
    return bytes(model.SerializeToString())


def test_the_graph_that_the_device_found_faster(tmp_path: Path) -> None:
    from tensorrt_bundles import make_tensorrt_bundle, write_build

    bundle = make_tensorrt_bundle(tmp_path / "colour.bundle")
    asked = export(bundle, tool="deepstream", output=tmp_path / "before").path
    write_build(bundle, kept=MODEL_FP16_ONNX)
    faster = export(bundle, tool="deepstream", output=tmp_path / "after").path
    assert "(int8, model.onnx)" in (asked / "nvinfer.txt").read_text(encoding="utf-8")
    assert "(int8, model.fp16.onnx)" in (faster / "nvinfer.txt").read_text(encoding="utf-8")
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(asked / "model.onnx").graph.node}
    assert "QuantizeLinear" not in {node.op_type for node in onnx.load(faster / "model.onnx").graph.node}


def test_bgr_and_a_frame_that_is_padded(jetson_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    padded = replace(SQUARE, resize_mode="border", channel_order="BGR", interpolation="bilinear", resize_size=(32, 32))
    text = (
        export(jetson_bundle(preprocessing=padded), tool="deepstream", output=tmp_path / "out").path / "nvinfer.txt"
    ).read_text()
    for line in ("model-color-format=1", "maintain-aspect-ratio=1", "symmetric-padding=1", "scaling-filter=1"):
        assert f"\n{line}\n" in text
    assert "pads with black; vitedge pads with (124, 116, 104)" in text


def test_a_whole_frame_needs_no_crop(jetson_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    whole = replace(SQUARE, resize_mode="squash", resize_size=(32, 32))
    text = (
        export(jetson_bundle(preprocessing=whole), tool="deepstream", output=tmp_path / "out").path / "nvinfer.txt"
    ).read_text()
    assert "src-crop" not in text
    assert "resizes the whole frame to 32x32, as vitedge does" in text


@pytest.mark.parametrize("target", ["cpu", "rtx"])
def test_what_deepstream_cannot_run_is_refused(
    jetson_bundle: Callable[..., Bundle], tmp_path: Path, target: str
) -> None:
    with pytest.raises(UsageError, match=f"was made for {target}") as caught:
        export(jetson_bundle(target=target), tool="deepstream", output=tmp_path / "out")
    assert "jetson-orin-nano" in caught.value.expected
    assert [each.name for each in tmp_path.iterdir()] == ["colour.bundle"]


@pytest.mark.parametrize(
    ("preprocessing", "frame", "expected"),
    [
        (Preprocessing(input_size=(224, 224), resize_size=(256, 256)), (1080, 1920), (490, 68, 946, 944)),
        (Preprocessing(input_size=(224, 224), resize_size=(256, 256)), (640, 480), (30, 108, 420, 420)),
        (
            Preprocessing(input_size=(224, 224), resize_size=(224, 224), resize_mode="squash"),
            (480, 640),
            (0, 0, 640, 480),
        ),
    ],
)
def test_the_window_of_a_frame_that_is_seen(
    preprocessing: Preprocessing, frame: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    assert window(preprocessing, *frame) == expected
