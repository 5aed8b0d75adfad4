"""Hold images out of calibration, so that a quantized model can be judged on images that it was not calibrated on."""

from __future__ import annotations

from collections.abc import Sequence

from vitedge.calib.data.dataset import ImageDataset, ImageFile

HELD_OUT_SHARE = 8
"""One image in so many is held out."""
LEAST_HELD_OUT = 8
"""Fewer images say next to nothing: then none is held out."""
MOST_HELD_OUT = 64
LEAST_TO_SPLIT = HELD_OUT_SHARE * LEAST_HELD_OUT
"""Fewest images of which some are held out."""


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
    held_out = sample(images, min(MOST_HELD_OUT, max(total // HELD_OUT_SHARE, total - most)))
    taken = set(held_out.files)
    return first_of(images.subset([file for file in images.files if file not in taken]), most), held_out


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
