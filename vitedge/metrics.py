"""Metrics that compare outputs: error, signal-to-quantization-noise ratio, agreement, intervals.

No input passes a comparison for free. Inputs that are no arrays of real numbers, are empty, or differ in shape raise
ValueError. NaN, infinity and an all-zero reference give the worst value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Logits = NDArray[np.floating]
Doubles = NDArray[np.float64]

SQNR_CAP_DB = 200.0
Z_95 = 1.959963984540054
ONE_SIDED_Z_95 = 1.6448536269514722
"""95th percentile of the normal distribution, for a bound on one side."""
ECE_BINS = 15

_REAL = "fiu"
"""NumPy's letters for the kinds of real numbers."""
_SQUARES_FIT = 1e100
"""Sums of squares of numbers up to this fit a double."""


@dataclass(frozen=True)
class Parity:
    """How close one set of logits is to its reference.

    Attributes:
        max_abs_error: largest absolute difference of any logit; infinite if a logit is not finite.
        relative_error: ``max_abs_error`` divided by the reference's range (largest minus smallest logit), or by a
            single logit; infinite if the divisor is 0 or not finite.
        sqnr_db: ``10·log10(Σ reference² / Σ (reference − actual)²)``, capped at 200.
        agreement: percent of images with the same top-1; an image whose logits are all equal never agrees.
        images: number of compared images.
    """

    max_abs_error: float
    relative_error: float
    sqnr_db: float
    agreement: float
    images: int


def parity(reference: Logits, actual: Logits) -> Parity:
    """Compare logits of shape ``(images, classes)``.

    Returns:
        The parity; if a logit is not finite or the reference is zero, infinite errors, −200 dB and an agreement of 0.

    Raises:
        ValueError: shapes differ, the reference is empty, or an input holds no real numbers.
    """
    if np.shape(reference) != np.shape(actual) or np.ndim(reference) != 2 or np.size(reference) == 0:
        raise ValueError(
            f"logits of shape {np.shape(actual)} against {np.shape(reference)}; expected two equal (images, classes)"
        )
    ours, theirs = _doubles(reference), _doubles(actual)
    if not _usable(ours, theirs):
        return Parity(math.inf, math.inf, -SQNR_CAP_DB, 0.0, len(ours))
    with np.errstate(over="ignore"):
        worst = float(np.abs(ours - theirs).max())
        scale = float(ours.max() - ours.min()) or float(np.abs(ours).max())
    return Parity(
        max_abs_error=worst,
        relative_error=worst / scale if worst < math.inf else math.inf,
        sqnr_db=sqnr_db(ours, theirs),
        agreement=100.0 * float(np.mean(_agreeing(ours, theirs))),
        images=len(ours),
    )


def _agreeing(ours: Doubles, theirs: Doubles) -> NDArray[np.bool_]:
    """Return ``(images,)`` bool: whether both prefer the same class."""
    return np.asarray((ours.argmax(axis=1) == theirs.argmax(axis=1)) & _decided(ours) & _decided(theirs))


def _decided(logits: Doubles) -> NDArray[np.bool_]:
    """Return ``(images,)`` bool: whether a class is preferred; a single class is, if its logit is not 0."""
    return np.asarray(np.any(logits != (logits[:, :1] if logits.shape[1] > 1 else 0.0), axis=1))


def sqnr_db(reference: Logits, actual: Logits) -> float:
    """Return the signal-to-quantization-noise ratio in dB, capped at ±200.

    Returns:
        −200 if a number is not finite or the reference is all zero; 200 if both are equal.

    Raises:
        ValueError: shapes differ, both are empty, or an input holds no real numbers.
    """
    if np.shape(reference) != np.shape(actual) or np.size(reference) == 0:
        raise ValueError(f"numbers of shape {np.shape(actual)} against {np.shape(reference)}; expected two equal ones")
    ours, theirs = _doubles(reference), _doubles(actual)
    if not _usable(ours, theirs):
        return -SQNR_CAP_DB
    peak = max(float(np.abs(ours).max()), float(np.abs(theirs).max()))
    if not 1.0 / _SQUARES_FIT < peak < _SQUARES_FIT:
        ours, theirs = ours / peak, theirs / peak
    signal = float(np.sum(np.square(ours)))
    noise = float(np.sum(np.square(ours - theirs)))
    if signal == 0.0:  # next to the other, the squared reference underflows
        return -SQNR_CAP_DB
    if noise == 0.0:
        return SQNR_CAP_DB
    return max(-SQNR_CAP_DB, min(SQNR_CAP_DB, 10.0 * math.log10(signal / noise)))


def _usable(reference: Doubles, actual: Doubles) -> bool:
    return bool(np.all(np.isfinite(reference)) and np.all(np.isfinite(actual)) and np.any(reference))


def _doubles(values: ArrayLike) -> Doubles:
    """Convert real numbers to float64.

    Raises:
        ValueError: the values are complex, bool, text, dates or objects.
    """
    array: NDArray[Any] = np.asarray(values)
    if array.dtype.kind not in _REAL:
        raise ValueError(f"an array of {array.dtype}; expected real numbers")
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype=np.float64)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities over the last axis, same shape, float32; NaN in each row with a logit that is not finite.

    Raises:
        ValueError: the logits are no real numbers, or there are no classes.
    """
    _check_classes(logits)
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = np.exp(_shifted(logits))
        return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def kl_divergence(reference: Logits, actual: Logits) -> Doubles:
    """Return the Kullback-Leibler divergence of softmax distributions, ``Σ p·ln(p/q)`` with ``p`` of the reference.

    Args:
        reference: logits; classes on the last axis.
        actual: logits of the same shape.

    Returns:
        Float64 without the last axis, in nats; 0 if both give every class the same probability. Infinity if a logit is
        not finite, or if all logits of both are 0, which says nothing.

    Raises:
        ValueError: shapes differ, there are no classes, or an input holds no real numbers.
    """
    if np.shape(reference) != np.shape(actual):
        raise ValueError(f"logits of shape {np.shape(actual)} against {np.shape(reference)}")
    expected, given = log_softmax(reference), log_softmax(actual)
    with np.errstate(invalid="ignore"):
        divergence = np.sum(np.exp(expected) * (expected - given), axis=-1)
    silent = ~(np.any(np.asarray(reference) != 0, axis=-1) | np.any(np.asarray(actual) != 0, axis=-1))
    divergence = np.where(np.isfinite(divergence) & ~silent, divergence, math.inf)
    return np.asarray(np.maximum(divergence, 0.0))  # rounding errors can make it negative


def log_softmax(logits: Logits) -> Doubles:
    """Return the logarithm of the softmax over the last axis, same shape, float64; NaN as in ``softmax``.

    Raises:
        ValueError: the logits are no real numbers, or there are no classes.
    """
    _check_classes(logits)
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = _shifted(_doubles(logits))
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def sigmoid(logits: Logits) -> NDArray[np.float32]:
    """Return the logistic function of each logit, same shape, float32; NaN where a logit is not finite.

    Raises:
        ValueError: the logits are no real numbers, or there are no classes.
    """
    return np.asarray(np.exp(log_sigmoid(logits)), dtype=np.float32)


def reach(scores: NDArray[np.float32], thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Return ``scores ≥ thresholds`` in float64, so that the runtime and an evaluation decide alike.

    Args:
        scores: ``(…, labels)`` scores, 0…1.
        thresholds: one for each label.
    """
    return np.asarray(np.asarray(scores, np.float64) >= np.asarray(thresholds, np.float64))


def log_sigmoid(logits: Logits) -> Doubles:
    """Return the logarithm of the logistic function of each logit, same shape, float64; NaN as in ``sigmoid``.

    Raises:
        ValueError: the logits are no real numbers, or there are no classes.
    """
    _check_classes(logits)
    values = _doubles(logits)
    with np.errstate(invalid="ignore"):
        return np.asarray(-np.logaddexp(0.0, -np.where(np.isfinite(values), values, np.nan)))


def binary_kl_divergence(reference: Logits, actual: Logits) -> Doubles:
    """Return the Kullback-Leibler divergence of independent labels: the sum of ``p·ln(p/q) + (1−p)·ln((1−p)/(1−q))``.

    ``p`` and ``q`` are the sigmoid of the reference and of the other logits.

    Args:
        reference: logits; labels on the last axis.
        actual: logits of the same shape.

    Returns:
        Float64 without the last axis, in nats; 0 if both are equal. Infinity if a logit is not finite.

    Raises:
        ValueError: shapes differ, there are no labels, or an input holds no real numbers.
    """
    if np.shape(reference) != np.shape(actual):
        raise ValueError(f"logits of shape {np.shape(actual)} against {np.shape(reference)}")
    ours, theirs = _doubles(reference), _doubles(actual)
    present = np.exp(log_sigmoid(ours)) * (log_sigmoid(ours) - log_sigmoid(theirs))
    absent = np.exp(log_sigmoid(-ours)) * (log_sigmoid(-ours) - log_sigmoid(-theirs))
    divergence = np.sum(present + absent, axis=-1)
    return np.asarray(np.maximum(np.where(np.isfinite(divergence), divergence, math.inf), 0.0))


def average_precision(scores: NDArray[np.floating], targets: NDArray[np.bool_]) -> float:
    """Return the average precision of a ranking, in percent: ``Σ (Rₙ − Rₙ₋₁)·Pₙ`` over the distinct scores.

    Args:
        scores: ``(images,)`` score of a label in each image; equal scores share a rank.
        targets: ``(images,)`` bool, whether the image has the label.

    Raises:
        ValueError: shapes differ, no image has the label, a score is not finite, or ``targets`` is not bool.
    """
    if np.shape(scores) != np.shape(targets) or np.ndim(scores) != 1 or np.asarray(targets).dtype != np.bool_:
        raise ValueError(f"scores of shape {np.shape(scores)} for targets of shape {np.shape(targets)}")
    values = _doubles(scores)
    if not np.any(targets) or not np.all(np.isfinite(values)):
        raise ValueError("no image has the label, or scores that are not finite")
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) < 0, True))
    hits = np.cumsum(targets[order])[ends]
    gained = np.diff(hits, prepend=0) / hits[-1]
    return 100.0 * float(np.sum(gained * hits / (ends + 1)))


def f1_score(hits: int, predicted: int, present: int) -> float | None:
    """Return ``2·hits / (predicted + present)``, in percent; None if nothing is predicted and nothing is present.

    Raises:
        ValueError: a count is negative, or there are more hits than one of the others.
    """
    if not 0 <= hits <= min(predicted, present):
        raise ValueError(f"{hits} hits of {predicted} predicted and {present} present")
    return 200.0 * hits / (predicted + present) if predicted + present else None


def _check_classes(logits: NDArray[Any]) -> None:
    array: NDArray[Any] = np.asarray(logits)
    if array.dtype.kind not in _REAL or array.ndim < 1 or array.size == 0:
        raise ValueError(f"logits of shape {array.shape} and type {array.dtype}; expected real numbers, one a class")


def _shifted(logits: NDArray[Any]) -> NDArray[Any]:
    """Subtract the largest logit from each row; NaN in the whole row if a logit is not finite."""
    finite = np.all(np.isfinite(logits), axis=-1, keepdims=True)
    return np.asarray(np.where(finite, logits - logits.max(axis=-1, keepdims=True), np.nan))


def expected_calibration_error(
    scores: NDArray[np.floating], correct: NDArray[np.bool_], *, bins: int = ECE_BINS
) -> float:
    """Return the expected calibration error of scores, in percent (Guo et al., ICML 2017, equation 3).

    Args:
        scores: ``(images,)`` probability of the best class, 0…1.
        correct: ``(images,)`` bool, whether the best class is correct.
        bins: number of bins of equal width, each closed above.

    Raises:
        ValueError: shapes differ, there are no images or no bins, a score is no probability, or ``correct`` is not
            bool.
    """
    if np.shape(scores) != np.shape(correct) or np.ndim(scores) != 1 or not np.size(scores):
        raise ValueError(f"scores of shape {np.shape(scores)} for predictions of shape {np.shape(correct)}")
    probabilities = _doubles(scores)
    if np.asarray(correct).dtype != np.bool_ or not np.all((probabilities >= 0.0) & (probabilities <= 1.0)) or bins < 1:
        raise ValueError("scores that are no probabilities, predictions that are not bool, or no bins")
    bin_of = np.clip(np.ceil(probabilities * bins).astype(np.intp) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=probabilities - correct, minlength=bins)
    return 100.0 * float(np.abs(gaps).sum()) / probabilities.size


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in percent."""

    low: float
    high: float


def wilson_interval(successes: int, trials: int, *, z: float = Z_95) -> Interval:
    """Return Wilson's score interval of a proportion, in percent (E. B. Wilson, JASA 22, 1927; 95 % by default).

    Raises:
        ValueError: there are no trials, successes are outside 0…trials, or a count is no integer.
    """
    counts = (successes, trials)
    if not all(isinstance(each, (int, np.integer)) for each in counts) or trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    share = successes / trials
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(
        low=100.0 * (center - half) if successes > 0 else 0.0,
        high=100.0 * (center + half) if successes < trials else 100.0,
    )
