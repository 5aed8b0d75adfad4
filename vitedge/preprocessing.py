"""What happens to an image between the camera and the first layer: the noun, and its geometry.

The runtime carries it out (``vitedge.runtime.preprocess``); converters read it from a checkpoint's own configuration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from vitedge.errors import UsageError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
ResizeMode = Literal["shortest", "squash", "border"]
ChannelOrder = Literal["RGB", "BGR"]
CropRounding = Literal["half_even", "floor"]

INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
CHANNEL_ORDERS: tuple[ChannelOrder, ...] = get_args(ChannelOrder)


@dataclass(frozen=True)
class Geometry:
    """Where the pixels of the network's input come from, for frames of one size.

    The frame is resized to ``resized`` and the window of the input size whose corner is ``offset`` is cut out of
    it; ``offset`` is negative where the resized frame is smaller than the input and is padded.

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
        channel_order: the order in which the network was trained to read the channels.
        crop_rounding: where the crop begins if its margin is odd: ``half_even`` rounds half of it as torchvision and
            timm do, ``floor`` as Transformers does.
    """

    input_size: tuple[int, int]
    resize_size: tuple[int, int]
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channel_order: ChannelOrder = "RGB"
    crop_rounding: CropRounding = "half_even"

    def __post_init__(self) -> None:
        if min(*self.input_size, *self.resize_size) < 1:
            raise UsageError(
                f"preprocessing sizes are {self.input_size} and {self.resize_size}",
                expected="positive pixels",
            )
        if min(self.std) <= 0:
            raise UsageError(f"preprocessing std is {self.std}", expected="three positive numbers")
        if not all(0.0 <= value <= 1.0 for value in self.mean):
            raise UsageError(f"preprocessing mean is {self.mean}", expected="three numbers on the 0…1 scale")

    @property
    def padding(self) -> tuple[int, int, int]:
        """Colour around a frame that does not cover the input, in ``channel_order``.

        The mean in ``border`` mode (timm's ``transforms_imagenet_eval``), else black (torchvision's ``CenterCrop``).
        """
        if self.resize_mode == "border":
            return (round(255 * self.mean[0]), round(255 * self.mean[1]), round(255 * self.mean[2]))
        return (0, 0, 0)

    def geometry(self, height: int, width: int) -> Geometry:
        """Sizes and offsets for frames of ``height`` × ``width`` pixels.

        Rounding follows torchvision's ``Resize`` and ``CenterCrop`` and timm's ``ResizeKeepRatio`` and
        ``CenterCropOrPad`` (timm/data/transforms.py), or ``center_crop`` of Transformers (image_transforms.py); a side
        that rounds to nothing, which timm refuses, is 1 pixel.
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
    """timm's size before the crop: ``floor(side / crop_pct)`` for each side."""
    return (math.floor(input_size[0] / crop_pct), math.floor(input_size[1] / crop_pct))
