"""Small checkpoints in Transformers' layout, made on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

CLASSES = ("circle", "square", "star", "cross", "ring")
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}
SWIN = {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 2}
PVT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]}
LEVIT = {
    "hidden_sizes": [16, 24, 32], "depths": [1, 1, 1], "num_attention_heads": [2, 2, 2], "key_dim": [8, 8, 8],
}  # fmt: skip
MOBILEVIT = {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 64]}
CNN = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


@dataclass(frozen=True)
class Small:
    """A small network of a family.

    Attributes:
        classifier: its class.
        side: pixels of its input.
        options: of its configuration, beside ``image_size`` and the labels.
        processor: name of the image processor; empty if ``config.json`` holds the preprocessing.
        settings: of the processor.
    """

    classifier: str
    side: int
    options: Mapping[str, Any]
    processor: str
    settings: Mapping[str, Any]


def squashed(side: int) -> dict[str, Any]:
    return {"size": {"height": side, "width": side}}


def cropped(resize: int, side: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": resize}, "crop_size": {"height": side, "width": side}}


TOWER = {"vision_config": {**VIT, "image_size": 32}}
"""Classifiers of CLIP and its like read the image model's sizes here."""
HGNET = {
    "stem_channels": [3, 8, 8], "stage_in_channels": [8, 16, 24, 32], "stage_mid_channels": [8, 8, 8, 8],
    "stage_out_channels": [16, 24, 32, 40], "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [1, 1, 1, 1],
    "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1], "embedding_size": 8,
}  # fmt: skip
LCNET = [
    [[3, 16, 32, 1, False]], [[3, 32, 32, 2, False]], [[3, 32, 32, 2, False]], [[5, 32, 32, 2, False]],
    [[5, 32, 64, 2, True]],
]  # fmt: skip
"""Kernel, channels, stride and squeeze-and-excitation of each block."""
BEIT = {**VIT, "use_relative_position_bias": True, "use_mean_pooling": True, "layer_scale_init_value": 0.1}
DINOV2 = {**VIT, "image_size": 56}

SMALL: Mapping[str, Small] = {
    "vit": Small("ViTForImageClassification", 32, VIT, "ViTImageProcessor", squashed(32)),
    "deit": Small(
        "DeiTForImageClassification", 32, VIT, "DeiTImageProcessor", {**squashed(36), "crop_size": squashed(32)["size"]}
    ),
    "deit distilled": Small(
        "DeiTForImageClassificationWithTeacher", 32, VIT, "DeiTImageProcessor",
        {**squashed(36), "crop_size": squashed(32)["size"]},
    ),
    "beit": Small("BeitForImageClassification", 32, BEIT, "BeitImageProcessor", squashed(32)),
    "dinov2": Small("Dinov2ForImageClassification", 32, DINOV2, "BitImageProcessor", cropped(36, 32)),
    "dinov2 with registers": Small(
        "Dinov2WithRegistersForImageClassification", 32, DINOV2, "BitImageProcessor", cropped(36, 32)
    ),
    "swin": Small("SwinForImageClassification", 32, SWIN, "ViTImageProcessor", squashed(32)),
    "swinv2": Small("Swinv2ForImageClassification", 32, SWIN, "ViTImageProcessor", squashed(32)),
    "pvt": Small("PvtForImageClassification", 64, PVT, "PvtImageProcessor", squashed(64)),
    "pvt v2": Small("PvtV2ForImageClassification", 64, PVT, "PvtImageProcessor", squashed(64)),
    "levit": Small("LevitForImageClassification", 64, LEVIT, "LevitImageProcessor", cropped(64, 64)),
    "levit distilled": Small(
        "LevitForImageClassificationWithTeacher", 64, LEVIT, "LevitImageProcessor", cropped(64, 64)
    ),
    "mobilevit": Small("MobileViTForImageClassification", 64, MOBILEVIT, "MobileViTImageProcessor", cropped(72, 64)),
    "mobilevitv2": Small(
        "MobileViTV2ForImageClassification", 64, {"width_multiplier": 0.25}, "MobileViTImageProcessor", cropped(72, 64)
    ),
    "convnext": Small(
        "ConvNextForImageClassification", 64, CNN, "ConvNextImageProcessor", {"size": {"shortest_edge": 64}}
    ),
    "convnextv2": Small(
        "ConvNextV2ForImageClassification", 64, CNN, "ConvNextImageProcessor", {"size": {"shortest_edge": 64}}
    ),
    "resnet": Small(
        "ResNetForImageClassification", 64, {**CNN, "embedding_size": 8}, "ConvNextImageProcessor",
        {"size": {"shortest_edge": 64}},
    ),
    "bit": Small(
        "BitForImageClassification", 64, {**CNN, "embedding_size": 8, "num_groups": 4}, "BitImageProcessor",
        cropped(72, 64),
    ),
    "clip": Small("CLIPForImageClassification", 32, TOWER, "CLIPImageProcessor", cropped(36, 32)),
    "metaclip 2": Small("MetaClip2ForImageClassification", 32, TOWER, "CLIPImageProcessor", cropped(36, 32)),
    "siglip": Small("SiglipForImageClassification", 32, TOWER, "SiglipImageProcessor", squashed(32)),
    "cvt": Small(
        "CvtForImageClassification", 64,
        {"embed_dim": [8, 16, 24], "num_heads": [1, 2, 3], "depth": [1, 2, 3], "mlp_ratio": [2.0, 2.0, 2.0]},
        "ConvNextImageProcessor", {"size": {"shortest_edge": 64}},
    ),
    "data2vec": Small(
        "Data2VecVisionForImageClassification", 32, {**VIT, "use_relative_position_bias": True}, "BeitImageProcessor",
        squashed(32),
    ),
    "donut": Small("DonutSwinForImageClassification", 32, SWIN, "ViTImageProcessor", squashed(32)),
    "efficientnet": Small(
        "EfficientNetForImageClassification", 64,
        {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320}, "EfficientNetImageProcessor",
        squashed(64),
    ),
    "focalnet": Small(
        "FocalNetForImageClassification", 32,
        {"embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3], "hidden_sizes": [16, 32]},
        "BitImageProcessor", cropped(36, 32),
    ),
    "hgnet v2": Small("HGNetV2ForImageClassification", 64, HGNET, "ViTImageProcessor", squashed(64)),
    "hiera": Small(
        "HieraForImageClassification", 64,
        {
            "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "image_size": [64, 64], "num_query_pool": 1,
            "masked_unit_attention": [True, False],
        },
        "BitImageProcessor", cropped(72, 64),
    ),
    "ijepa": Small("IJepaForImageClassification", 32, VIT, "ViTImageProcessor", squashed(32)),
    "mobilenet v1": Small(
        "MobileNetV1ForImageClassification", 64, {"depth_multiplier": 0.125}, "MobileNetV1ImageProcessor",
        cropped(72, 64),
    ),
    "mobilenet v2": Small(
        "MobileNetV2ForImageClassification", 64, {"depth_multiplier": 0.125}, "MobileNetV2ImageProcessor",
        cropped(72, 64),
    ),
    "poolformer": Small(
        "PoolFormerForImageClassification", 64, {**CNN, "layer_scale_init_value": 0.1}, "PoolFormerImageProcessor",
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
    ),
    "pp-lcnet": Small(
        "PPLCNetForImageClassification", 64, {"block_configs": LCNET, "class_expand": 32, "scale": 0.5},
        "ViTImageProcessor", squashed(64),
    ),
    "regnet": Small(
        "RegNetForImageClassification", 64, {**CNN, "embedding_size": 8, "groups_width": 8}, "ConvNextImageProcessor",
        {"size": {"shortest_edge": 64}},
    ),
    "segformer": Small(
        "SegformerForImageClassification", 64,
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]},
        "SegformerImageProcessor", squashed(64),
    ),
    "swiftformer": Small(
        "SwiftFormerForImageClassification", 64,
        {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_scale_init_value": 0.1}, "ViTImageProcessor",
        squashed(64),
    ),
    "textnet": Small(
        "TextNetForImageClassification", 64,
        {
            "stem_out_channels": 8, "hidden_sizes": [8, 8, 16, 16, 24],
            "conv_layer_kernel_sizes": [[[3, 3]], [[3, 1]], [[1, 3]], [[3, 3]]],
            "conv_layer_strides": [[2], [2], [2], [2]],
        },
        "TextNetImageProcessor",
        {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": squashed(64)["size"], "size_divisor": 1},
    ),
    "vit msn": Small("ViTMSNForImageClassification", 32, VIT, "ViTImageProcessor", squashed(32)),
    "timm wrapper": Small(
        "TimmWrapperForImageClassification", 32,
        {
            "architecture": "vit_tiny_patch16_224",
            "model_args": {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2},
            "pretrained_cfg": {
                "input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center",
                "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3],
            },
        },
        "", {},
    ),
}  # fmt: skip
"""One network of each class that converts."""


def small_model(name: str, **changes: Any) -> Any:
    """The network, with weights that make its logits depend on its input, the same at every call."""
    small = SMALL[name]
    kind = getattr(transformers, small.classifier)
    names = changes.pop("names", CLASSES)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: each for each, name in enumerate(names)}}
    options = {"image_size": small.side, "num_labels": len(names), **labels, **small.options, **changes}
    config = kind.config_class(**options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter.ndim >= 2 and "embed" not in parameter_name:
                    nn.init.normal_(parameter, std=1.2 / parameter[0].numel() ** 0.5)
            _measure_statistics(model, torch.randn(8, 3, small.side, small.side))
    return model.eval()


def _measure_statistics(model: nn.Module, pixels: torch.Tensor) -> None:
    """Give every BatchNorm the mean and variance that it sees, so that no signal dies on its way."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1.0
            nn.init.ones_(layer.weight)  # some classes begin with small random ones
    model.train()(pixel_values=pixels)


def write_checkpoint(folder: Path, name: str = "vit", *, shard: str = "5GB", **changes: Any) -> Path:
    """Write what ``save_pretrained`` of a model and of its processor write; ``changes`` go into the configuration."""
    small_model(name, **changes).save_pretrained(folder, max_shard_size=shard)
    small = SMALL[name]
    if small.processor:
        getattr(transformers, small.processor)(**small.settings).save_pretrained(folder)
    return folder
