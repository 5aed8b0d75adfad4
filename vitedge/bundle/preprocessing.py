"""Preprocessing between the camera and the first layer: its parameters and its geometry.

``vitedge.runtime.preprocess`` executes it. Converters read the parameters from a checkpoint's own configuration.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Literal, get_args

from vitedge.errors import UsageError
from vitedge.safety.limits import INPUT_SIDE

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
ResizeMode = Literal["shortest", "squash", "border"]
ChannelOrder = Literal["RGB", "BGR"]
CropRounding = Literal["half_even", "floor"]

INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
CHANNEL_ORDERS: tuple[ChannelOrder, ...] = get_args(ChannelOrder)
RESIZE_MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)
CROP_ROUNDINGS: tuple[CropRounding, ...] = get_args(CropRounding)

LEAST_STD, LARGEST_STD = 1e-6, 1e6
"""Outside this range, normalized pixels overflow 16-bit floats or vanish."""


@dataclass(frozen=True)
class Geometry:
    """Resize and crop for frames of one size.

    The frame is resized to ``resized``. Then the window of the input's size is cut out at ``offset``. ``offset`` is
    negative if the resized frame is smaller than the input and is padded.

    Attributes:
        resized: (height, width) in pixels after resizing.
        offset: (top, left) of the input window in the resized frame.
    """

    resized: tuple[int, int]
    offset: tuple[int, int]


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, channel order and normalization, as the evaluation transforms of timm and Transformers define them.

    Attributes:
        input_size: (height, width) of the network's input in pixels.
        resize_size: (height, width) that the frame is resized to before the crop; timm's ``input_size / crop_pct``.
        resize_mode: ``shortest`` keeps the aspect ratio and covers ``resize_size``; ``squash`` ignores the aspect
            ratio; ``border`` keeps it, fits inside ``resize_size`` and pads.
        interpolation: resampling filter, in Pillow's definition (antialiased).
        mean: per channel, on the 0…1 scale, in ``channel_order``.
        std: per channel, on the 0…1 scale, in ``channel_order``.
        channel_order: order of the channels in the network's input.
        crop_rounding: rounding of half an odd margin: ``half_even`` as in torchvision and timm, ``floor`` as in
            Transformers.
        exif_orientation: turn an image by its EXIF orientation, and a video by its rotation, before the resize, as
            Transformers does; timm and torchvision take the pixels as they are stored.
    """

    input_size: tuple[int, int]
    resize_size: tuple[int, int]
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channel_order: ChannelOrder = "RGB"
    crop_rounding: CropRounding = "half_even"
    exif_orientation: bool = False

    def __post_init__(self) -> None:
        _check_sizes(self.input_size, self.resize_size)
        if not _is_tuple(self.std, 3, int, float) or not all(LEAST_STD <= each <= LARGEST_STD for each in self.std):
            raise _wrong("std", self.std, f"three numbers from {LEAST_STD:g} to {LARGEST_STD:g}")
        if not _is_tuple(self.mean, 3, int, float) or not all(0.0 <= each <= 1.0 for each in self.mean):
            raise _wrong("mean", self.mean, "three numbers on the 0…1 scale")
        for name, word, known in (
            ("resize_mode", self.resize_mode, RESIZE_MODES),
            ("interpolation", self.interpolation, INTERPOLATIONS),
            ("channel_order", self.channel_order, CHANNEL_ORDERS),
            ("crop_rounding", self.crop_rounding, CROP_ROUNDINGS),
        ):
            if word not in known:
                raise _wrong(name, word, f"one of {', '.join(known)}")

    @property
    def padding(self) -> tuple[int, int, int]:
        """Colour around a frame that does not cover the input, in ``channel_order``, 0…255.

        In ``border`` mode it is the mean (timm's ``transforms_imagenet_eval``), else black (torchvision's
        ``CenterCrop``).
        """
        if self.resize_mode == "border":
            return (round(255 * self.mean[0]), round(255 * self.mean[1]), round(255 * self.mean[2]))
        return (0, 0, 0)

    def geometry(self, height: int, width: int) -> Geometry:
        """Return the geometry for frames of ``height`` × ``width`` pixels.

        Rounding follows torchvision's ``Resize`` and ``CenterCrop`` and timm's ``ResizeKeepRatio`` and
        ``CenterCropOrPad`` (timm/data/transforms.py), or ``center_crop`` of Transformers (image_transforms.py). A side
        that rounds to 0, which timm refuses, becomes 1 pixel.
        """
        resized = self._resized(height, width)
        centered = _centered if self.crop_rounding == "half_even" else _centered_down
        offset = (centered(resized[0], self.input_size[0]), centered(resized[1], self.input_size[1]))
        return Geometry(resized=resized, offset=offset)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        target_height, target_width = self.resize_size
        if self.resize_mode == "squash":
            return self.resize_size
        if self.resize_mode == "shortest" and target_height == target_width:
            return _shortest_side(height, width, target_height)
        ratios = (height / target_height, width / target_width)
        ratio = max(ratios) if self.resize_mode == "border" else min(ratios)
        return (max(1, round(height / ratio)), max(1, round(width / ratio)))


def _is_tuple(value: object, length: int, *kinds: type) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == length
        and all(isinstance(each, kinds) and not isinstance(each, bool) for each in value)
    )


def _check_sizes(*sizes: tuple[int, int]) -> None:
    if not all(_is_tuple(size, 2, int) and all(1 <= side <= INPUT_SIDE for side in size) for size in sizes):
        raise UsageError(
            f"preprocessing sizes are {' and '.join(f'{size!r:.40}' for size in sizes)}",
            expected=f"height and width, each 1 to {INPUT_SIDE} pixels",
        )


def _wrong(name: str, value: object, expected: str) -> UsageError:
    return UsageError(f"preprocessing {name} is {value!r:.80}", expected=expected)


def _shortest_side(height: int, width: int, side: int) -> tuple[int, int]:
    if height <= width:
        return (side, int(side * width / height))
    return (int(side * height / width), side)


def _centered(size: int, window: int) -> int:
    if size < window:
        return -((window - size) // 2)
    return round((size - window) / 2.0)


def _centered_down(size: int, window: int) -> int:
    return (size - window) // 2


def resize_size_for(input_size: tuple[int, int], crop_pct: float) -> tuple[int, int]:
    """Return timm's size before the crop: ``floor(side / crop_pct)`` for each side.

    Raises:
        UsageError: ``input_size`` exceeds ``INPUT_SIDE``, or ``crop_pct`` is not positive or too small.
    """
    _check_sizes(input_size)
    if not max(input_size) / sys.maxsize < crop_pct < math.inf:
        raise _wrong("crop_pct", crop_pct, "a positive number")
    return (math.floor(input_size[0] / crop_pct), math.floor(input_size[1] / crop_pct))
