"""Networks without training, which rewrites and engines treat like trained ones."""

from __future__ import annotations

from vitedge.converters.sources.parse import TimmName
from vitedge.converters.sources.timm.models import load_timm
from vitedge.converters.sources.torch_model import TorchModel

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
