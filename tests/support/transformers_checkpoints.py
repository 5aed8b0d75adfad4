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
        processor: name of the image processor.
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
    model.train()(pixel_values=pixels)


def write_checkpoint(folder: Path, name: str = "vit", *, shard: str = "5GB", **changes: Any) -> Path:
    """Write what ``save_pretrained`` of a model and of its processor write; ``changes`` go into the configuration."""
    small_model(name, **changes).save_pretrained(folder, max_shard_size=shard)
    small = SMALL[name]
    getattr(transformers, small.processor)(**small.settings).save_pretrained(folder)
    return folder
