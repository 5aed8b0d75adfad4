"""The images that a request names, and the frames that every graph and engine is compared on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vitedge.bundle.model_card import ModelCard
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.dataset import CALIBRATION_IMAGES, CalibrationImages, ImageDataset
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.data.label_file import LABEL_FILE_SUFFIX, read_label_file
from vitedge.calib.data.leakage import shared_images
from vitedge.calib.data.open import open_dataset
from vitedge.calib.data.splits import (
    LEAST_HELD_OUT,
    LEAST_JUDGED,
    LEAST_TO_SPLIT,
    MOST_HELD_OUT,
    hold_out,
    sample,
    split_selection,
)
from vitedge.calib.evaluation.multilabel import label_targets
from vitedge.calib.evaluation.score_calibration import check_image_count
from vitedge.converters.precision_gate import GateFrames
from vitedge.converters.request import Request
from vitedge.converters.verify import Frames, golden_frames, synthetic_frames
from vitedge.counts import counted
from vitedge.errors import CalibrationError
from vitedge.progress import Progress
from vitedge.safety.files import is_file

COMPARED_IMAGES = 64
FEW_IMAGES = CALIBRATION_IMAGES * 2 // 3
"""Fewer images to calibrate on give a note."""


@dataclass(frozen=True)
class Datasets:
    """The images that a request names, not yet read.

    Attributes:
        calibration: for ranges and golden vectors.
        evaluation: to measure accuracy on; none of them chooses anything.
        selection: to choose the precision by, for the precision ``auto``.
        held_out: to compare the bundle with fp32 on; calibration uses none of them. None where nothing is calibrated,
            or where too few images are given.
    """

    calibration: ImageDataset | None
    evaluation: ImageFolder | None
    selection: ImageDataset | None
    held_out: ImageDataset | None

    def of(self, card: ModelCard) -> Datasets:
        """Return the same images, with folders that are named by a class's ID named by its label."""
        evaluation, selection = self.evaluation, self.selection
        return replace(
            self,
            evaluation=None if evaluation is None else evaluation.by_label(card.labels, card.class_ids),
            selection=selection.by_label(card.labels, card.class_ids)
            if isinstance(selection, ImageFolder)
            else selection,
        )


@dataclass(frozen=True)
class Probes:
    """The inputs that graphs and engines are compared on.

    Attributes:
        frames: ``(N,H,W,3)`` uint8, preprocessed; the first of them become golden vectors.
        inputs: ``images`` if they are photos, else ``synthetic``.
    """

    frames: Frames
    inputs: Literal["images", "synthetic"]

    @property
    def golden(self) -> Frames:
        """Return the frames that the bundle keeps."""
        return golden_frames(self.frames)


def find_datasets(request: Request) -> Datasets:
    """List the images before a model is loaded, so that a wrong folder is known at once.

    Raises:
        CalibrationError: a folder holds no images, or too few.
        FrameSourceError: the file to calibrate on is no video that can be read.
    """
    evaluation = None if request.eval_data is None else _evaluation_images(request.eval_data)
    if request.contract is not None and request.calib is not None and evaluation is None:
        used, others = split_selection(open_dataset(request.calib), CALIBRATION_IMAGES)
        return Datasets(used, None, selection=others, held_out=sample(others, MOST_HELD_OUT))
    calibration, held_out = (None, None) if request.calib is None else _given_images(request, request.calib)
    selection = None
    if evaluation is not None and request.contract is not None:
        selection, evaluation = _halves(evaluation)
    if request.abstain_error is not None and request.eval_data is not None:
        check_image_count(0 if evaluation is None else len(evaluation))
    return Datasets(calibration, evaluation, selection, held_out)


def _given_images(request: Request, path: Path) -> tuple[ImageDataset, ImageDataset | None]:
    """Open the images to calibrate on or, without calibration, to compare on; and those held out."""
    if is_calibrated(request):
        return hold_out(open_dataset(path), CALIBRATION_IMAGES)
    return open_dataset(path, limit=COMPARED_IMAGES), None


def is_calibrated(request: Request) -> bool:
    """Return whether the precision needs calibration."""
    return request.precision in ("int8", "fp8")


def _halves(images: ImageFolder) -> tuple[ImageFolder, ImageFolder | None]:
    """Split evaluation images: one half chooses the precision, the other measures what was chosen.

    Fewer than ``2 * LEAST_JUDGED`` images all choose, and nothing is measured: what chose flatters the choice. The
    images take turns by class, so that both halves hold every class.
    """
    half = len(images) // 2
    if half < LEAST_JUDGED:
        return images, None
    return images.subset(images.files[:half]), images.subset(images.files[half:])


def _evaluation_images(path: Path) -> ImageFolder:
    """Open a folder with one folder a class, or a label file."""
    is_label_file = path.suffix.lower() == LABEL_FILE_SUFFIX and is_file(path)
    return read_label_file(path) if is_label_file else ImageFolder.open(path)


def check_evaluation_images(images: ImageFolder, card: ModelCard) -> None:
    """Refuse images whose classes or labels are unknown, or are none of the model.

    Raises:
        CalibrationError: they are.
    """
    if card.is_multilabel:
        label_targets(images.files, card.labels)
    else:
        images.class_to_idx(card.labels)


def note_few_images(datasets: Datasets, progress: Progress) -> None:
    """Tell of a folder or a video that has fewer images to calibrate on than give dependable ranges."""
    images = datasets.calibration
    if images is not None and 1 < len(images) < FEW_IMAGES:
        progress.step(
            f"note: {images.path} gives {counted(len(images), 'image')} to calibrate on; {CALIBRATION_IMAGES} give "
            "dependable ranges"
        )


def read_photos(
    images: ImageDataset | None, preprocessing: Preprocessing, progress: Progress
) -> CalibrationImages | None:
    """Read and preprocess the calibration images; None where there are none.

    Raises:
        CalibrationError: no image can be read.
    """
    if images is None:
        return None
    progress.step(f"reading {counted(len(images), 'image')} of {images.path}")
    return images.load(preprocessing, progress)


def choose_probes(photos: CalibrationImages | None, preprocessing: Preprocessing) -> Probes:
    """Take the first photos, or synthetic frames where there are no photos."""
    if photos is None:
        return Probes(synthetic_frames(preprocessing.input_size), "synthetic")
    return Probes(photos.frames[:COMPARED_IMAGES], "images")


def choose_gate_frames(
    datasets: Datasets,
    photos: CalibrationImages | None,
    probes: Probes,
    preprocessing: Preprocessing,
    progress: Progress,
    *,
    calibrated: bool,
) -> GateFrames:
    """Read the images that the bundle is compared with fp32 on: those held out of calibration, where there are some.

    Args:
        datasets: the images that the request names.
        photos: the calibration images, or the images to compare on where nothing is calibrated; None without images.
        probes: frames of the photos, or synthetic frames.
        preprocessing: of the model.
        progress: told what the bundle is compared on.
        calibrated: whether the photos serve calibration.
    """
    if photos is None or not calibrated:
        return GateFrames(probes.frames, "synthetic" if photos is None else "held_out")
    held_out = _read_held_out(datasets.held_out, photos, preprocessing, progress)
    if held_out is not None:
        return GateFrames(held_out.frames, "held_out")
    progress.step(
        f"note: images of the calibration serve to compare with fp32 on too, because {LEAST_TO_SPLIT} different images "
        "are needed to hold some out"
    )
    return GateFrames(probes.frames, "calibration")


def _read_held_out(
    images: ImageDataset | None, photos: CalibrationImages, preprocessing: Preprocessing, progress: Progress
) -> CalibrationImages | None:
    """Read the images held out, without copies of calibration images; None where too few of them remain."""
    if images is None:
        return None
    copies = set(shared_images(photos.files, images.files))
    fresh = images.subset([file for file in images.files if file not in copies])
    if len(fresh) < LEAST_HELD_OUT:
        return None
    progress.step(f"reading {counted(len(fresh), 'image')} more, held out of calibration to compare with fp32 on")
    try:
        read = fresh.load(preprocessing, progress)
    except CalibrationError:  # not one of them can be read
        return None
    return read if len(read) >= LEAST_HELD_OUT else None
