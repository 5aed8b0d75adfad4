"""Scores that mean what they say: a temperature for the softmax, and a threshold below which to abstain.

    logits, targets ─▶ fit_temperature ─▶ scores ─▶ fit_threshold ─▶ ConfidenceRecord ─▶ manifest ─▶ Classifier

Neither changes which class is best, so accuracy stays as it was.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import MANIFEST, Bundle
from vitedge.bundle.manifest import SCHEMA_VERSION, ConfidenceRecord, dump_manifest
from vitedge.calib.evaluation.accuracy import Evaluation
from vitedge.errors import CalibrationError, UsageError
from vitedge.files import write_report
from vitedge.metrics import expected_calibration_error, log_softmax, softmax

MIN_IMAGES = 100
"""With fewer, a handful of wrong answers decides about temperature and threshold."""

TEMPERATURES = (1 / 64, 64.0)
LOG_TOLERANCE = 1e-5
BLOCK = 1024
"""Images whose logits are in float64 at a time."""

Logits = NDArray[np.float32]


def check_abstain_error(error: float | None) -> None:
    """Refuse what is no share.

    Raises:
        UsageError: it is not in 0…1, or it is 1.
    """
    if error is not None and not 0 <= error < 1:
        raise UsageError(
            f"the share of wrong answers is {error}", expected="0 or more and below 1, such as 0.05 for 5 %"
        )


def check_enough(images: int) -> None:
    """Refuse a set that is too small to fit anything on.

    Raises:
        CalibrationError: it has fewer than ``MIN_IMAGES``.
    """
    if images < MIN_IMAGES:
        raise CalibrationError(
            f"{images} images are too few to fit a temperature and a threshold on",
            expected=f"at least {MIN_IMAGES} images with classes, unlike those of the training",
        )


def fit(evaluation: Evaluation, abstain_error: float | None = None) -> ConfidenceRecord:
    """Fit a temperature on the answers to labelled images, and a threshold where a share of errors is given.

    Args:
        evaluation: of a classifier whose answers hold their logits.
        abstain_error: share of wrong answers to stay within among those that are not abstained from, 0…1.

    Raises:
        UsageError: ``abstain_error`` is no share.
        CalibrationError: the images are too few, or no threshold keeps the error within the share.
    """
    check_abstain_error(abstain_error)
    check_enough(evaluation.images)
    logits, targets, right = evaluation.answers.logits, evaluation.targets, evaluation.right
    if logits is None:
        raise ValueError("these answers hold no logits")
    temperature = fit_temperature(logits, targets)
    scores = _best_scores(logits, temperature)
    threshold = 0.0 if abstain_error is None else fit_threshold(scores, right, abstain_error)
    accepted = scores >= threshold
    return ConfidenceRecord(
        temperature=temperature,
        threshold=threshold,
        abstain_error=abstain_error,
        accepted=100.0 * float(accepted.mean()),
        accepted_top1=100.0 * float(right[accepted].mean()),
        ece_before=expected_calibration_error(_best_scores(logits, 1.0), right),
        ece_after=expected_calibration_error(scores, right),
        images=evaluation.images,
        sha256=evaluation.answers.sha256,
    )


def fit_temperature(logits: Logits, targets: NDArray[np.intp]) -> float:
    """The temperature of the least mean negative log-likelihood (Guo et al., ICML 2017, section 4.2).

    The likelihood is convex in the inverse of the temperature, so it has one minimum, which a golden-section search
    over the logarithm finds.

    Args:
        logits: ``(images, classes)`` float32.
        targets: ``(images,)`` the right class of each.

    Returns:
        The temperature; 1 where the images cannot tell it: all are classified right, which any smaller temperature
        would make more likely, or the logits know nothing of the classes, so that any larger one would.

    Raises:
        ValueError: there are no images, a logit is not finite, or a target is no class.
    """
    _check_fittable(logits, targets)
    if np.all(logits.argmax(axis=1) == targets):
        return 1.0
    low, high = (math.log(bound) for bound in TEMPERATURES)
    found = _golden_section(lambda log: negative_log_likelihood(logits, targets, math.exp(log)), low, high)
    return 1.0 if found > high - 10 * LOG_TOLERANCE else math.exp(found)


def _check_fittable(logits: Logits, targets: NDArray[np.intp]) -> None:
    if logits.ndim != 2 or not logits.size or logits.dtype.kind != "f" or targets.shape != logits.shape[:1]:
        raise ValueError(f"{logits.dtype} logits of shape {logits.shape} for targets of shape {targets.shape}")
    known = targets.dtype.kind in "iu" and bool(np.all((targets >= 0) & (targets < logits.shape[1])))
    if not known or not np.all(np.isfinite(logits)):
        raise ValueError("logits that are not finite, or targets that are no classes")


def negative_log_likelihood(logits: Logits, targets: NDArray[np.intp], temperature: float) -> float:
    """Mean of ``−ln p`` of the right classes, in nats; infinite where a logit is not finite.

    Arguments are those of ``fit_temperature``.
    """
    total = 0.0
    for start in range(0, len(logits), BLOCK):
        block = slice(start, start + BLOCK)
        likely = log_softmax(logits[block].astype(np.float64) / temperature)
        total -= float(np.take_along_axis(likely, targets[block, np.newaxis], axis=1).sum())
    return total / len(logits) if math.isfinite(total) else math.inf


def fit_threshold(scores: NDArray[np.floating], right: NDArray[np.bool_], error: float) -> float:
    """The smallest threshold at which at most a share of the accepted answers is wrong.

    Args:
        scores: ``(images,)`` of the best classes, 0…1.
        right: ``(images,)`` whether each is the class of the image.
        error: the share, 0…1.

    Returns:
        Halfway between the lowest accepted score and the highest one below, so that rounding moves neither over it;
        0 where all can be accepted.

    Raises:
        CalibrationError: there is none; the message says how low the share comes.
        ValueError: scores are no probabilities, there are none, or ``right`` holds no truth values for them.
    """
    if scores.ndim != 1 or not scores.size or right.shape != scores.shape or right.dtype != np.bool_:
        raise ValueError(f"scores of shape {scores.shape} for {right.dtype} answers of shape {right.shape}")
    if scores.dtype.kind != "f" or not np.all((scores >= 0.0) & (scores <= 1.0)):
        raise ValueError("scores that are no probabilities")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    wrong = np.cumsum(~right[order]) / np.arange(1, len(ranked) + 1)
    ends = np.append(ranked[1:] < ranked[:-1], True)  # equal scores are accepted together
    within = np.flatnonzero(ends & (wrong <= error))
    if not within.size:
        raise CalibrationError(
            f"no threshold keeps the wrong answers among the accepted ones within {100 * error:g} %: the fewest are "
            f"{100 * wrong[ends].min():.2f} %",
            expected="a share of wrong answers that this model reaches on these images",
            fix="allow more with --abstain-error",
        )
    last = int(within[-1])
    return 0.0 if last == len(ranked) - 1 else float(ranked[last] + ranked[last + 1]) / 2


def store(bundle: Bundle, record: ConfidenceRecord) -> Bundle:
    """Write a record into the manifest of a bundle on disk, in the place of an earlier one.

    Raises:
        UsageError: the manifest cannot be written; it stays as it was.
    """
    manifest = replace(bundle.manifest, schema_version=SCHEMA_VERSION, confidence=record)
    text = dump_manifest(manifest)
    write_report(bundle.path / MANIFEST, text)
    return replace(bundle, manifest=manifest, manifest_sha256=hashlib.sha256(text.encode()).hexdigest())


def _best_scores(logits: Logits, temperature: float) -> NDArray[np.float32]:
    """``(images,)`` probabilities of the best classes, as the runtime computes them."""
    blocks = range(0, len(logits), BLOCK)
    return np.concatenate([softmax(logits[at : at + BLOCK] / temperature).max(axis=1) for at in blocks])


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum has it, to ``LOG_TOLERANCE`` (Kiefer, Proc. AMS 4, 1953)."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > LOG_TOLERANCE:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
