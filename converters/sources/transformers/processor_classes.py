"""The image processors of Transformers that vitedge follows: the defaults of their classes, and their own steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

ResizeRule = Literal["plain", "levit", "convnext", "poolformer", "textnet"]

Triple = tuple[float, float, float]

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


@dataclass(frozen=True)
class ProcessorClass:
    """One class of image processors.

    Attributes:
        defaults: values of keys that the JSON does not have.
        resize: rule of its ``resize``.
        crops: whether it follows ``do_center_crop``.
        normalizes: whether it follows ``do_normalize``.
        flips: whether it follows ``do_flip_channel_order``.
        offsets: whether it follows ``rescale_offset`` and ``include_top``.
        unrounded: whether it resizes floating-point pixels with torchvision, and does not round them.
    """

    defaults: Mapping[str, Any]
    resize: ResizeRule = "plain"
    crops: bool = True
    normalizes: bool = True
    flips: bool = False
    offsets: bool = False
    unrounded: bool = False


def _square(side: int) -> Mapping[str, int]:
    return {"height": side, "width": side}


def _defaults(size: Any, resample: int, mean: Triple, std: Triple, **others: Any) -> Mapping[str, Any]:
    return {"size": size, "resample": resample, "image_mean": mean, "image_std": std, **others}


def _cropping(edge: int, resample: int, mean: Triple, std: Triple, *, crop: int = 224, **others: Any) -> dict[str, Any]:
    cropped = {"do_center_crop": True, "crop_size": _square(crop), "default_to_square": False}
    return {**_defaults({"shortest_edge": edge}, resample, mean, std), **cropped, **others}


PROCESSORS: Mapping[str, ProcessorClass] = MappingProxyType(
    {
        "ViTImageProcessor": ProcessorClass(_defaults(_square(224), 2, HALF, HALF)),
        "DeiTImageProcessor": ProcessorClass(
            _defaults(_square(256), 3, HALF, HALF, do_center_crop=True, crop_size=_square(224))
        ),
        "BeitImageProcessor": ProcessorClass(_defaults(_square(224), 3, HALF, HALF, crop_size=_square(224))),
        "PvtImageProcessor": ProcessorClass(_defaults(_square(224), 3, IMAGENET_MEAN, IMAGENET_STD)),
        "LevitImageProcessor": ProcessorClass(_cropping(224, 3, IMAGENET_MEAN, IMAGENET_STD), resize="levit"),
        "BitImageProcessor": ProcessorClass(_cropping(224, 3, CLIP_MEAN, CLIP_STD)),
        "CLIPImageProcessor": ProcessorClass(_cropping(224, 3, CLIP_MEAN, CLIP_STD)),
        "MobileViTImageProcessor": ProcessorClass(
            _cropping(224, 3, HALF, HALF, crop=256, do_normalize=False, do_flip_channel_order=True),
            normalizes=False,
            flips=True,
        ),
        "ConvNextImageProcessor": ProcessorClass(
            _defaults({"shortest_edge": 384}, 3, HALF, HALF, default_to_square=False, crop_pct=224 / 256),
            resize="convnext",
        ),
        "SiglipImageProcessor": ProcessorClass(_defaults(_square(224), 3, HALF, HALF, default_to_square=False)),
        "EfficientNetImageProcessor": ProcessorClass(
            _defaults(_square(346), 3, HALF, HALF, crop_size=_square(289), rescale_offset=False, include_top=True),
            offsets=True,
        ),
        "MobileNetV1ImageProcessor": ProcessorClass(_cropping(256, 2, HALF, HALF)),
        "MobileNetV2ImageProcessor": ProcessorClass(_cropping(256, 2, HALF, HALF)),
        "SegformerImageProcessor": ProcessorClass(_defaults(_square(512), 2, IMAGENET_MEAN, IMAGENET_STD), crops=False),
        "PoolFormerImageProcessor": ProcessorClass(
            _cropping(224, 3, IMAGENET_MEAN, IMAGENET_STD, crop_pct=0.9), resize="poolformer"
        ),
        "DINOv3ViTImageProcessor": ProcessorClass(
            _defaults(_square(224), 2, IMAGENET_MEAN, IMAGENET_STD), unrounded=True
        ),
        "TextNetImageProcessor": ProcessorClass(
            _cropping(640, 2, IMAGENET_MEAN, IMAGENET_STD, do_center_crop=False, size_divisor=32), resize="textnet"
        ),
    }
)
"""Processors that vitedge follows."""

UNSUPPORTED: Mapping[str, str] = MappingProxyType(
    {
        "ImageGPTImageProcessor": "it gives the index of a colour cluster for each pixel, and the runtime gives pixels",
        "Siglip2ImageProcessor": "it gives a sequence of patches whose grid follows the shape of each image, and the "
        "runtime gives images of one size",
        "DonutImageProcessor": "it resizes each image twice and pads it, and the runtime resizes once",
        "TimmWrapperImageProcessor": "its preprocessing is pretrained_cfg in config.json",
    }
)
"""Processors of image classifiers that vitedge cannot follow, and the reasons."""
