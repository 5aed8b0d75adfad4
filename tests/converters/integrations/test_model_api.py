"""An IR for Model API that preprocesses as the bundle does, with what was measured and what cannot be matched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import COLOURS, colour_frame
from PIL import Image

import vitedge
from vitedge.bundle.accuracy_records import ConfidenceRecord, ThresholdsRecord
from vitedge.bundle.bundle import Bundle
from vitedge.converters.integrations.export import export
from vitedge.errors import CalibrationError, UsageError

openvino = pytest.importorskip("openvino")
TEMPERATURE = ConfidenceRecord(2.0, 0.4, None, 100.0, 90.0, 5.0, 1.0, 100, "0" * 64)
THRESHOLDS = ThresholdsRecord((0.3, 0.3, 0.3), None, 3, 50.0, 60.0, 100, "0" * 64)


def logits_of(folder: Path, frame: Any) -> Any:
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([frame[None]])["logits"][0]


def info_of(folder: Path) -> dict[str, str]:
    model = openvino.Core().read_model(folder / "model.xml")
    return {key: value.astype(str) for key, value in model.get_rt_info(["model_info"]).astype(dict).items()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, colour in enumerate(COLOURS):
        pixels = colour_frame(colour, height=48 + seed, width=64, order="RGB", seed=seed)
        Image.fromarray(pixels).save(folder / f"{colour}.png")
    return folder


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_images_of_any_size_give_the_logits_of_the_bundle(
    make_bundle: Callable[..., Bundle], tmp_path: Path, precision: str
) -> None:
    bundle = make_bundle(tmp_path / "colour.bundle", precision=precision, confidence=TEMPERATURE)
    folder = export(bundle, tool="model-api", output=tmp_path / "out").path
    assert {each.name for each in folder.iterdir()} == {"model.xml", "model.bin"}
    with vitedge.load(bundle) as classifier:
        for colour, sides in zip(COLOURS, ((40, 50), (33, 90), (200, 64)), strict=True):
            frame = colour_frame(colour, height=sides[0], width=sides[1])
            ours = classifier.logits(frame) / TEMPERATURE.temperature
            np.testing.assert_allclose(logits_of(folder, frame), ours, atol=0.02)


def test_model_api_answers_as_the_bundle(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    models = pytest.importorskip("model_api.models", reason="pip install openvino-model-api")
    bundle = make_bundle(tmp_path / "colour.bundle", confidence=TEMPERATURE)
    folder = export(bundle, tool="model-api", output=tmp_path / "out").path
    model = models.Model.create_model(str(folder / "model.xml"), device="CPU")
    with vitedge.load(bundle) as classifier:
        for colour in COLOURS:
            frame = colour_frame(colour, height=70, width=45)
            ours, (best, *_) = classifier.classify(frame), model(frame).top_labels
            assert (best.name, best.id) == (ours.label, COLOURS.index(colour))
            assert best.confidence == pytest.approx(ours.score, abs=0.01)


def test_the_agreement_is_measured(tiny_bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    notes = export(tiny_bundle, tool="model-api", data=photos, output=tmp_path / "out").notes
    assert any("the same best class as the bundle on 3 of 3 images (100.0 %" in note for note in notes)


def test_a_model_that_answers_otherwise_is_not_said_to_agree(
    tiny_bundle: Bundle, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitedge.converters.integrations import frame_graph

    monkeypatch.setattr(frame_graph, "_ordered", lambda image, _: image)
    notes = export(tiny_bundle, tool="model-api", data=photos, output=tmp_path / "out").notes
    assert any("on 1 of 3 images" in note for note in notes)  # green, whose channel is in the middle


def test_without_photos_nothing_is_claimed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    notes = export(tiny_bundle, tool="model-api", output=tmp_path / "out").notes
    assert any("was not measured" in note for note in notes)


def test_photos_that_cannot_be_read(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(CalibrationError):
        export(tiny_bundle, tool="model-api", data=tmp_path / "photos", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_photos_are_for_model_api_alone(tiny_bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data= is for model-api"):
        export(tiny_bundle, tool="triton", data=photos, output=tmp_path / "out")


def test_the_graph_preprocesses_and_model_api_does_not(tiny_bundle: Bundle, tmp_path: Path) -> None:
    info = info_of(export(tiny_bundle, tool="model-api", output=tmp_path / "out").path)
    assert info["embedded_processing"] == "True"
    assert info["reverse_input_channels"] == "NO"
    assert info["labels"] == "red green blue"
    assert "resize_type" not in info


@pytest.mark.parametrize(("thresholds", "written"), [((0.3,) * 3, "0.3"), ((0.3, 0.6, 0.3), "0.5")])
def test_one_threshold_for_all_labels(
    make_bundle: Callable[..., Bundle], tmp_path: Path, thresholds: tuple[float, ...], written: str
) -> None:
    record = replace(THRESHOLDS, thresholds=thresholds)
    bundle = make_bundle(tmp_path / "tags.bundle", activation="sigmoid", thresholds=record)
    exported = export(bundle, tool="model-api", output=tmp_path / "out")
    assert info_of(exported.path)["confidence_threshold"] == written
    assert any("one threshold for all labels" in note for note in exported.notes) == (written == "0.5")


def test_what_cannot_be_matched_is_told(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "colour.bundle", labels=("dark red", "green", "blue"), confidence=TEMPERATURE)
    preprocessing = replace(bundle.manifest.model.preprocessing, interpolation="lanczos")
    manifest = replace(bundle.manifest, model=replace(bundle.manifest.model, preprocessing=preprocessing))
    notes = " ".join(export(replace(bundle, manifest=manifest), tool="model-api", output=tmp_path / "out").notes)
    for told in ("no lanczos filter", "IMREAD_IGNORE_ORIENTATION", "underscores", "never abstains"):
        assert told in notes


def test_a_slim_bundle_is_enough(tiny_bundle: Bundle, tmp_path: Path) -> None:
    slim = export(tiny_bundle, tool="device", output=tmp_path / "slim.bundle").path
    assert (export(slim, tool="model-api", output=tmp_path / "out").path / "model.xml").is_file()


def test_a_bundle_for_tensorrt(tiny_bundle: Bundle, tmp_path: Path) -> None:
    other = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, target="jetson-orin-nx"))
    with pytest.raises(UsageError, match="was made for jetson-orin-nx"):
        export(other, tool="model-api", output=tmp_path / "out")
