"""Outliers planted into small networks whose layers read a LayerNormalization behind windows, shifts and reductions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

import networks  # noqa: E402 - needs torch
import outliers  # noqa: E402 - needs onnx
from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitTransformerCfg  # noqa: E402

from vitedge.bundle.preprocessing import Preprocessing  # noqa: E402
from vitedge.calib.data.image_folder import ImageFolder  # noqa: E402
from vitedge.calib.quantization.affine import Scheme  # noqa: E402
from vitedge.calib.quantization.bias_correction import add_missing_biases  # noqa: E402
from vitedge.calib.quantization.layernorm_equalization import (  # noqa: E402
    best_equalization,
    by_channel,
    fold_equalization,
    read_norm,
)
from vitedge.calib.quantization.ptq import quantize  # noqa: E402
from vitedge.calib.quantization.search_budget import SMALLEST  # noqa: E402
from vitedge.converters.onnx_export import export  # noqa: E402
from vitedge.converters.reference import graph_logits  # noqa: E402
from vitedge.converters.rewrites.apply import apply_rewrites  # noqa: E402
from vitedge.converters.sources.cswin_pvt.cswin import CSWinTransformer  # noqa: E402
from vitedge.converters.sources.parse import HubFolder  # noqa: E402
from vitedge.converters.sources.random_weights import randomize  # noqa: E402
from vitedge.converters.sources.timm.models import load_timm_folder  # noqa: E402
from vitedge.converters.verify import synthetic_frames  # noqa: E402
from vitedge.graph.session import open_session  # noqa: E402
from vitedge.metrics import sqnr_db  # noqa: E402

pytestmark = pytest.mark.slow

SIDE, CLASSES = 64, 10
CALIBRATION, HELD_OUT = 16, 16
ROWS = 512
"""Rows of activations that an equalization is chosen by."""
Frames = NDArray[np.uint8]


def maxvit() -> Any:
    attention = MaxxVitTransformerCfg(dim_head=16, window_size=(4, 4))
    configuration = MaxxVitCfg((16, 32), (1, 1), ("M", "M"), stem_width=16, transformer_cfg=attention)
    return MaxxVit(configuration, img_size=SIDE, num_classes=CLASSES)


def pyramid(name: str, depth: int, **options: Any) -> Any:
    """A network of two stages."""
    stages = {"embed_dims": (16, 32), "num_heads": (1, 2), "mlp_ratios": (4, 4), "sr_ratios": (4, 2)}
    return timm.create_model(name, num_classes=CLASSES, depths=(depth, depth), exportable=True, **stages, **options)


FAMILIES: dict[str, tuple[Callable[[], Any], int]] = {
    "PVT": (lambda: pyramid("pvt_v2_b0", 1), 7),
    "Twins": (lambda: pyramid("twins_svt_small", 2, img_size=SIDE, wss=(4, 4)), 10),
    "CSWin": (lambda: CSWinTransformer(replace(networks.SMALL_CSWIN, depths=(1, 1, 1, 1)), CLASSES), 8),
    "MaxViT": (maxvit, 8),
}
"""How to build a network, and how many of its LayerNormalizations only layers read."""


@dataclass(frozen=True)
class Planted:
    """A graph before and after, and what both are quantized and compared on.

    Attributes:
        graph: as it was.
        rough: with outliers.
        changed: number of LayerNormalizations with outliers.
        calibration: frames to quantize on.
        held_out: frames to compare on.
        preprocessing: of the model.
    """

    graph: Any
    rough: Any
    changed: int
    calibration: Frames
    held_out: Frames
    preprocessing: Preprocessing

    def sqnr_db(self, graph: Any) -> float:
        """SQNR of a graph's logits against those of the graph as it was."""
        reference, reached = (graph_logits(each, self.held_out, self.preprocessing) for each in (self.graph, graph))
        return sqnr_db(reference, reached)

    def check(self) -> None:
        """From the smallest to the largest value fails; where LayerNormalizations are equalized before, it does not."""
        assert self.sqnr_db(self.rough) > 100
        naive = outliers.min_max_quantized(self.rough, self.calibration)
        plain, rough = (
            outliers.min_max_quantized(equalized(each, self.calibration), self.calibration)
            for each in (self.graph, self.rough)
        )
        assert self.sqnr_db(naive) < 15
        assert self.sqnr_db(plain) > 25
        assert self.sqnr_db(rough) > self.sqnr_db(plain) - 1


def equalized(graph: Any, frames: Frames) -> Any:
    """The same function with every LayerNormalization equalized that only layers read."""
    model = ir.from_proto(graph)
    layers = add_missing_biases(model)
    found = [read_norm(model.graph, each, layers) for each in model.graph if each.op_type == "LayerNormalization"]
    norms = [each for each in found if each is not None]
    names = [str(each.node.outputs[0].name) for each in norms]
    session = open_session(ir.to_proto(model), also=names, threads=1)
    values = [session.run(names, {"frame": frame[np.newaxis]}) for frame in frames]
    for norm, seen in zip(norms, zip(*values, strict=True), strict=True):
        rows = np.concatenate([each.reshape(-1, norm.channels) for each in seen])
        weights = [by_channel(layer.weight_by_input(), columns, norm.channels) for layer, columns in norm.readers]
        best, _ = best_equalization(
            np.random.default_rng(0).permutation(rows)[:ROWS],
            rows.min(axis=0).astype(np.float64),
            rows.max(axis=0).astype(np.float64),
            np.concatenate([each for each in weights if each is not None]),
            Scheme.ASYMMETRIC,
            shifted=norm.shiftable,
        )
        fold_equalization(model, norm, best)
    return ir.to_proto(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_outliers_do_not_matter_to_a_family(family: str) -> None:
    build, expected = FAMILIES[family]
    size, module = (SIDE, SIDE), networks.fill(build())
    frames, preprocessing = synthetic_frames(size, CALIBRATION + HELD_OUT), Preprocessing(size, size)
    randomize(module, preprocessing)
    graph = apply_rewrites(export(module, size), frames[:2], preprocessing).graph
    rough, changed = outliers.planted(graph)
    assert changed == expected
    planted = Planted(graph, rough, changed, frames[:CALIBRATION], frames[CALIBRATION:], preprocessing)
    planted.check()
    assert planted.sqnr_db(quantize(rough, planted.calibration, budget=SMALLEST).graph) > 25


def test_outliers_do_not_matter_to_a_trained_swin(shared_data: Path) -> None:
    model = load_timm_folder(HubFolder(shared_data / "models" / "swin_flowers"), labels=None)
    preprocessing = model.card.preprocessing
    calibration, held_out = (
        ImageFolder.open(shared_data / "flowers" / part, limit=16).load(preprocessing).frames
        for part in ("calib", "val")
    )
    graph = apply_rewrites(export(model.module, preprocessing.input_size), calibration[:2], preprocessing).graph
    rough, changed = outliers.planted(graph)
    assert changed == 23
    Planted(graph, rough, changed, calibration, held_out, preprocessing).check()
