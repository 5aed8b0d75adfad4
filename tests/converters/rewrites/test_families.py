"""How often each rule finds its place in the families' graphs: a change of timm or of the exporter shows here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch

from vitedge.converters.export import export
from vitedge.converters.rewrites import apply_rewrites
from vitedge.preprocessing import Preprocessing

RULES = ("fold attention scale", "fold LayerScale", "fold LayerNorm affine", "drop key bias", "fold value bias")
SMALL = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}


def places(name: str, side: int, options: dict[str, Any]) -> list[int]:
    """How many places each rule changes in a network as training leaves it: no scale is 1, no bias 0."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5, **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    frames = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    preprocessing = Preprocessing(input_size=(side, side), resize_size=(side, side))
    applied = apply_rewrites(export(network, (side, side)), frames, preprocessing).applied
    return [applied[rule].changed if rule in applied else 0 for rule in RULES]


@pytest.mark.parametrize(
    ("name", "side", "options", "expected"),
    [
        ("vit_tiny_patch16_224", 64, SMALL, [2, 0, 5, 2, 2]),
        ("deit3_small_patch16_224", 64, SMALL, [2, 4, 5, 2, 2]),
        ("beit_base_patch16_224", 64, SMALL, [2, 4, 5, 2, 2]),
        ("cait_xxs24_224", 64, {**SMALL, "depth_token_only": 1}, [3, 6, 7, 1, 1]),
        (
            "swin_tiny_patch4_window7_224",
            56,
            {"img_size": 56, "embed_dim": 24, "depths": (1, 1, 1, 1)},
            [4, 0, 8, 4, 4],
        ),
        ("swinv2_tiny_window8_256", 64, {"img_size": 64, "embed_dim": 24, "depths": (1, 1)}, [0, 0, 0, 0, 2]),
        ("pvt_v2_b0", 64, {"depths": (1, 1, 1, 1)}, [4, 0, 11, 4, 4]),
        ("convnext_atto", 64, {"depths": (1, 1, 1, 1)}, [0, 4, 8, 0, 0]),
    ],
)
def test_families(name: str, side: int, options: dict[str, Any], expected: list[int]) -> None:
    assert places(name, side, options) == expected
