"""Numbers that compare outputs: error, signal-to-quantization-noise ratio, agreement, intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.floating]

SQNR_CAP_DB = 200.0
Z_95 = 1.959963984540054
ECE_BINS = 15


@dataclass(frozen=True)
class Parity:
    """How close one set of logits is to its reference.

    Attributes:
        max_abs_error: largest absolute difference of any logit.
        relative_error: ``max_abs_error`` over the reference's range (largest minus smallest logit).
        sqnr_db: ``10·log10(Σ reference² / Σ (reference − actual)²)``, capped at 200.
        agreement: percent of images with the same top-1.
        images: how many were compared.
    """

    max_abs_error: float
    relative_error: float
    sqnr_db: float
    agreement: float
    images: int


def parity(reference: Logits, actual: Logits) -> Parity:
    """Compare logits of shape ``(images, classes)``.

    Raises:
        ValueError: shapes differ, or the reference is empty.
    """
    if reference.shape != actual.shape or reference.ndim != 2 or reference.size == 0:
        raise ValueError(
            f"logits of shape {actual.shape} against {reference.shape}; expected two equal (images, classes)"
        )
    difference = np.abs(reference.astype(np.float64) - actual.astype(np.float64))
    worst = float(difference.max())
    spread = float(reference.max() - reference.min())
    return Parity(
        max_abs_error=worst,
        relative_error=worst / spread if spread > 0 else math.inf if worst > 0 else 0.0,
        sqnr_db=sqnr_db(reference, actual),
        agreement=100.0 * float(np.mean(reference.argmax(axis=1) == actual.argmax(axis=1))),
        images=len(reference),
    )


def sqnr_db(reference: Logits, actual: Logits) -> float:
    """Signal-to-quantization-noise ratio in dB, capped at ±200; NaN or infinity in ``actual`` gives −200."""
    if not np.all(np.isfinite(actual)):
        return -SQNR_CAP_DB
    signal = float(np.sum(np.square(reference, dtype=np.float64)))
    noise = float(np.sum(np.square(reference.astype(np.float64) - actual.astype(np.float64))))
    if noise == 0.0:
        return SQNR_CAP_DB
    if signal == 0.0:
        return -SQNR_CAP_DB
    return max(-SQNR_CAP_DB, min(SQNR_CAP_DB, 10.0 * math.log10(signal / noise)))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis, same shape and dtype."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def kl_divergence(reference: Logits, actual: Logits) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of softmax distributions, ``Σ p·ln(p/q)`` with ``p`` of the reference.

    Args:
        reference: finite logits; classes on the last axis.
        actual: finite logits of the same shape.

    Returns:
        Float64 without the last axis, in nats; 0 where both give every class the same probability.

    Raises:
        ValueError: shapes differ.
    """
    if reference.shape != actual.shape:
        raise ValueError(f"logits of shape {actual.shape} against {reference.shape}")
    expected, given = log_softmax(reference), log_softmax(actual)
    divergence = np.sum(np.exp(expected) * (expected - given), axis=-1)
    return np.asarray(np.maximum(divergence, 0.0))  # sums of rounding errors can lie below


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Logarithms of the probabilities over the last axis, same shape, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def expected_calibration_error(
    scores: NDArray[np.floating], right: NDArray[np.bool_], *, bins: int = ECE_BINS
) -> float:
    """How far scores are from the share of right answers, in percent (Guo et al., ICML 2017, equation 3).

    Args:
        scores: ``(images,)`` probabilities of the best classes, 0…1.
        right: ``(images,)`` whether each is the class of the image.
        bins: of equal width, each closed above.

    Raises:
        ValueError: shapes differ, or there are no images.
    """
    if scores.shape != right.shape or scores.ndim != 1 or not scores.size:
        raise ValueError(f"scores of shape {scores.shape} for answers of shape {right.shape}")
    bin_of = np.clip(np.ceil(scores.astype(np.float64) * bins).astype(np.intp) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=scores.astype(np.float64) - right, minlength=bins)
    return 100.0 * float(np.abs(gaps).sum()) / scores.size


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in percent."""

    low: float
    high: float


def wilson_interval(successes: int, trials: int, *, z: float = Z_95) -> Interval:
    """Wilson score interval of a proportion, in percent (E. B. Wilson, JASA 22, 1927; 95 % by default).

    Raises:
        ValueError: no trials, or successes outside 0…trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    share = successes / trials
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(
        low=100.0 * (center - half) if successes > 0 else 0.0,
        high=100.0 * (center + half) if successes < trials else 100.0,
    )
