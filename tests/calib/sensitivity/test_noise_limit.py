"""Layers that stay in 16 bits: the layer that was planted, none in a healthy network, and no more than fit."""

from __future__ import annotations

from typing import Any

import layers as graphs
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from vitedge.calib.quantization.ptq import quantize
from vitedge.calib.sensitivity import noise_limit
from vitedge.calib.sensitivity.noise_limit import LARGEST_GAP_DB, WIDE_GAP_DB, limit_noise
from vitedge.calib.sensitivity.paired_graphs import pair_graphs
from vitedge.graph.rounding import rounded
from vitedge.metrics import sqnr_db

END = "n23_MatMul"
"""The layer before the last. In so small a network it makes most of the noise."""

PLANTED = "narrow1"
"""The result of the layer whose weights get two bits."""


@pytest.fixture(scope="module")
def images() -> graphs.Frames:
    return graphs.frames(8)


@pytest.fixture(scope="module")
def full() -> Any:
    return graphs.block(depth=3)


@pytest.fixture(scope="module")
def whole(full: Any, images: graphs.Frames) -> Any:
    return quantize(full, images).graph


@pytest.fixture(scope="module")
def healthy(full: Any, images: graphs.Frames) -> Any:
    return quantize(full, images, keep_float=[END]).graph


@pytest.fixture(scope="module")
def coarse(healthy: Any) -> Any:
    return coarsened(healthy, 127.0)


@pytest.fixture(scope="module")
def planted(full: Any, coarse: Any) -> str:
    return next(layer.name for layer in pair_graphs(full, coarse).layers if layer.result == PLANTED)


def coarsened(graph: Any, step: float) -> Any:
    """Round the planted layer's weights to multiples of ``step``."""
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    (levels,) = [each for each in changed.graph.initializer if each.name == f"{PLANTED}_unbiased_weight_int8"]
    rough = np.rint(numpy_helper.to_array(levels) / step) * step
    levels.CopyFrom(numpy_helper.from_array(rough.astype(np.int8), levels.name))
    return changed


def logits(graph: Any, images: graphs.Frames) -> Any:
    (made,) = graphs.answers(graph, images)
    return made.reshape(len(images), -1)


def noisy_half(full: Any, coarse: Any, images: graphs.Frames, gap_db: float) -> Any:
    """Logits of a 16-bit engine that is so much better than the coarse graph."""
    reference, reduced = logits(full, images), logits(coarse, images)
    return reference + (reduced - reference) * 10 ** (-gap_db / 20)


def test_a_healthy_graph_is_returned_as_it_is(full: Any, healthy: Any, images: graphs.Frames) -> None:
    half = noisy_half(full, healthy, images, LARGEST_GAP_DB - 2)
    limited = limit_noise(full, healthy, images, half_logits=half)
    assert limited.graph is healthy
    assert limited.float_layers == limited.summary == ()
    assert limited.share == 0
    assert LARGEST_GAP_DB - 2 < limited.gap_db == limited.gap_before_db < LARGEST_GAP_DB


def test_the_layer_before_the_last_stays_in_16_bits_where_it_makes_much_of_the_noise(
    full: Any, whole: Any, images: graphs.Frames
) -> None:
    half = noisy_half(full, whole, images, LARGEST_GAP_DB - 1)
    limited = limit_noise(full, whole, images, half_logits=half)
    assert limited.float_layers == (END,)
    assert limited.share == pytest.approx(12 * 12 / (12 * 12 + 6 * 12 * 24 + 3 * 12))  # the stem has 3 inputs
    assert limited.gap_db < limited.gap_before_db < LARGEST_GAP_DB
    assert [layer.name for layer in pair_graphs(full, limited.graph).layers] == [
        layer.name for layer in pair_graphs(full, whole).layers if layer.name != END
    ]


def test_the_layer_before_the_last_is_int8_where_the_others_make_the_noise(
    full: Any, whole: Any, images: graphs.Frames
) -> None:
    coarse = coarsened(whole, 127.0)
    assert END in [layer.name for layer in pair_graphs(full, coarse).layers]
    half = noisy_half(full, coarse, images, LARGEST_GAP_DB - 1)
    assert limit_noise(full, coarse, images, half_logits=half).graph is coarse


def test_the_planted_layer_alone_stays_in_16_bits_and_is_named(
    full: Any, coarse: Any, planted: str, images: graphs.Frames
) -> None:
    half = noisy_half(full, coarse, images, 15.0)
    limited = limit_noise(full, coarse, images, half_logits=half)
    assert limited.float_layers == (planted,)
    assert limited.gap_before_db > 15
    assert limited.gap_db <= LARGEST_GAP_DB
    assert 0 < limited.share < 0.25
    (line,) = limited.summary
    assert planted in line
    noise = sqnr_db(logits(full, images), logits(limited.graph, images)) - sqnr_db(logits(full, images), half)
    assert limited.gap_db == pytest.approx(10 * np.log10(10 ** (-noise / 10) + 1), abs=1e-3)


def test_no_more_than_the_budget_stays_and_the_gap_that_remains_is_told(
    full: Any, coarse: Any, planted: str, images: graphs.Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = noisy_half(full, coarse, images, 60.0)
    limited = limit_noise(full, coarse, images, half_logits=half)
    assert planted in limited.float_layers
    assert 0 < limited.share <= 0.25
    assert limited.gap_db > WIDE_GAP_DB
    assert limited.summary[-1].startswith("warning: 8 bits are ")
    monkeypatch.setattr(noise_limit, "MOST_PRODUCTS", 0.0)
    assert limit_noise(full, coarse, images, half_logits=half).float_layers == ()


def test_without_an_engine_every_value_is_rounded_to_bfloat16(full: Any, coarse: Any, images: graphs.Frames) -> None:
    emulated = logits(rounded(full, "bf16"), images)
    assert limit_noise(full, coarse, images) == limit_noise(full, coarse, images, half_logits=emulated)


def test_a_layer_behind_a_branch_is_passed_over(
    full: Any, coarse: Any, planted: str, images: graphs.Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise_limit, "_is_in_branch", lambda layer: layer.name == planted)
    half = noisy_half(full, coarse, images, 15.0)
    limited = limit_noise(full, coarse, images, half_logits=half)
    assert planted not in limited.float_layers
    assert limited.gap_db > LARGEST_GAP_DB
