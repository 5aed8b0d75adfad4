"""Channels before convolutions: one range where weights pay nothing, a compromise elsewhere, bounded factors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
import outliers

from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.conv_equalization import LARGEST_FACTOR, best_channel_scale
from vitedge.calib.quantization.layernorm_equalization import best_equalization
from vitedge.calib.quantization.ptq import quantize
from vitedge.calib.quantization.validation_rows import ValidationRows
from vitedge.metrics import sqnr_db

CHANNELS = 16
SIZES = 10.0 ** np.linspace(-1, 0.5, CHANNELS)


def seen(rows: np.ndarray) -> ValidationRows:
    """Rows that no other image exceeds."""
    return ValidationRows(rows, np.ones(len(rows)), rows.min(axis=0).astype(float), rows.max(axis=0).astype(float))


def scale(sizes: np.ndarray, *, groups: int) -> np.ndarray:
    rows = (np.random.default_rng(0).standard_normal((300, CHANNELS)) * sizes).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((8, CHANNELS)) / np.maximum(sizes, 1e-3)
    low, high = rows.min(axis=0).astype(float), rows.max(axis=0).astype(float)
    return best_channel_scale(seen(rows), low, high, weight, Scheme.ASYMMETRIC, groups=groups).scale


def test_depthwise_channels_come_to_exactly_one_range() -> None:
    rows = (np.random.default_rng(0).standard_normal((300, CHANNELS)) * SIZES).astype(np.float32)
    np.testing.assert_allclose(scale(SIZES, groups=CHANNELS), np.abs(rows).max(axis=0), rtol=1e-6)


def test_uneven_channels_come_closer_together_elsewhere() -> None:
    found = scale(SIZES, groups=1)
    assert np.all(np.diff(found) > 0)
    assert np.ptp(np.log(SIZES / found)) < 0.5 * np.ptp(np.log(SIZES))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_grouped_convolution_is_equalized_like_its_groups_as_one_layer(groups: int) -> None:
    """The outputs of a grouped convolution are those of a layer whose weights between groups are zero."""
    rows = (np.random.default_rng(0).standard_normal((300, CHANNELS)) * SIZES).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((8, CHANNELS)) / SIZES
    low, high = rows.min(axis=0).astype(float), rows.max(axis=0).astype(float)
    group = np.arange(CHANNELS) // (CHANNELS // groups)
    whole = np.concatenate([np.where(group == each, weight, 0.0) for each in range(groups)])
    by_groups = best_channel_scale(seen(rows), low, high, weight, Scheme.ASYMMETRIC, groups=groups).scale
    as_one = best_equalization(seen(rows), low, high, whole, Scheme.ASYMMETRIC, shifted=False).equalization
    assert by_groups / by_groups[0] == pytest.approx(as_one.scale / as_one.scale[0])


@pytest.mark.parametrize("groups", [1, 2, 8, CHANNELS])
def test_no_channel_is_multiplied_without_bound(groups: int) -> None:
    dead = np.where(np.arange(CHANNELS) == 2, 0.0, SIZES)
    found = scale(dead, groups=groups)
    assert np.isfinite(found).all()
    assert found.max() / found.min() <= LARGEST_FACTOR * (1 + 1e-9)


def convolutions(groups: int, sizes: np.ndarray) -> Any:
    """A network without a LayerNormalization; ``sizes`` scale the channels that its grouped convolution reads."""
    generator = np.random.default_rng(0)

    def kernels(out: int, inner: int, side: int) -> np.ndarray:
        return generator.standard_normal((out, inner, side, side)) / np.sqrt(inner * side * side)

    grouped, per_group = kernels(CHANNELS, CHANNELS // groups, 3), CHANNELS // groups
    read = sizes.reshape(groups, per_group)[np.arange(CHANNELS) // per_group]
    return graphs.model(
        "wide = Conv(pixels, widen) active = Relu(wide) "
        f"deep = Conv<group={groups}, pads=[1,1,1,1]>(active, grouped) active_deep = Relu(deep) "
        "narrow = Conv(active_deep, narrow_weight) pooled = ReduceMean<keepdims=0>(narrow, places) "
        "hidden = MatMul(pooled, hidden_weight) logits = MatMul(hidden, head)",
        widen=kernels(CHANNELS, graphs.WIDTH, 1) * sizes[:, None, None, None],
        grouped=grouped / read[:, :, None, None],
        narrow_weight=kernels(8, CHANNELS, 1),
        places=np.array([2, 3]),
        hidden_weight=graphs.weights(8, 8),
        head=graphs.weights(8, 5),
    )


@pytest.mark.parametrize("groups", [1, 2, 8, CHANNELS])
def test_channels_of_other_sizes_before_a_grouped_convolution_do_not_matter(groups: int) -> None:
    images, held_out = graphs.frames(24), graphs.frames(24, seed=1)
    plain = convolutions(groups, np.ones(CHANNELS))
    uneven = convolutions(groups, np.where(np.arange(CHANNELS) % 5, 1.0, 50.0))
    (reference,) = graphs.answers(plain, held_out)

    def reached(graph: Any) -> float:
        return sqnr_db(reference, graphs.answers(graph, held_out)[0])

    assert reached(uneven) > 100
    assert reached(outliers.min_max_quantized(uneven, images)) < reached(quantize(uneven, images).graph) - 10
    assert reached(quantize(uneven, images).graph) > reached(quantize(plain, images).graph) - 3
