"""Small networks of several families, with random weights that depend on nothing but names and shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import networks
import numpy as np
import timm
from numpy.typing import NDArray
from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitTransformerCfg

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.onnx_export import export
from vitedge.converters.rewrites.apply import apply_rewrites
from vitedge.converters.sources.cswin_pvt.cswin import CSWinTransformer
from vitedge.converters.sources.random_weights import randomize
from vitedge.converters.verify import synthetic_frames

SIDE, CLASSES = 64, 10
SIZE = (SIDE, SIDE)
CALIBRATION, HELD_OUT = 16, 16


def maxvit() -> Any:
    attention = MaxxVitTransformerCfg(dim_head=16, window_size=(4, 4))
    configuration = MaxxVitCfg((16, 32), (1, 1), ("M", "M"), stem_width=16, transformer_cfg=attention)
    return MaxxVit(configuration, img_size=SIDE, num_classes=CLASSES)


def pyramid(name: str, depth: int, **options: Any) -> Any:
    """A network of two stages."""
    stages = {"embed_dims": (16, 32), "num_heads": (1, 2), "mlp_ratios": (4, 4), "sr_ratios": (4, 2)}
    return timm.create_model(name, num_classes=CLASSES, depths=(depth, depth), exportable=True, **stages, **options)


def swin() -> Any:
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=SIDE,
        window_size=4,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(1, 2),
        num_classes=CLASSES,
    )


def vit() -> Any:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=8, embed_dim=48, depth=3, num_classes=CLASSES
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "PVT": lambda: pyramid("pvt_v2_b0", 1),
    "Twins": lambda: pyramid("twins_svt_small", 2, img_size=SIDE, wss=(4, 4)),
    "CSWin": lambda: CSWinTransformer(replace(networks.SMALL_CSWIN, depths=(1, 1, 1, 1)), CLASSES),
    "MaxViT": maxvit,
    "Swin": swin,
    "ViT": vit,
}


@dataclass(frozen=True)
class Small:
    """A network of a family, exported.

    Attributes:
        graph: with the common rewrites.
        calibration: frames to quantize on.
        held_out: frames to compare on.
        preprocessing: of the model.
    """

    graph: Any
    calibration: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    preprocessing: Preprocessing


@cache
def small(family: str) -> Small:
    """Build the network of a family."""
    module, preprocessing = networks.fill(FAMILIES[family]()), Preprocessing(SIZE, SIZE)
    frames = synthetic_frames(SIZE, CALIBRATION + HELD_OUT)
    randomize(module, preprocessing)
    graph = apply_rewrites(export(module, SIZE), frames[:2], preprocessing).graph
    return Small(graph, frames[:CALIBRATION], frames[CALIBRATION:], preprocessing)
