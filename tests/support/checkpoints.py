"""Small checkpoints in timm's hub layout, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

ARCHITECTURE = "vit_tiny_patch16_224"
SIDE = 32
CLASSES = ("circle", "square", "star", "cross", "ring")
MODEL_ARGS = {"img_size": SIDE, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
PRETRAINED_CFG: dict[str, Any] = {
    "input_size": [3, SIDE, SIDE],
    "fixed_input_size": True,
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.25, 0.3],
    "first_conv": "patch_embed.proj",
    "classifier": "head",
    "num_classes": len(CLASSES),
}


def small_vit(seed: int = 0) -> nn.Module:
    """A Vision Transformer of two blocks whose logits depend strongly on its input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: nn.Module = timm.create_model(ARCHITECTURE, num_classes=len(CLASSES), **MODEL_ARGS).eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.ndim >= 2 and "embed" not in name:
                    nn.init.normal_(parameter, std=1.5 / parameter.shape[1] ** 0.5)
    return module


def config(**changes: Any) -> dict[str, Any]:
    """``config.json`` of the small network."""
    return {
        "architecture": ARCHITECTURE,
        "num_classes": len(CLASSES),
        "pretrained_cfg": {**PRETRAINED_CFG, **changes.pop("pretrained_cfg", {})},
        "model_args": MODEL_ARGS,
        "label_names": list(CLASSES),
        **changes,
    }


def write_checkpoint(folder: Path, **changes: Any) -> Path:
    """Write ``config.json`` and ``model.safetensors``; ``changes`` go into the configuration."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(**changes)), encoding="utf-8")
    safetensors.torch.save_file(small_vit().state_dict(), folder / "model.safetensors")
    return folder
