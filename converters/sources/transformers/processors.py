"""Read the configuration of Transformers' image processors as data, without running code from a checkpoint.

The reference is each processor's Pillow implementation (``ViTImageProcessorPil`` in Transformers 5; earlier versions
omit the suffix). The torchvision implementations differ by up to 1 of 255, and place an image that is smaller than the
crop one pixel further up or left if the margin is odd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from vitedge.bundle.preprocessing import Interpolation, Preprocessing, ResizeMode, resize_size_for
from vitedge.converters.sources.model_limits import check_config_numbers
from vitedge.errors import CheckpointError, UsageError, did_you_mean
from vitedge.safety.limits import INPUT_SIDE

PROCESSOR_CONFIG = "preprocessor_config.json"

Triple = tuple[float, float, float]
Size = tuple[int, int]

HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)

COMMON: Mapping[str, Any] = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "default_to_square": True,
}
"""Defaults of all processors, unless their class or the JSON says otherwise."""

PROCESSORS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ViTImageProcessor": {"size": 224, "resample": 2, "image_mean": HALF, "image_std": HALF},
        "DeiTImageProcessor": {
            "size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224, "image_mean": HALF, "image_std": HALF,
        },
        "BeitImageProcessor": {
            "size": 224, "resample": 3, "crop_size": 224, "image_mean": HALF, "image_std": HALF,
        },
        "PvtImageProcessor": {
            "size": 224, "resample": 3, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD,
        },
        "LevitImageProcessor": {
            "size": 224, "default_to_square": False, "resample": 3, "do_center_crop": True, "crop_size": 224,
            "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD,
        },
        "BitImageProcessor": {
            "size": 224, "default_to_square": False, "resample": 3, "do_center_crop": True, "crop_size": 224,
            "image_mean": CLIP_MEAN, "image_std": CLIP_STD,
        },
        "MobileViTImageProcessor": {
            "size": 224, "default_to_square": False, "resample": 3, "do_center_crop": True, "crop_size": 256,
            "do_flip_channel_order": True,
        },
        "ConvNextImageProcessor": {
            "size": 384, "default_to_square": False, "resample": 3, "crop_pct": 224 / 256, "image_mean": HALF,
            "image_std": HALF,
        },
    }
)  # fmt: skip
"""Supported processors, with the defaults of their classes."""

MOBILEVIT, LEVIT, CONVNEXT = "MobileViTImageProcessor", "LevitImageProcessor", "ConvNextImageProcessor"
LEVIT_ENLARGED = 256 / 224
CONVNEXT_WARPED = 384
"""Shortest edge from which ``ConvNextImageProcessor`` warps the image and crops nothing."""

SUPPORTED_STEPS = frozenset(
    {
        "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order",
        "do_convert_rgb",  # images are RGB already
        "do_reduce_labels",  # of segmentation maps
    }
)  # fmt: skip
"""Steps that vitedge supports, or that do not change an RGB image. Any other enabled step is refused."""

PILLOW_FILTERS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's ``Image.Resampling``, in the order of its numbers."""


class Geometry(NamedTuple):
    """Resize and crop: the network's input size, and the size before the crop."""

    resize_mode: ResizeMode
    resize_size: Size
    input_size: Size


def processor_preprocessing(config: Mapping[str, Any], *, default: str, where: Path) -> Preprocessing:
    """Return the preprocessing of an image processor.

    Args:
        config: ``preprocessor_config.json`` of an image processor, or of an older feature extractor.
        default: name of the processor, if the configuration has none.
        where: path of the file, for errors.

    Raises:
        CheckpointError: the processor is unknown, a value is wrong, or a step is not supported.
    """
    check_config_numbers(config, str(where))
    kind = _kind(config, default, where)
    given = {key: value for key, value in config.items() if value is not None}
    settings = _Settings(kind, {**COMMON, **PROCESSORS[kind], **given}, where)
    settings.check_steps()
    mean, std = settings.normalization()
    try:
        geometry = settings.geometry()
        return Preprocessing(
            input_size=geometry.input_size,
            resize_size=geometry.resize_size,
            resize_mode=geometry.resize_mode,
            interpolation=settings.interpolation(),
            mean=mean,
            std=std,
            channel_order="BGR" if kind == MOBILEVIT and settings.on("do_flip_channel_order") else "RGB",
            crop_rounding="floor",
        )
    except UsageError as error:
        raise CheckpointError(f"{where} is wrong: {error.problem}", expected=error.expected) from error


def _kind(config: Mapping[str, Any], default: str, where: Path) -> str:
    named = config.get("image_processor_type") or config.get("feature_extractor_type") or default
    kind = str(named).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if kind not in PROCESSORS:
        raise CheckpointError(
            f"{where} asks for the image processor {named!r:.60}, which vitedge does not know",
            expected=f"one of {', '.join(PROCESSORS)}",
            fix=did_you_mean(kind, PROCESSORS) or "describe the same steps as one of these processors",
        )
    return kind


class _Settings:
    """Values of one processor: from the JSON, else the defaults of its class."""

    def __init__(self, kind: str, values: Mapping[str, Any], where: Path) -> None:
        self._kind = kind
        self._values = values
        self._where = where

    def on(self, step: str) -> bool:
        """Return whether a step is enabled."""
        return bool(self._values.get(step, False))

    def check_steps(self) -> None:
        """Refuse unsupported steps."""
        unknown = (key for key, value in self._values.items() if key.startswith("do_") and value)
        for key in sorted(set(unknown) - SUPPORTED_STEPS):
            raise self._error(key, self._values[key], "a processor that resizes, crops, rescales and normalizes")
        if not self.on("do_resize"):
            raise self._error("do_resize", False, "true: a network on a device has one input size")

    def geometry(self) -> Geometry:
        """Return the sizes of resize and crop."""
        mode, size = self._size()
        if self._kind == CONVNEXT:
            return self._convnext(mode, size)
        if self._kind == LEVIT and mode == "shortest":
            size = (int(LEVIT_ENLARGED * size[0]), int(LEVIT_ENLARGED * size[1]))
        if self.on("do_center_crop"):
            return Geometry(mode, size, self._crop_size())
        if mode == "shortest":
            raise self._error("do_center_crop", False, "true, or a size with height and width: one input size")
        return Geometry(mode, size, size)

    def _convnext(self, mode: ResizeMode, size: Size) -> Geometry:
        """Return the geometry of ``ConvNextImageProcessor.resize``, which also crops."""
        if mode != "shortest":
            raise self._error("size", self._values["size"], "a shortest_edge")
        if self.on("do_center_crop") and self._crop_size() != size:
            raise self._error("crop_size", self._values["crop_size"], f"{size[0]}, the size to which its resize crops")
        if size[0] >= CONVNEXT_WARPED:
            return Geometry("squash", size, size)
        crop_pct = self._values["crop_pct"]
        if not _is_number(crop_pct) or not 0 < crop_pct <= 1:
            raise self._error("crop_pct", crop_pct, "a number above 0, up to 1")
        return Geometry("shortest", resize_size_for(size, crop_pct), size)

    def _size(self) -> tuple[ResizeMode, Size]:
        size = self._values["size"]
        if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
            return "shortest", self._sides(size, "size", size["shortest_edge"], size["shortest_edge"])
        if isinstance(size, int) and not self.on("default_to_square"):
            return "shortest", self._sides(size, "size", size, size)
        return "squash", self._rectangle("size")

    def _crop_size(self) -> Size:
        return self._rectangle("crop_size")

    def _rectangle(self, key: str) -> Size:
        """Read a size of both sides: a number, a list, or an object with ``height`` and ``width``."""
        size = self._values.get(key)
        if isinstance(size, Mapping) and set(size) == {"height", "width"}:
            return self._sides(size, key, size["height"], size["width"])
        if isinstance(size, (list, tuple)) and len(size) == 2:
            return self._sides(size, key, *size)
        return self._sides(size, key, size, size)

    def _sides(self, value: object, key: str, height: object, width: object) -> Size:
        if _is_side(height) and _is_side(width):
            return (height, width)  # type: ignore[return-value]
        expected = f"1 to {INPUT_SIDE} pixels: a number, height and width" + (
            ", or shortest_edge" if key == "size" else ""
        )
        raise self._error(key, value, expected)

    def interpolation(self) -> Interpolation:
        """Return the resampling filter."""
        number = self._values["resample"]
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(PILLOW_FILTERS):
            return PILLOW_FILTERS[number]
        raise self._error("resample", number, "a number of Pillow's Image.Resampling, 0 to 5")

    def normalization(self) -> tuple[Triple, Triple]:
        """Return mean and std on the 0…1 scale, with the rescaling: ``(p·f − m)/s = (p/255 − m/255f) / (s/255f)``."""
        factor = self._values["rescale_factor"] if self.on("do_rescale") else 1
        if not _is_number(factor) or factor <= 0:
            raise self._error("rescale_factor", factor, "a positive number")
        scale = 1.0 if math.isclose(255 * factor, 1, rel_tol=1e-6) else 255 * factor
        mean: Triple = (0.0, 0.0, 0.0)
        std: Triple = (1.0, 1.0, 1.0)
        if self.on("do_normalize") and self._kind != MOBILEVIT:  # MobileViT ignores it
            mean, std = self._triple("image_mean"), self._triple("image_std")
        return _divided(mean, scale), _divided(std, scale)

    def _triple(self, key: str) -> Triple:
        value = self._values[key]
        numbers = [value] * 3 if _is_number(value) else value
        if isinstance(numbers, (list, tuple)) and len(numbers) == 3 and all(map(_is_number, numbers)):
            return (numbers[0], numbers[1], numbers[2])
        raise self._error(key, value, "three numbers")

    def _error(self, key: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(f"{key} of {self._where} is {value!r:.60}", expected=expected)


def _divided(values: Triple, scale: float) -> Triple:
    return (values[0] / scale, values[1] / scale, values[2] / scale)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= INPUT_SIDE


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
