"""Outliers planted into small networks whose layers read a LayerNormalization behind windows, shifts and reductions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

import outliers  # noqa: E402 - needs onnx
from small_families import small  # noqa: E402 - needs timm

from vitedge.bundle.preprocessing import Preprocessing  # noqa: E402
from vitedge.calib.data.image_folder import ImageFolder  # noqa: E402
from vitedge.calib.quantization.affine import Scheme  # noqa: E402
from vitedge.calib.quantization.bias_correction import add_missing_biases  # noqa: E402
from vitedge.calib.quantization.layernorm_equalization import (  # noqa: E402
    best_equalization,
    fold_equalization,
    read_norm,
)
from vitedge.calib.quantization.ptq import quantize  # noqa: E402
from vitedge.calib.quantization.search_budget import SMALLEST  # noqa: E402
from vitedge.calib.quantization.validation_rows import ValidationRows, by_channel  # noqa: E402
from vitedge.converters.onnx_export import export  # noqa: E402
from vitedge.converters.reference import graph_logits  # noqa: E402
from vitedge.converters.rewrites.apply import apply_rewrites  # noqa: E402
from vitedge.converters.sources.parse import HubFolder  # noqa: E402
from vitedge.converters.sources.timm.models import load_timm_folder  # noqa: E402
from vitedge.graph.session import open_session  # noqa: E402
from vitedge.metrics import sqnr_db  # noqa: E402

pytestmark = pytest.mark.slow

ROWS = 512
"""Rows of activations that an equalization is chosen by."""
Frames = NDArray[np.uint8]


EXPECTED = {"PVT": 7, "Twins": 10, "CSWin": 8, "MaxViT": 8}
"""Number of LayerNormalizations of a family that only layers read."""


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
        low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
        some = np.random.default_rng(0).permutation(rows)[:ROWS]
        best = best_equalization(
            ValidationRows(some, np.ones(len(some)), low, high),
            low,
            high,
            np.concatenate([each for each in weights if each is not None]),
            Scheme.ASYMMETRIC,
            shifted=norm.shiftable,
        )
        fold_equalization(model, norm, best.equalization)
    return ir.to_proto(model)


@pytest.mark.parametrize("family", EXPECTED)
def test_outliers_do_not_matter_to_a_family(family: str) -> None:
    network = small(family)
    rough, changed = outliers.planted(network.graph)
    assert changed == EXPECTED[family]
    planted = Planted(network.graph, rough, changed, network.calibration, network.held_out, network.preprocessing)
    planted.check()
    assert planted.sqnr_db(quantize(rough, planted.calibration, budget=SMALLEST).graph) > 25


@pytest.mark.long
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
