"""Losses of a candidate against fp32 on the same images, with the bound that they keep with 95 % confidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.evaluation.accuracy import Proportion
from vitedge.counts import counted
from vitedge.errors import CalibrationError
from vitedge.metrics import ONE_SIDED_Z_95, wilson_interval

BISECTIONS = 50


@dataclass(frozen=True)
class Loss:
    """A loss, in points of top-1 or in percent of images with another answer.

    Attributes:
        measured: loss on the images.
        bound: the loss on other such images is at most this, with 95 % confidence.
    """

    measured: float
    bound: float


def flip_loss(flipped: Proportion) -> Loss:
    """Return the percent of images with another answer, with Wilson's bound."""
    return Loss(flipped.percent, wilson_interval(flipped.hits, flipped.images, z=ONE_SIDED_Z_95).high)


def top1_loss(reference: NDArray[np.bool_], candidate: NDArray[np.bool_]) -> Loss:
    """Return the drop of top-1, with the score bound of a difference of paired proportions.

    The bound is from Tango, "Equivalence Test and Confidence Interval for the Difference in Proportions for the
    Paired-Sample Design", Statistics in Medicine 17, 1998.

    Args:
        reference: ``(images,)``, whether fp32 is right.
        candidate: ``(images,)``, whether the candidate is right on the same images.
    """
    images = len(reference)
    lost, gained = int(np.sum(reference & ~candidate)), int(np.sum(candidate & ~reference))
    drop = (lost - gained) / images
    low, high = drop, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(middle, lost, gained, images) > -ONE_SIDED_Z_95 else (low, middle)
    return Loss(100.0 * drop, 100.0 * high)


def _score(drop: float, lost: int, gained: int, images: int) -> float:
    """Return the score statistic of a hypothetical drop, 0…1 (equation 7)."""
    linear = (2 * images - lost + gained) * drop - lost - gained
    root = math.sqrt(linear**2 + 8 * images * gained * drop * (1 - drop))
    share = (root - linear) / (4 * images)
    variance = images * (2 * share + drop * (1 - drop))
    return (lost - gained - images * drop) / math.sqrt(variance) if variance > 0 else math.inf


def check_decidable(images: int, max_drop: float, *, labelled: bool) -> None:
    """Refuse images that are too few for a contract: even a candidate that changes no answer could not keep it.

    Args:
        images: number of images to measure losses on.
        max_drop: the contract, in points or percent.
        labelled: whether losses are drops of top-1, and not shares of flips.

    Raises:
        CalibrationError: the images are too few; the message says how many could decide.
    """
    least = flip_loss(Proportion(0, images)).bound  # the bound of a drop is the same where no answer changes
    if least <= max_drop:
        return
    unit = "points" if labelled else "%"
    share = max_drop / 100.0
    enough = (
        f"at least {math.ceil(ONE_SIDED_Z_95**2 * (1 - share) / share)} images to measure losses on" if share else ""
    )
    raise CalibrationError(
        f"{counted(images, 'image')} cannot decide whether a loss is at most {max_drop:g} {unit}: if no answer changes "
        "on them, "
        f"it may still be {least:.2g} {unit} on others, with 95 % confidence",
        expected=enough or "a max_drop= above 0",
        fix=f"give more images, or allow max_drop={math.ceil(10 * least) / 10:g}",
    )
