"""How often each rule finds its place in the families' graphs: a change of timm or of an exporter shows here.

The default suite has a network for each rule; families whose rules have a place in one of these are ``long``.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
import transformers_checkpoints
from torch import nn

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.onnx_export import export
from vitedge.converters.openvino import backend as openvino
from vitedge.converters.reference import module_logits
from vitedge.converters.rewrites.apply import REWRITES, Rewrite, Rewritten, apply_rewrites
from vitedge.converters.sources.parse import HubFolder
from vitedge.converters.sources.transformers.models import load_transformers
from vitedge.converters.verify import check_source

ALWAYS = {"tidy", "fold normalization", "prepend normalization"}
VIT = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}
SWIN = {"img_size": 56, "embed_dim": 24, "depths": (1, 1, 1, 1)}
BLOCKS = {"fold attention scale": 2, "fold LayerNorm affine": 5}
"""Places in two blocks and the norm after them."""
WINDOWS = {"fold attention scale": 4, "fold LayerNorm affine": 8}
"""Places in four stages of a block each."""
LEVIT = {"img_size": 64, "embed_dim": (32, 48, 64), "key_dim": 8, "num_heads": (2, 2, 2), "depth": (1, 1, 1)}
LONG = pytest.mark.long
pytestmark = pytest.mark.slow


def as_if_trained(network: nn.Module) -> nn.Module:
    """No scale stays 1, no bias 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def named(name: str, options: Mapping[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return as_if_trained(timm.create_model(name, num_classes=5, **options))


def exported(name: str, side: int, options: Mapping[str, Any]) -> tuple[nn.Module, onnx.ModelProto]:
    """The network and a graph of its own, exported once for equal arguments."""
    network, graph = _exported(name, side, tuple(options.items()))
    return network, onnx.load_from_string(graph)


@cache
def _exported(name: str, side: int, options: tuple[tuple[str, Any], ...]) -> tuple[nn.Module, bytes]:
    network = named(name, dict(options))
    return network, export(network, (side, side)).SerializeToString()


def rewritten(
    network: nn.Module, graph: onnx.ModelProto, side: int, rewrites: Sequence[Rewrite] = REWRITES
) -> Rewritten:
    """The graph of a network with rewrites, which still computes what the network does."""
    frames = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    preprocessing = Preprocessing(input_size=(side, side), resize_size=(side, side))
    result = apply_rewrites(graph, frames, preprocessing, rewrites)
    assert result.unproved == {}
    check_source(module_logits(network, frames, preprocessing), result.logits)
    return result


def places(result: Rewritten) -> dict[str, int]:
    return {rule: found.changed for rule, found in result.applied.items() if rule not in ALWAYS}


@pytest.mark.parametrize(
    ("name", "side", "options", "expected"),
    [
        pytest.param("vit_tiny_patch16_224", 64, VIT, {**BLOCKS, "class token only": 6}, marks=LONG),
        pytest.param("deit3_small_patch16_224", 64, VIT, {**BLOCKS, "class token only": 6}, marks=LONG),
        ("deit_tiny_distilled_patch16_224", 64, VIT, {**BLOCKS, "class token only": 6, "one head": 1}),
        ("beit_base_patch16_224", 64, VIT, {**BLOCKS, "drop mask guards": 2}),
        ("cait_xxs24_224", 64, {**VIT, "depth_token_only": 1},
         {"fold attention scale": 3, "fold LayerNorm affine": 7, "merge layout operators": 1}),
        pytest.param("tnt_s_patch16_224", 64, {"img_size": 64, "depth": 2},
         {"class token only": 6, "fold attention scale": 4, "fold LayerNorm affine": 6, "merge layout operators": 1},
         marks=LONG),
        pytest.param("levit_128s", 64, LEVIT,
         {"drop mask guards": 5, "one head": 1, "fold attention scale": 5}, marks=LONG),
        ("swin_tiny_patch4_window7_224", 56, SWIN, WINDOWS),
        pytest.param("swinv2_tiny_window8_256", 64, {"img_size": 64, "embed_dim": 24, "depths": (1, 1)}, {},
         marks=LONG),
        pytest.param("pvt_v2_b0", 64, {"depths": (1, 1, 1, 1)}, {**WINDOWS, "fold LayerNorm affine": 11}, marks=LONG),
        ("convnext_atto", 64, {"depths": (1, 1, 1, 1)}, {"fold LayerNorm affine": 8}),
    ],
)  # fmt: skip
def test_families(name: str, side: int, options: dict[str, Any], expected: dict[str, int]) -> None:
    network, graph = exported(name, side, options)
    assert places(rewritten(network, graph, side)) == expected


@pytest.mark.parametrize(
    ("name", "side", "options", "expected"),
    [
        ("vit_tiny_patch16_224", 160, VIT, 1),
        pytest.param("deit3_small_patch16_224", 160, VIT, 1, marks=LONG),
        pytest.param("deit_tiny_distilled_patch16_224", 160, VIT, 1, marks=LONG),
        pytest.param("beit_base_patch16_224", 160, VIT, 1, marks=LONG),
        pytest.param("tnt_s_patch16_224", 160, {"depth": 3}, 2, marks=LONG),
        pytest.param("crossvit_9_240", 240, {"depth": ((1, 2, 0),), "num_heads": (2, 2), "embed_dim": (16, 32)}, 2,
         marks=LONG),
        pytest.param("cait_xxs24_224", 160, {**VIT, "depth_token_only": 1}, 0, marks=LONG),
        ("swin_tiny_patch4_window7_224", 56, SWIN, 0),
    ],
)  # fmt: skip
def test_padding_tokens(name: str, side: int, options: dict[str, Any], expected: int) -> None:
    network, graph = exported(name, side, {**options, "img_size": side})
    result = rewritten(network, graph, side, rewrites=(*REWRITES, *openvino.REWRITES))
    assert places(result).get("padding tokens", 0) == expected


@pytest.mark.parametrize(
    ("name", "side", "options", "rule", "expected"),
    [
        pytest.param("coat_lite_tiny", 64, {"img_size": 64, "serial_depths": (2, 1, 1, 1)}, "factorized attention", 3,
         marks=LONG),
        pytest.param("vit_small_patch16_dinov3", 64, VIT, "rotary embedding", 4, marks=LONG),
        pytest.param("cait_xxs24_224", 64, {**VIT, "depth_token_only": 1}, "talking heads", 4, marks=LONG),
    ],
)  # fmt: skip
def test_rewrites_for_openvino(name: str, side: int, options: dict[str, Any], rule: str, expected: int) -> None:
    network, graph = exported(name, side, options)
    result = rewritten(network, graph, side, rewrites=(*REWRITES, *openvino.REWRITES))
    assert places(result)[rule] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("deit distilled", {**BLOCKS, "drop mask guards": 2, "one head": 1, "class token only": 6},
         marks=LONG),
        ("levit distilled",
         {"fold BatchNorm": 24, "one head": 1, "fold attention scale": 5}),
    ],
)  # fmt: skip
def test_transformers(name: str, expected: dict[str, int], tmp_path: Path) -> None:
    folder = transformers_checkpoints.write_checkpoint(tmp_path / "checkpoint", name)
    model = load_transformers(HubFolder(folder), labels=None)
    side, _ = model.card.preprocessing.input_size
    network = as_if_trained(model.module)
    assert places(rewritten(network, export(network, (side, side)), side)) == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("name", "side", "options", "expected", "norms", "gelus"),
    [
        ("vit_tiny_patch16_224", 64, VIT, {**BLOCKS, "class token only": 6}, 5, 2),
        pytest.param("swin_tiny_patch4_window7_224", 56, SWIN, WINDOWS, 13, 4, marks=LONG),
    ],
)
@pytest.mark.parametrize("opset", [14, 17])
def test_graphs_of_the_older_exporter(
    name: str, side: int, options: dict[str, Any], expected: dict[str, int], norms: int, gelus: int, opset: int
) -> None:
    """``torch.onnx.export(dynamo=False)``: opset 14 spells out norms and GELU, opset 17 GELU alone."""
    network, stream = named(name, options), io.BytesIO()
    torch.onnx.export(network, (torch.zeros(1, 3, side, side),), stream, dynamo=False, opset_version=opset)
    result = rewritten(network, onnx.load_from_string(stream.getvalue()), side)
    fused = {"upgrade opset": 1, "fuse GELU": gelus, **({"fuse LayerNorm": norms} if opset < 17 else {})}
    assert places(result) == {**expected, **fused}
    kinds = Counter(node.op_type for node in result.graph.graph.node)
    assert (kinds["LayerNormalization"], kinds["Gelu"]) == (norms, gelus)
    assert not {"Erf", "Pow", "Sqrt", "Div", "Mul", "Shape", "ConstantOfShape"} & set(kinds)
