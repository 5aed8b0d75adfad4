"""Read the configuration of Transformers' image processors as data, without running code from a checkpoint.

The reference is each processor's Pillow implementation (``ViTImageProcessorPil`` in Transformers 5; earlier versions
omit the suffix). The torchvision implementations differ by up to 1 of 255, and place an image that is smaller than the
crop one pixel further up or left if the margin is odd. ``processor_classes`` lists the classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vitedge.bundle.preprocessing import Interpolation, Preprocessing, ResizeMode, resize_size_for
from vitedge.converters.sources.model_limits import check_config_numbers
from vitedge.converters.sources.transformers.processor_classes import (
    COMMON,
    PROCESSORS,
    UNSUPPORTED,
    ProcessorClass,
    ResizeRule,
    Triple,
)
from vitedge.errors import CheckpointError, UsageError, did_you_mean
from vitedge.safety.limits import INPUT_SIDE

PROCESSOR_CONFIG = "preprocessor_config.json"
NESTED_PROCESSOR_CONFIG = "processor_config.json"
NESTED = "image_processor"
"""Key of the image processor in ``processor_config.json``, which Transformers reads first."""

Size = tuple[int, int]

LEVIT_ENLARGED = 256 / 224
CONVNEXT_WARPED = 384
"""Shortest edge from which ``ConvNextImageProcessor`` warps the image and crops nothing."""
BILINEAR = 2

TYPE_KEYS = ("image_processor_type", "feature_extractor_type")
PROCESSOR_KEYS = frozenset(
    {
        *TYPE_KEYS, NESTED, "image_mean", "image_std", "do_resize", "do_normalize", "do_rescale", "rescale_factor",
        "do_center_crop", "crop_size", "resample",
    }
)  # fmt: skip
"""Keys that only the configuration of an image processor has."""

NEEDED = (
    ("do_resize", "size"),
    ("do_resize", "resample"),
    ("do_center_crop", "crop_size"),
    ("do_rescale", "rescale_factor"),
    ("do_normalize", "image_mean"),
    ("do_normalize", "image_std"),
)
"""Steps, and values that they need, even in a class that ignores the step."""

SUPPORTED_STEPS = frozenset(
    {
        "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order",
        "do_convert_rgb",  # images are RGB already
        "do_reduce_labels",  # of segmentation maps
        "do_resize_and_center_crop",  # of older PoolFormer files; Transformers reads do_resize and do_center_crop
    }
)  # fmt: skip
"""Steps that vitedge supports, or that do not change an RGB image. Any other enabled step is refused."""

PILLOW_FILTERS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's ``Image.Resampling``, in the order of its numbers."""


class ResizeAndCrop(NamedTuple):
    """Resize and crop: the network's input size, and the size before the crop."""

    resize_mode: ResizeMode
    resize_size: Size
    input_size: Size


def describes_processor(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration describes an image processor of Transformers."""
    return bool(PROCESSOR_KEYS & set(config))


def processor_preprocessing(config: Mapping[str, Any], *, default: str | None, where: Path) -> Preprocessing:
    """Return the preprocessing of an image processor.

    Args:
        config: ``preprocessor_config.json`` of an image processor or of an older feature extractor, or
            ``processor_config.json`` that holds one.
        default: name of the processor, if the configuration has none; None if the model does not tell.
        where: path of the file, for errors.

    Raises:
        CheckpointError: the processor is unknown, a value is wrong, or a step is not supported.
    """
    nested = config.get(NESTED)
    config = nested if isinstance(nested, Mapping) else config
    check_config_numbers(config, str(where))
    kind = _kind(config, default, where)
    settings = _Settings(kind, config, where)
    settings.check_steps()
    mean, std = settings.normalization()
    try:
        resize_and_crop = settings.resize_and_crop()
        return Preprocessing(
            input_size=resize_and_crop.input_size,
            resize_size=resize_and_crop.resize_size,
            resize_mode=resize_and_crop.resize_mode,
            interpolation=settings.interpolation(),
            mean=mean,
            std=std,
            channel_order="BGR" if settings.flips() else "RGB",
            crop_rounding="floor",
            exif_orientation=True,
        )
    except UsageError as error:
        raise CheckpointError(f"{where} is wrong: {error.problem}", expected=error.expected) from error


def _kind(config: Mapping[str, Any], default: str | None, where: Path) -> str:
    named = next((config[key] for key in TYPE_KEYS if config.get(key)), default)
    if named is None:
        raise CheckpointError(
            f"{where} names no image processor, and no {TYPE_KEYS[0]} can be told from a model beside it",
            expected=f"{TYPE_KEYS[0]}: one of {', '.join(PROCESSORS)}",
            fix="add the key, or put the config.json of its model beside it",
        )
    kind = str(named).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if kind in UNSUPPORTED:
        raise CheckpointError(
            f"{where} asks for {kind}, which vitedge cannot follow: {UNSUPPORTED[kind]}",
            expected=f"one of {', '.join(PROCESSORS)}",
            fix="if the model takes images of one size, give preprocessing=FILE for it",
        )
    if kind not in PROCESSORS:
        raise CheckpointError(
            f"{where} asks for the image processor {named!r:.60}, which vitedge does not know",
            expected=f"one of {', '.join(PROCESSORS)}",
            fix=did_you_mean(kind, PROCESSORS) or "describe the same steps as one of these processors",
        )
    return kind


class _Settings:
    """Values of one processor: from the JSON, else the defaults of its class. A step that is null is off."""

    def __init__(self, kind: str, given: Mapping[str, Any], where: Path) -> None:
        self._kind = kind
        self._class: ProcessorClass = PROCESSORS[kind]
        self._values: Mapping[str, Any] = {**COMMON, **self._class.defaults, **given}
        self._where = where
        if given.get("use_square_size") and kind == "CLIPImageProcessor":  # its older name for a square size
            edge = self._class.defaults["size"]["shortest_edge"]
            self._values = {**self._values, "size": {"height": edge, "width": edge}}

    @property
    def _rule(self) -> ResizeRule:
        """Return the rule of the resize; PoolFormer without ``crop_pct`` uses the common rule."""
        without = self._class.resize == "poolformer" and self._values["crop_pct"] is None
        return "plain" if without else self._class.resize

    def on(self, step: str) -> bool:
        """Return whether a step is enabled."""
        return bool(self._values.get(step, False))

    def flips(self) -> bool:
        """Return whether the network reads BGR."""
        return self._class.flips and self.on("do_flip_channel_order")

    def check_steps(self) -> None:
        """Refuse unsupported steps, and steps that are neither on nor off."""
        for key in sorted(key for key in self._values if key.startswith("do_")):
            if not isinstance(self._values[key], (bool, type(None))):
                raise self._error(key, "true or false")
            if self.on(key) and key not in SUPPORTED_STEPS:
                raise self._error(key, "false: vitedge resizes, crops, rescales and normalizes, and has no such step")
        if not self.on("do_resize"):
            raise self._error("do_resize", "true: vitedge resizes each image, and does not crop it at its own size")
        for step, key in NEEDED:
            if self.on(step) and self._values.get(key) is None:
                raise self._error(key, f"a value, because {step} is true")

    def resize_and_crop(self) -> ResizeAndCrop:
        """Return the sizes of resize and crop."""
        mode, size = self._resized()
        if self._rule == "convnext" and size[0] < CONVNEXT_WARPED:
            return self._convnext(size)
        if self._rule == "convnext":
            mode = "squash"
        if self._class.crops and self.on("do_center_crop"):
            return ResizeAndCrop(mode, size, self._crop_size(mode, size))
        if mode == "shortest":
            raise self._without_one_size()
        return ResizeAndCrop(mode, size, size)

    def _without_one_size(self) -> CheckpointError:
        """Return the refusal of a processor that gives images of another size for each shape of image."""
        why = "the other edge follows each image, and the network has one input size"
        if not self._class.crops:
            return self._error("size", f"height and width: {self._kind} crops nothing, {why}")
        if isinstance(self._values["size"], int) and self._values["default_to_square"] is False:
            return self._error(
                "default_to_square", f"true, or do_center_crop with a crop_size: else size is the shortest edge, {why}"
            )
        return self._error(
            "do_center_crop", f"true and a crop_size, or a size with height and width: with a shortest edge alone {why}"
        )

    def _convnext(self, size: Size) -> ResizeAndCrop:
        """Return the resize and crop of ``ConvNextImageProcessor.resize``, which crops below 384 pixels."""
        if self.on("do_center_crop") and self._rectangle("crop_size") != size:
            raise self._error("crop_size", f"{size[0]}, the size to which its resize crops")
        return ResizeAndCrop("shortest", self._enlarged(size), size)

    def _resized(self) -> tuple[ResizeMode, Size]:
        """Return the size before the crop, as the ``resize`` of the class computes it."""
        mode, size = self._size()
        rule = self._rule
        if rule in ("convnext", "textnet") and mode != "shortest":
            raise self._error("size", f"a shortest_edge, as {self._kind} demands")
        if rule == "textnet" and self._values["size_divisor"] != 1:
            raise self._error("size_divisor", "1: vitedge does not round the edges of a resized image up to a multiple")
        if rule == "levit" and mode == "shortest":
            return mode, (int(LEVIT_ENLARGED * size[0]), int(LEVIT_ENLARGED * size[1]))
        if rule == "poolformer":
            return ("shortest" if size[0] == size[1] else "squash"), self._enlarged(size)
        return mode, size

    def _enlarged(self, size: Size) -> Size:
        crop_pct = self._values["crop_pct"]
        if not _is_number(crop_pct) or crop_pct <= 0:
            raise self._error("crop_pct", "a number above 0")
        return resize_size_for(size, crop_pct)

    def _size(self) -> tuple[ResizeMode, Size]:
        size = self._values["size"]
        if isinstance(size, Mapping) and size.get("longest_edge", 0) is None:
            size = {key: side for key, side in size.items() if key != "longest_edge"}
        ignored = {"longest_edge"} if self._rule != "plain" else set[str]()
        if isinstance(size, Mapping) and set(size) - ignored == {"shortest_edge"}:
            return "shortest", self._sides(size, "size", size["shortest_edge"], size["shortest_edge"])
        if isinstance(size, Mapping) and {"longest_edge", "max_height", "max_pixels"} & set(size):
            raise self._error("size", "height and width, or shortest_edge alone: vitedge has no other limits of edges")
        if isinstance(size, int) and not self.on("default_to_square"):
            return "shortest", self._sides(size, "size", size, size)
        return "squash", self._rectangle("size")

    def _crop_size(self, mode: ResizeMode, resized: Size) -> Size:
        size = self._rectangle("crop_size")
        if self._class.unrounded and any(map(int.__gt__, size, resized)):
            raise self._error("crop_size", f"at most the size, which {mode} gives: torchvision pads otherwise")
        return size

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
        raise CheckpointError(f"{key} of {self._where} is {value!r:.60}", expected=expected)

    def interpolation(self) -> Interpolation:
        """Return the resampling filter."""
        number = self._values["resample"]
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(PILLOW_FILTERS):
            raise self._error("resample", "a number of Pillow's Image.Resampling, 0 to 5")
        if self._class.unrounded and number != BILINEAR:
            raise self._error(
                "resample", f"2, bilinear: {self._kind} does not round the pixels, so other filters leave 0…255"
            )
        return PILLOW_FILTERS[number]

    def normalization(self) -> tuple[Triple, Triple]:
        """Return mean and std on the 0…1 scale of pixels.

        A processor computes ``(p·f - o - m) / s`` of a pixel ``p``, with the rescaling ``f`` and the offset ``o``; on
        the 0…1 scale, the mean is ``(m + o) / 255f`` and the std ``s / 255f``.
        """
        factor = self._values["rescale_factor"] if self.on("do_rescale") else 1
        if not _is_number(factor) or factor <= 0:
            raise self._error("rescale_factor", "a positive number")
        scale = 1.0 if math.isclose(255 * factor, 1, rel_tol=1e-6) else 255 * factor
        mean: Triple = (0.0, 0.0, 0.0)
        std: Triple = (1.0, 1.0, 1.0)
        if self._class.normalizes and self.on("do_normalize"):
            mean, std = self._triple("image_mean"), self._triple("image_std")
        if self._class.offsets:
            mean, std = self._with_offsets(mean, std)
        return _divided(mean, scale), _divided(std, scale)

    def _with_offsets(self, mean: Triple, std: Triple) -> tuple[Triple, Triple]:
        """Return mean and std of ``EfficientNetImageProcessor``, which may shift by -1 and divide by std once more."""
        if self.on("rescale_offset") and self.on("do_rescale"):
            mean = (mean[0] + 1, mean[1] + 1, mean[2] + 1)
        if self.on("include_top"):
            again = self._triple("image_std")
            std = (std[0] * again[0], std[1] * again[1], std[2] * again[2])
        return mean, std

    def _triple(self, key: str) -> Triple:
        value = self._values[key]
        numbers = [value] * 3 if _is_number(value) else value
        if isinstance(numbers, (list, tuple)) and len(numbers) == 3 and all(map(_is_number, numbers)):
            return (numbers[0], numbers[1], numbers[2])
        raise self._error(key, "three numbers")

    def _error(self, key: str, expected: str) -> CheckpointError:
        value = self._values.get(key)
        return CheckpointError(f"{key} of {self._where} is {value!r:.60}", expected=expected)


def _divided(values: Triple, scale: float) -> Triple:
    return (values[0] / scale, values[1] / scale, values[2] / scale)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= INPUT_SIDE


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
