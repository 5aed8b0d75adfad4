"""Each family, small: exported, rewritten, still what PyTorch computes.

One network of each special operator is in the default suite, the others are ``long``. Others, with the places of each
rule: ``rewrites/test_families.py``. Full sizes: ``benchmarks/matrix.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.onnx_export import export
from vitedge.converters.reference import module_logits
from vitedge.converters.rewrites.apply import apply_rewrites
from vitedge.converters.sources.random_weights import randomize
from vitedge.converters.verify import check_source, synthetic_frames

CLASSES = 7
VIT = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}
LONG = pytest.mark.long
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "side", "options"),
    [
        ("vit_small_patch14_dinov2", 56, {**VIT, "img_size": 56}),
        ("vit_small_patch16_dinov3", 64, {**VIT, "embed_dim": 96}),
        ("vit_base_patch32_clip_224", 64, VIT),
        pytest.param("crossvit_9_240", 240, {"depth": ((1, 1, 0),)}, marks=LONG),
        pytest.param("twins_svt_small", 64, {"img_size": 64, "depths": (1, 1, 1, 1)}, marks=LONG),
        ("coat_lite_tiny", 64, {"img_size": 64, "serial_depths": (1, 1, 1, 1)}),
        pytest.param("visformer_tiny", 64, {"img_size": 64, "depth": (1, 1, 1)}, marks=LONG),
        pytest.param("mobilevit_xxs", 64, {}, marks=LONG),
        pytest.param("mobilevitv2_050", 64, {}, marks=LONG),
        ("edgenext_xx_small", 64, {"depths": (1, 2, 2, 2)}),
        pytest.param("efficientformerv2_s0", 64, {"img_size": 64, "depths": (1, 1, 2, 2), "num_vit": 1}, marks=LONG),
        ("efficientvit_b0", 64, {"depths": (1, 1, 1, 1, 1)}),
        pytest.param("efficientvit_m0", 64, {"img_size": 64, "depth": (1, 1, 1)}, marks=LONG),
        ("fastvit_t8", 64, {"layers": (1, 1, 1, 1)}),
        pytest.param("tiny_vit_5m_224", 64, {"depths": (1, 1, 1, 1)}, marks=LONG),
        pytest.param("repvit_m0_9", 64, {"depth": (1, 1, 2, 1)}, marks=LONG),
        pytest.param("shvit_s1", 64, {"depth": (1, 1, 1)}, marks=LONG),
        ("resnet18", 64, {}),
        pytest.param("mobilenetv4_conv_small", 64, {}, marks=LONG),
    ],
)
def test_the_rewritten_graph_is_the_module(name: str, side: int, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=CLASSES, exportable=True, **options).eval()
    preprocessing = Preprocessing(input_size=(side, side), resize_size=(side, side))
    randomize(module, preprocessing)
    frames = synthetic_frames((side, side), 2)
    rewritten = apply_rewrites(export(module, (side, side)), frames, preprocessing)
    check_source(module_logits(module, frames, preprocessing), rewritten.logits)
    assert {node.op_type for node in rewritten.graph.graph.node}.isdisjoint(
        {"BatchNormalization", "Shape", "If", "Loop"}
    )
