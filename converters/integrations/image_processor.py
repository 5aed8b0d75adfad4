"""The image processor of Transformers that preprocesses as a bundle does.

Transformers' own processors round half of an odd margin of the crop down, as bundles of its checkpoints do. timm and
torchvision round it to an even number, and one pixel changes the answer on 2 to 3 of 100 photos of small networks. The
processor of timm's checkpoints in Transformers runs timm's transform, and gives their pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.sources.timm.config import RESIZE_MODES
from vitedge.converters.sources.transformers.processors import (
    PILLOW_FILTERS,
    PROCESSOR_CONFIG,
    TYPE_KEYS,
    processor_preprocessing,
)
from vitedge.converters.sources.transformers.timm_wrapper import wrapped_preprocessing
from vitedge.errors import UsageError

TIMM_PROCESSOR = "TimmWrapperImageProcessor"
PRETRAINED_CFG = "pretrained_cfg"
CROP_MODES = {mode: name for name, mode in RESIZE_MODES.items()}
"""timm's name of each resize mode."""
MOST_DECIMALS = 12

EXIF = (
    "Transformers' pipeline turns photos by their EXIF orientation, and this bundle takes pixels as they are stored: "
    "photos that carry an orientation may get another answer"
)
TIMM = "the image processor is timm's transform: pip install timm where the pipeline runs"
ODD_MARGIN = (
    "timm rounds half of an odd margin of the crop to an even number, and this bundle rounds it down: on some shapes "
    "of photos the crop lies one pixel further down or right"
)
FILTER = "older versions of Transformers resize with bicubic instead of {filter}: give the pipeline the Pillow backend"
TORCHVISION_FILTERS = ("nearest", "bilinear", "bicubic")
"""Filters that every version of Transformers' torchvision backend has."""


def is_of_timm(preprocessing: Preprocessing) -> bool:
    """Return whether timm's transform gives the pixels, and none of Transformers' own processors does."""
    height, width = preprocessing.resize_size
    crops = preprocessing.resize_mode == "shortest" or preprocessing.resize_size != preprocessing.input_size
    covers_rectangle = preprocessing.resize_mode == "shortest" and height != width
    return (
        preprocessing.resize_mode == "border"
        or covers_rectangle
        or (crops and preprocessing.crop_rounding == "half_even")
    )


def processor_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return ``preprocessor_config.json``; the processor gives RGB pixels, whatever order the network reads.

    The processor of timm reads ``config.json`` instead, which must hold the same keys.

    Raises:
        UsageError: no image processor of Transformers has this geometry.
    """
    is_timms = is_of_timm(preprocessing)
    config = _timm_config(preprocessing) if is_timms else _own_config(preprocessing)
    where = Path(PROCESSOR_CONFIG)
    read = (
        wrapped_preprocessing(config, where) if is_timms else processor_preprocessing(config, default=None, where=where)
    )
    _check(read, preprocessing)
    return config


def _timm_config(preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        TYPE_KEYS[0]: TIMM_PROCESSOR,
        PRETRAINED_CFG: {
            "input_size": [3, *preprocessing.input_size],
            "crop_pct": _crop_pct(preprocessing),
            "crop_mode": CROP_MODES[preprocessing.resize_mode],
            "interpolation": preprocessing.interpolation,
            "mean": list(rgb(preprocessing, preprocessing.mean)),
            "std": list(rgb(preprocessing, preprocessing.std)),
        },
    }


def _crop_pct(preprocessing: Preprocessing) -> float:
    """Find the shortest number by which timm divides the input's sides to get the size before the crop."""
    sides = tuple(zip(preprocessing.input_size, preprocessing.resize_size, strict=True))
    highest = min(side / resized for side, resized in sides)
    lowest = max(side / (resized + 1) for side, resized in sides)
    for decimals in range(1, MOST_DECIMALS):
        for number in (round(highest, decimals), round((lowest + highest) / 2, decimals)):
            if number > 0 and all(math.floor(side / number) == resized for side, resized in sides):
                return number
    raise UsageError(
        f"no image processor of Transformers resizes as this bundle does: {preprocessing.resize_mode} to "
        f"{_by(preprocessing.resize_size)} for an input of {_by(preprocessing.input_size)}",
        expected="both sides of the input, divided by the same share to crop",
        fix="convert the model again with preprocessing=FILE that has such a resize_size",
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _own_config(preprocessing: Preprocessing) -> dict[str, Any]:
    height, width = preprocessing.input_size
    return {
        TYPE_KEYS[0]: _class_of(preprocessing),
        "do_convert_rgb": True,
        "do_resize": True,
        "size": _size(preprocessing),
        "resample": PILLOW_FILTERS.index(preprocessing.interpolation),
        "do_center_crop": preprocessing.resize_mode == "shortest" or preprocessing.resize_size != (height, width),
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(rgb(preprocessing, preprocessing.mean)),
        "image_std": list(rgb(preprocessing, preprocessing.std)),
    }


def rgb(preprocessing: Preprocessing, values: tuple[float, float, float]) -> tuple[float, float, float]:
    """Bring the values of the channels from the network's order into RGB."""
    return values if preprocessing.channel_order == "RGB" else (values[2], values[1], values[0])


def _class_of(preprocessing: Preprocessing) -> str:
    if preprocessing.resize_mode == "shortest":
        return "BitImageProcessor"
    return "ViTImageProcessor" if preprocessing.resize_size == preprocessing.input_size else "DeiTImageProcessor"


def _size(preprocessing: Preprocessing) -> Mapping[str, int]:
    height, width = preprocessing.resize_size
    return {"shortest_edge": height} if preprocessing.resize_mode == "shortest" else {"height": height, "width": width}


def _check(read: Preprocessing, preprocessing: Preprocessing) -> None:
    """Compare what a converter reads from the configuration with the bundle."""
    expected = replace(
        preprocessing,
        channel_order="RGB",
        mean=rgb(preprocessing, preprocessing.mean),
        std=rgb(preprocessing, preprocessing.std),
        crop_rounding=read.crop_rounding,
        exif_orientation=read.exif_orientation,
    )
    if read != expected:
        raise UsageError(
            f"an image processor of Transformers would do {read}",
            expected=f"the preprocessing of the bundle, {expected}",
        )


def differences(preprocessing: Preprocessing) -> tuple[str, ...]:
    """Say what the image processor needs, and where it differs from the bundle, a sentence each."""
    is_timms = is_of_timm(preprocessing)
    old_filter = not is_timms and preprocessing.interpolation not in TORCHVISION_FILTERS
    said = (
        (TIMM, is_timms),
        (ODD_MARGIN, is_timms and preprocessing.crop_rounding == "floor"),
        (EXIF, not preprocessing.exif_orientation),
        (FILTER.format(filter=preprocessing.interpolation), old_filter),
    )
    return tuple(sentence for sentence, applies in said if applies)
