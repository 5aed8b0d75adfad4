"""A handful of images: the whole quantizer is no worse on others than ranges from the smallest to the largest value."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("torch")
pytest.importorskip("timm")

import outliers  # needs onnx
from small_families import small  # needs timm

from vitedge.calib.quantization.ptq import quantize
from vitedge.calib.quantization.search_budget import SMALLEST
from vitedge.converters.reference import graph_logits
from vitedge.metrics import sqnr_db

pytestmark = pytest.mark.slow

IMAGES = 8


@pytest.mark.parametrize("family", ["PVT", "Swin", "ViT"])
def test_eight_images_do_not_overfit(family: str) -> None:
    network = small(family)
    frames = network.calibration[:IMAGES]
    reference = graph_logits(network.graph, network.held_out, network.preprocessing)

    def reached(graph: object) -> float:
        return sqnr_db(reference, graph_logits(graph, network.held_out, network.preprocessing))

    naive = reached(outliers.min_max_quantized(network.graph, frames))
    assert naive > 20
    assert reached(quantize(network.graph, frames, budget=SMALLEST).graph) > naive - 0.5
