"""Networks without training, which rewrites and engines treat like trained ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch.nn import BatchNorm2d, init

from common.families import Listed
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.sources.parse import TimmName
from vitedge.converters.sources.random_weights import randomize
from vitedge.converters.sources.timm.config import CONFIG
from vitedge.converters.sources.timm.models import load_timm
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.sources.transformers.families import OUTPUTS, TIMM_WRAPPER, classifier_class, families
from vitedge.converters.sources.transformers.models import LogitsOnly
from vitedge.converters.sources.transformers.processors import PROCESSOR_CONFIG

CALIBRATION_FRAMES = 8
"""Frames to quantize such a network with, which has no accuracy to lose."""


def as_if_trained(name: str) -> TorchModel:
    """Build a network with random weights, with no scale, shift or bias at one or zero."""
    import torch

    torch.manual_seed(0)
    model = load_timm(TimmName(name), weights=None, labels=None, random_weights=True)
    with torch.no_grad():
        for parameter in model.module.parameters():
            if parameter.ndim == 1 or not parameter.any():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def build_classifier(listed: Listed) -> LogitsOnly:
    """Build a classifier of Transformers in evaluation mode, with its initial weights."""
    import torch

    name = families()[listed.name].classifiers[0]
    kind = classifier_class(name)
    side = {} if "vision_config" in listed.options else {"image_size": listed.input_size}
    config = kind.config_class(**{"num_labels": 1000, **side, **listed.options})
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LogitsOnly(kind(config), OUTPUTS.get(name, "logits")).eval()


def write_classifier(listed: Listed, folder: Path) -> Path:
    """Write a classifier of Transformers with random weights, as ``save_pretrained`` does, and its image processor."""
    assert listed.input_size is not None
    module, size = build_classifier(listed), (listed.input_size, listed.input_size)
    for norm in module.modules():
        if isinstance(norm, BatchNorm2d):
            init.ones_(norm.weight)  # some classes begin with small random ones, which hide the image
    randomize(module, Preprocessing(input_size=size, resize_size=size))
    model: Any = module.model
    model.save_pretrained(folder)
    squashed = {"height": listed.input_size, "width": listed.input_size}
    processor = {"image_processor_type": "ViTImageProcessor", "size": squashed}
    if listed.name == TIMM_WRAPPER:  # timm's processor is a part of its configuration
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        described["pretrained_cfg"] = {
            "input_size": [3, *size], "interpolation": "bilinear", "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3,
        }  # fmt: skip
        (folder / CONFIG).write_text(json.dumps(described), encoding="utf-8")
    else:
        (folder / PROCESSOR_CONFIG).write_text(json.dumps(processor), encoding="utf-8")
    return folder
