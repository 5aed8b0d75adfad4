"""Rows to judge by: rare ones beyond the ranges of other images are among them, and count no more than they are."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from vitedge.calib.quantization.observers import ChannelMinMax
from vitedge.calib.quantization.validation_rows import MOST, ValidationRows, by_channel

CHANNELS = 3
LIMIT = np.ones(CHANNELS, np.float32)


def drawn(beyond: int, rows: int = 4 * MOST) -> ValidationRows:
    """From two images of ``(1, channels, rows)``, some rows of the second beyond ±1 in one channel."""
    images = np.random.default_rng(0).uniform(-1, 1, (2, 1, CHANNELS, rows)).astype(np.float32)
    images[1, 0, 1, :beyond] = np.linspace(2, 3, beyond)
    return ValidationRows.of(list(images), 1, ChannelMinMax(-LIMIT, LIMIT))


@pytest.mark.parametrize("beyond", [0, 1, MOST, 2 * MOST])
def test_rows_beyond_the_ranges_are_taken_first_and_each_stands_for_its_share(beyond: int) -> None:
    found = drawn(beyond)
    exceeds = (np.abs(found.values) > 1).any(axis=1)
    assert exceeds.sum() == min(beyond, MOST)
    assert (~exceeds).sum() == MOST
    assert found.counts[exceeds].sum() == pytest.approx(beyond)
    assert found.counts.sum() == pytest.approx(8 * MOST)
    assert found.shares.sum() == pytest.approx(1, rel=1e-5)


def test_a_single_row_is_enough() -> None:
    found = drawn(0, rows=1)
    assert found.values.shape == (2, CHANNELS)
    assert found.mean == pytest.approx(found.values.mean(axis=0), rel=1e-5)


def test_copies_of_a_channel_share_its_range() -> None:
    rows = ValidationRows(
        np.array([[10, 20, 11, 21]], np.float32),
        np.array([5.0]),
        np.array([1.0, 2, 0, 3]),
        np.array([30.0, 31, 32, 29]),
    )
    found = rows.by_channel(np.array([0, 1, 0, 1]), 2)
    assert found is not None
    assert sorted(map(tuple, found.values)) == [(10, 20), (11, 21)]
    assert found.counts.tolist() == [5, 5]
    assert found.low.tolist() == [0, 2]
    assert found.high.tolist() == [32, 31]
    assert rows.by_channel(np.array([0, 1, 0, 0]), 2) is None


def test_columns_are_sorted_by_their_channel() -> None:
    matrix = np.array([[10, 20, 11, 21], [12, 22, 13, 23]])
    sorted_columns = by_channel(matrix, np.array([0, 1, 0, 1]), 2)
    assert sorted_columns is not None
    assert sorted(map(tuple, sorted_columns)) == [(10, 20), (11, 21), (12, 22), (13, 23)]
    assert by_channel(matrix, np.array([0, 1, 0, 0]), 2) is None
