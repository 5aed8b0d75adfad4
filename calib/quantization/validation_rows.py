"""Rows of activations to judge a choice by, from images that its ranges were not taken from.

A range that is taken from the rows that judge it clips none of them. The next image exceeds it in some channel, the
sooner the fewer images were seen: a choice that forgets this overfits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.observers import ChannelMinMax

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

MOST = 1024
"""Rows within the ranges of the other images, and as many beyond them."""


@dataclass(frozen=True)
class ValidationRows:
    """Activations of some images, and the ranges of others.

    Attributes:
        values: ``(rows, channels)``.
        counts: number of rows that each row stands for, ``(rows,)``.
        low: smallest value of each channel in the other images, ``(channels,)``.
        high: largest.
    """

    values: Floats
    counts: Doubles
    low: Doubles
    high: Doubles

    @classmethod
    def of(cls, images: Sequence[Floats], axis: int, others: ChannelMinMax) -> ValidationRows:
        """Draw rows from images: rare rows beyond the ranges are all taken, or ``MOST`` of them.

        Args:
            images: the tensor of each.
            axis: of its channels.
            others: ranges of the other images.
        """
        moved = [np.moveaxis(values, axis, -1) for values in images]
        rows = np.concatenate([each.reshape(-1, each.shape[-1]) for each in moved])
        beyond = ((rows < others.low) | (rows > others.high)).any(axis=1)
        places = [np.flatnonzero(each) for each in (beyond, ~beyond)]
        random = np.random.default_rng(0)
        drawn = [random.choice(each, min(MOST, len(each)), replace=False) for each in places if len(each)]
        counts = [np.full(min(MOST, len(each)), len(each) / min(MOST, len(each))) for each in places if len(each)]
        low, high = others.low.astype(np.float64), others.high.astype(np.float64)
        return cls(rows[np.concatenate(drawn)], np.concatenate(counts), low, high)

    @property
    def shares(self) -> Floats:
        """Return the counts divided by their sum, ``(rows, 1)``."""
        return np.asarray(self.counts / self.counts.sum(), dtype=np.float32)[:, np.newaxis]

    @property
    def mean(self) -> Doubles:
        """Average each channel over the images, ``(channels,)``."""
        return np.asarray((self.shares * self.values).sum(axis=0, dtype=np.float64))

    def by_channel(self, columns: NDArray[np.intp], channels: int) -> ValidationRows | None:
        """Sort columns that hold copies of channels by their channel; see the function of that name."""
        values = by_channel(self.values, columns, channels)
        low, high = (by_channel(each[np.newaxis], columns, channels) for each in (self.low, self.high))
        if values is None or low is None or high is None:
            return None
        counts = np.tile(self.counts, len(low))
        return replace(self, values=values, counts=counts, low=low.min(axis=0), high=high.max(axis=0))


def by_channel(matrix: NDArray[Any], columns: NDArray[np.intp], channels: int) -> NDArray[Any] | None:
    """Sort columns that hold copies of channels by their channel.

    Args:
        matrix: ``(rows, columns)``.
        columns: channel of each column.
        channels: number of channels.

    Returns:
        ``(copies · rows, channels)``; None unless every channel has as many copies.
    """
    copies = np.bincount(columns, minlength=channels)
    if len(copies) > channels or (copies != copies[0]).any():
        return None
    order = np.argsort(columns, kind="stable").reshape(channels, -1)
    return np.asarray(matrix[:, order].transpose(2, 0, 1).reshape(-1, channels))
