"""Hold images out of calibration: a quantized model is judged, and a precision chosen, by images not calibrated on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vitedge.calib.data.dataset import ImageDataset, ImageFile
from vitedge.counts import counted
from vitedge.errors import CalibrationError

HELD_OUT_SHARE = 8
"""One image in so many is held out."""
LEAST_HELD_OUT = 8
"""Fewer images say next to nothing: then none is held out."""
MOST_HELD_OUT = 64
LEAST_TO_SPLIT = HELD_OUT_SHARE * LEAST_HELD_OUT
"""Fewest images of which some are held out."""

SELECTION_SHARE = 4
"""One image in so many chooses a precision."""
LEAST_JUDGED = 50
"""Fewest images that may choose a precision: each counts 2 % then."""


def hold_out(images: ImageDataset, most: int) -> tuple[ImageDataset, ImageDataset | None]:
    """Split images: some to calibrate on, and an eighth, 8 to 64 images, that calibration does not see.

    Images beyond ``most`` are held out where they are more than an eighth, because calibration does not need them.

    Args:
        images: all images.
        most: largest number of images to calibrate on.

    Returns:
        The images to calibrate on, and the images held out; None where there are fewer than ``LEAST_TO_SPLIT``.
    """
    total = len(images)
    if total < LEAST_TO_SPLIT:
        return first_of(images, most), None
    return _split(images, min(MOST_HELD_OUT, max(total // HELD_OUT_SHARE, total - most)), most)


def split_selection(images: ImageDataset, most: int) -> tuple[ImageDataset, ImageDataset]:
    """Split images: some to calibrate on, and at least a quarter to choose a precision by, all that are left.

    Args:
        images: all images.
        most: largest number of images to calibrate on.

    Raises:
        CalibrationError: fewer than ``LEAST_JUDGED`` would choose.
    """
    total = len(images)
    selected = max(math.ceil(total / SELECTION_SHARE), total - most)
    if selected < LEAST_JUDGED:
        raise CalibrationError(
            f"{counted(total, 'image is too few', 'images are too few')} to calibrate on and to judge by others",
            expected=f"{SELECTION_SHARE * LEAST_JUDGED} or more, of which a quarter is held back",
            fix="eval_data=DIR, with images to judge by",
        )
    return _split(images, selected, most)


def _split(images: ImageDataset, count: int, most: int) -> tuple[ImageDataset, ImageDataset]:
    """Sample ``count`` images, and take at most ``most`` of the others; returns the others first."""
    sampled = sample(images, count)
    taken = set(sampled.files)
    return first_of(images.subset([file for file in images.files if file not in taken]), most), sampled


def sample(images: ImageDataset, count: int) -> ImageDataset:
    """Take at most so many images, as many of each class as its share, or frames from the whole length of a video."""
    by_class = sorted(images.files, key=lambda file: file.class_name)
    chosen = set(_spread(by_class, count))
    return images.subset([file for file in images.files if file in chosen])


def first_of(images: ImageDataset, most: int) -> ImageDataset:
    """Take at most so many images, in which classes take turns already, or frames from the whole length of a video."""
    is_video = images.files[0].frame is not None
    return images.subset(_spread(images.files, most) if is_video else images.files[:most])


def _spread(files: Sequence[ImageFile], count: int) -> Sequence[ImageFile]:
    """Take ``count`` files, evenly spread from the first to the last."""
    if count >= len(files):
        return files
    last = len(files) - 1
    return [files[round(place * last / max(count - 1, 1))] for place in range(count)]
