"""The handwritten digits of scikit-learn, and the split that training and the demo share.

The scans are the test part of UCI's "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998):
1797 digits of 8×8 pixels, which scikit-learn carries in its package.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.extras import require

SPLIT_SEED = 2026
HELD_OUT_SHARE = 0.25
INK_LEVELS = 16

LABELS: tuple[str, ...] = tuple("0123456789")


@dataclass(frozen=True)
class Digits:
    """Handwritten digits and their classes.

    Attributes:
        scans: ``N×8×8`` float32, ink from 0 (none) to 1 (full).
        labels: ``(N,)`` int64, 0…9.
    """

    scans: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Digits:
        """Return the digits at these positions, in this order."""
        return Digits(scans=self.scans[indices], labels=self.labels[indices])


@dataclass(frozen=True)
class Split:
    """The digits for training, and the held-out digits."""

    training: Digits
    held_out: Digits


def load_split() -> Split:
    """Load the fixed split: a quarter of every class, drawn by ``SPLIT_SEED``, is held out.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    datasets = require("sklearn.datasets", extra="demo", purpose="the handwritten digits of the demo")
    scans, labels = datasets.load_digits(return_X_y=True)
    digits = Digits(
        scans=(scans.reshape(-1, 8, 8) / INK_LEVELS).astype(np.float32),
        labels=labels.astype(np.int64),
    )
    held_out = _held_out_indices(digits.labels)
    training = np.setdiff1d(np.arange(len(digits)), held_out)
    return Split(training=digits.take(training), held_out=digits.take(held_out))


def _held_out_indices(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    random = np.random.default_rng(SPLIT_SEED)
    chosen = []
    for label in range(len(LABELS)):
        shuffled = random.permutation(np.flatnonzero(labels == label))
        chosen.append(shuffled[: round(HELD_OUT_SHARE * len(shuffled))])
    return np.sort(np.concatenate(chosen))
