"""The images of a request: which serve calibration, which the bundle is compared with fp32 on, and what is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("torch")

import clips

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.bundle.targets import Precision, target_named
from vitedge.calib.data.splits import LEAST_TO_SPLIT
from vitedge.converters.precision_gate import GateFrames
from vitedge.converters.request import Contract, ModelOptions, Request
from vitedge.converters.sources.parse import parse_source
from vitedge.converters.stages.datasets import (
    COMPARED_IMAGES,
    Datasets,
    choose_gate_frames,
    choose_probes,
    find_datasets,
    is_calibrated,
    note_few_images,
    read_photos,
)
from vitedge.progress import Silent

PREPROCESSING = Preprocessing((16, 16), (16, 16))


class Steps(Silent):
    """Keeps the steps."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)


def write_images(folder: Path, count: int, *, copies: bool = False) -> Path:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number}.png"
        if copies and number:
            shutil.copy(folder / "0.png", path)
        else:
            Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder


def request(calib: Path | None, precision: Precision = "int8", contract: Contract | None = None) -> Request:
    options = ModelOptions(None, False, None, None, None, None)
    values: dict[str, Any] = {"activation": None, "eval_data": None, "abstain_error": None, "output": Path("b")}
    source, target = parse_source("timm:test_vit"), target_named("cpu")
    return Request(source, target, precision, contract, options, calib=calib, **values)


def gate(asked: Request) -> tuple[GateFrames, Datasets, list[str]]:
    """The frames that the bundle is compared on, the images of the request, and what was said."""
    datasets, progress = find_datasets(asked), Steps()
    if is_calibrated(asked):
        note_few_images(datasets, progress)
    photos = read_photos(datasets.calibration, PREPROCESSING, progress)
    probes = choose_probes(photos, PREPROCESSING)
    calibrated = is_calibrated(asked)
    frames = choose_gate_frames(datasets, photos, probes, PREPROCESSING, progress, calibrated=calibrated)
    return frames, datasets, progress.steps


def pixels(frames: Any) -> set[bytes]:
    return {frame.tobytes() for frame in frames}


def test_an_eighth_is_held_out_of_calibration_and_compared(tmp_path: Path) -> None:
    found, datasets, steps = gate(request(write_images(tmp_path / "images", 80)))
    assert (found.inputs, len(found.frames)) == ("held_out", 10)
    assert datasets.calibration is not None
    calibrated = read_photos(datasets.calibration, PREPROCESSING, Silent())
    assert calibrated is not None
    assert len(calibrated) == 70
    assert not pixels(found.frames) & pixels(calibrated.frames)
    assert "reading 10 images more, held out of calibration to compare with fp32 on" in steps


def test_too_few_images_are_compared_as_well_and_it_is_said(tmp_path: Path) -> None:
    found, datasets, steps = gate(request(write_images(tmp_path / "images", LEAST_TO_SPLIT - 1)))
    assert (found.inputs, len(found.frames)) == ("calibration", LEAST_TO_SPLIT - 1)
    assert datasets.calibration is not None
    assert len(datasets.calibration) == LEAST_TO_SPLIT - 1
    assert any("images of the calibration serve to compare with fp32" in step and "64" in step for step in steps)


def test_copies_of_calibration_images_are_not_images_that_calibration_has_not_used(tmp_path: Path) -> None:
    found, _, _ = gate(request(write_images(tmp_path / "images", 80, copies=True)))
    assert found.inputs == "calibration"


def test_images_held_out_that_cannot_be_read_are_as_good_as_none(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 80)
    held_out = find_datasets(request(folder)).held_out
    assert held_out is not None
    for file in held_out.files[:5]:
        file.path.write_bytes(b"no image")
    assert gate(request(folder))[0].inputs == "calibration"
    for file in held_out.files:
        file.path.write_bytes(b"no image")
    assert gate(request(folder))[0].inputs == "calibration"


def test_a_precision_without_calibration_is_compared_on_all_images(tmp_path: Path) -> None:
    found, _, steps = gate(request(write_images(tmp_path / "images", 80), "fp16"))
    assert (found.inputs, len(found.frames)) == ("held_out", COMPARED_IMAGES)
    assert not any("calibrat" in step for step in steps)


def test_without_images_synthetic_frames_are_compared() -> None:
    found, _, _ = gate(request(None, "fp16"))
    assert (found.inputs, len(found.frames)) == ("synthetic", 8)


def test_images_that_choose_the_precision_are_compared_too(tmp_path: Path) -> None:
    """They are not those of the calibration."""
    folder = write_images(tmp_path / "images", 300)
    found, datasets, _ = gate(request(folder, contract=Contract(5.0, None)))
    assert datasets.calibration is not None
    assert datasets.selection is not None
    assert (len(datasets.calibration), len(datasets.selection)) == (225, 75)
    assert (found.inputs, len(found.frames)) == ("held_out", 64)


@pytest.mark.parametrize("frames", [20, 180])
def test_a_video_shorter_than_the_images_asked_for(frames: int, tmp_path: Path) -> None:
    clip = clips.write_clip(tmp_path / "clip.avi", frames)
    found, datasets, steps = gate(request(clip))
    assert datasets.calibration is not None
    used = len(datasets.calibration)
    assert (used, found.inputs) == ((20, "calibration") if frames == 20 else (158, "held_out"))
    assert f"note: {clip} gives {used} images to calibrate on; 300 give dependable ranges" in steps
