"""Channels before convolutions: one range where weights pay nothing, a compromise elsewhere, bounded factors."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.conv_equalization import LARGEST_FACTOR, best_channel_scale
from vitedge.calib.quantization.layernorm_equalization import best_equalization

CHANNELS = 6
SIZES = 10.0 ** np.linspace(-1, 0.5, CHANNELS)


def scale(sizes: np.ndarray, *, groups: int) -> np.ndarray:
    rows = (np.random.default_rng(0).standard_normal((300, CHANNELS)) * sizes).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((8, CHANNELS)) / np.maximum(sizes, 1e-3)
    low, high = rows.min(axis=0).astype(float), rows.max(axis=0).astype(float)
    return best_channel_scale(rows, low, high, weight, Scheme.ASYMMETRIC, groups=groups)


def test_depthwise_channels_come_to_exactly_one_range() -> None:
    rows = (np.random.default_rng(0).standard_normal((300, CHANNELS)) * SIZES).astype(np.float32)
    np.testing.assert_allclose(scale(SIZES, groups=CHANNELS), np.abs(rows).max(axis=0), rtol=1e-6)


def test_uneven_channels_come_closer_together_elsewhere() -> None:
    found = scale(SIZES, groups=1)
    assert np.all(np.diff(found) > 0)
    assert np.ptp(np.log(SIZES / found)) < 0.5 * np.ptp(np.log(SIZES))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_grouped_convolution_is_equalized_like_its_groups_as_one_layer(groups: int) -> None:
    """The outputs of a grouped convolution are those of a layer whose weights between groups are zero."""
    rows = (np.random.default_rng(0).standard_normal((300, CHANNELS)) * SIZES).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((8, CHANNELS)) / SIZES
    low, high = rows.min(axis=0).astype(float), rows.max(axis=0).astype(float)
    group = np.arange(CHANNELS) // (CHANNELS // groups)
    whole = np.concatenate([np.where(group == each, weight, 0.0) for each in range(groups)])
    by_groups = best_channel_scale(rows, low, high, weight, Scheme.ASYMMETRIC, groups=groups)
    as_one, _ = best_equalization(rows, low, high, whole, Scheme.ASYMMETRIC, shifted=False)
    assert by_groups / by_groups[0] == pytest.approx(as_one.scale / as_one.scale[0])


@pytest.mark.parametrize("groups", [1, 2, CHANNELS])
def test_no_channel_is_multiplied_without_bound(groups: int) -> None:
    dead = np.where(np.arange(CHANNELS) == 2, 0.0, SIZES)
    found = scale(dead, groups=groups)
    assert np.isfinite(found).all()
    assert found.max() / found.min() <= LARGEST_FACTOR * (1 + 1e-9)
