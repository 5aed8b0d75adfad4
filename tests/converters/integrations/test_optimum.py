"""A folder that optimum-intel and the pipelines of Transformers load, with the answers of the bundle."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vitedge
from vitedge.bundle.accuracy_records import ConfidenceRecord
from vitedge.bundle.bundle import OPENVINO_XML, Bundle
from vitedge.converters.integrations.export import export
from vitedge.converters.integrations.optimum import pixel_values
from vitedge.errors import ConversionError, UsageError

openvino = pytest.importorskip("openvino")
FILES = {"openvino_model.xml", "openvino_model.bin", "config.json", "preprocessor_config.json"}
TEMPERATURE = ConfidenceRecord(2.0, 0.0, None, 100.0, 90.0, 5.0, 1.0, 100, "0" * 64)


def logits_of(folder: Path, pixels: NDArray[np.float32], shape: list[int] | None = None) -> NDArray[np.float32]:
    """Compute in float32, one image at a time."""
    core = openvino.Core()
    model = core.read_model(folder / "openvino_model.xml")
    if shape is not None:
        model.reshape(openvino.PartialShape(shape))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([compiled({"pixel_values": each[None]})["logits"] for each in pixels])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_normalized_pixels_give_the_logits_of_the_bundle(
    make_bundle: Callable[..., Bundle], tmp_path: Path, precision: str, order: str
) -> None:
    bundle = make_bundle(tmp_path / "colour.bundle", precision=precision)
    preprocessing = replace(
        bundle.manifest.model.preprocessing, channel_order=order, mean=(0.5, 0.25, 0.125), std=(0.5, 0.3, 0.2)
    )
    changed = replace(bundle.manifest, model=replace(bundle.manifest.model, preprocessing=preprocessing))
    folder = export(replace(bundle, manifest=changed), tool="optimum", output=tmp_path / "out").path
    assert {each.name for each in folder.iterdir()} == FILES
    golden = bundle.golden()
    pixels = pixel_values(golden.frames, preprocessing)
    for shape in (None, [-1, -1, -1, -1]):  # optimum makes every side dynamic unless told otherwise
        np.testing.assert_allclose(logits_of(folder, pixels, shape), golden.logits, atol=2e-3)


def test_int8_stays_int8(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "colour.bundle", precision="int8")
    folder = export(bundle, tool="optimum", output=tmp_path / "out").path
    assert (
        _in_bytes(folder / "openvino_model.xml")
        == _in_bytes(bundle.file(OPENVINO_XML))
        == {
            "Convolution": 1,
            "FullyConnected": 1,
        }
    )


def _in_bytes(model: Path) -> dict[str, int]:
    """Count the layers with weights that OpenVINO computes from 8-bit integers."""
    layers = [node.get_rt_info() for node in openvino.Core().compile_model(model, "CPU").get_runtime_model().get_ops()]
    kinds = [each["layerType"].astype(str) for each in layers if each["runtimePrecision"].astype(str) in ("u8", "i8")]
    return dict(Counter(kind for kind in kinds if kind in ("Convolution", "FullyConnected")))


def test_scores_have_the_temperature_of_the_bundle(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "colour.bundle", confidence=TEMPERATURE)
    folder = export(bundle, tool="optimum", output=tmp_path / "out").path
    golden = bundle.golden()
    halves = logits_of(folder, pixel_values(golden.frames, bundle.manifest.model.preprocessing))
    np.testing.assert_allclose(halves, golden.logits / 2, atol=1e-3)


@pytest.mark.parametrize(
    ("activation", "problem"),
    [("softmax", "single_label_classification"), ("sigmoid", "multi_label_classification")],
)
def test_transformers_reads_labels_and_problem(
    make_bundle: Callable[..., Bundle], tmp_path: Path, activation: str, problem: str
) -> None:
    transformers = pytest.importorskip("transformers")
    labels = ('red "fox"', "gr\u00fcn", "\u202eder")
    bundle = make_bundle(tmp_path / "colour.bundle", activation=activation, labels=labels)
    folder = export(bundle, tool="optimum", output=tmp_path / "out").path
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.id2label == dict(enumerate(labels))
    assert config.label2id == {label: index for index, label in enumerate(labels)}
    assert (config.problem_type, config.num_labels) == (problem, 3)


def test_a_bundle_of_tensorrt_is_refused(tmp_path: Path) -> None:
    from tensorrt_bundles import make_tensorrt_bundle

    bundle = make_tensorrt_bundle(tmp_path / "colour.bundle", target="nvidia-gpu")
    with pytest.raises(UsageError, match="optimum-intel runs OpenVINO"):
        export(bundle, tool="optimum", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_fails_the_self_test_is_not_written(tiny_bundle: Bundle, tmp_path: Path) -> None:
    preprocessing = replace(tiny_bundle.manifest.model.preprocessing, std=(1.0, 1.0, 1e6), mean=(1.0, 0.0, 0.0))
    model = replace(tiny_bundle.manifest.model, preprocessing=preprocessing)
    golden = replace(tiny_bundle.manifest.golden, min_sqnr_db=150.0)
    wrong = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, model=model, golden=golden))
    with pytest.raises(ConversionError, match="dB against the golden logits"):
        export(wrong, tool="optimum", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_optimum_and_the_pipeline_answer_as_vitedge(
    tiny_bundle: Bundle, colour_frame: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    intel: Any = pytest.importorskip("optimum.intel", reason="pip install 'optimum-intel[openvino]'")
    from transformers import AutoImageProcessor, pipeline

    folder = export(tiny_bundle, tool="optimum", output=tmp_path / "out").path
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    model = intel.OVModelForImageClassification.from_pretrained(folder, dynamic_shapes=False, ov_config=hints)
    classify = pipeline("image-classification", model, image_processor=AutoImageProcessor.from_pretrained(folder))
    with vitedge.load(tiny_bundle) as classifier:
        for colour in json.loads((folder / "config.json").read_text())["label2id"]:
            frame = colour_frame(colour, height=50, width=71)
            best, ours = classify(Image.fromarray(frame[..., ::-1]))[0], classifier.classify(frame)
            assert best["label"] == ours.label == colour
            assert best["score"] == pytest.approx(ours.score, abs=5e-3)
