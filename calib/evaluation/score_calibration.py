"""Calibration of scores: a temperature for the softmax, and a threshold below which the classifier abstains.

    logits, targets ─▶ fit_temperature ─▶ scores ─▶ fit_threshold ─▶ ConfidenceRecord ─▶ manifest ─▶ Classifier

Neither changes the best class, so accuracy stays the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.accuracy_records import TEMPERATURES, ConfidenceRecord
from vitedge.bundle.bundle import MANIFEST, Bundle
from vitedge.bundle.manifest import SCHEMA_VERSION, Manifest, dump_manifest
from vitedge.calib.evaluation.accuracy import Evaluation
from vitedge.counts import counted
from vitedge.errors import CalibrationError, UsageError
from vitedge.files import write_report
from vitedge.metrics import expected_calibration_error, log_softmax, softmax

MIN_IMAGES = 100
"""With fewer images, a few wrong predictions decide temperature and threshold."""

LOG_TOLERANCE = 1e-5
BLOCK = 1024
"""Number of images whose logits are converted to float64 at a time."""

Logits = NDArray[np.float32]


def check_abstain_error(error: float | None) -> None:
    """Refuse an error rate below 0, or of 1 and more.

    Raises:
        UsageError: the error rate is negative, 1 or more.
    """
    if error is not None and not 0 <= error < 1:
        raise UsageError(
            f"the share of wrong predictions is {error}", expected="0 or more and below 1, such as 0.05 for 5 %"
        )


def check_image_count(images: int) -> None:
    """Refuse a dataset that is too small to fit temperature and threshold.

    Raises:
        CalibrationError: there are fewer than ``MIN_IMAGES`` images.
    """
    if images < MIN_IMAGES:
        raise CalibrationError(
            f"{counted(images, 'image is too few', 'images are too few')} to fit a temperature and a threshold on",
            expected=f"at least {MIN_IMAGES} images with classes, none of them from the training",
        )


def calibrate_scores(evaluation: Evaluation, abstain_error: float | None = None) -> ConfidenceRecord:
    """Fit a temperature on labelled images and, if an error rate is given, a threshold.

    Args:
        evaluation: evaluation of a classifier, with logits.
        abstain_error: greatest error rate among the accepted predictions, 0…1.

    Raises:
        UsageError: ``abstain_error`` is not in 0…1, or is 1.
        CalibrationError: there are too few images, or no threshold reaches the error rate.
        ValueError: the predictions hold no logits.
    """
    check_abstain_error(abstain_error)
    check_image_count(evaluation.images)
    logits, targets, correct = evaluation.predictions.logits, evaluation.targets, evaluation.correct
    if logits is None:
        raise ValueError("these predictions hold no logits")
    temperature = fit_temperature(logits, targets)
    scores = _best_scores(logits, temperature)
    threshold = 0.0 if abstain_error is None else fit_threshold(scores, correct, abstain_error)
    accepted = scores >= threshold
    return ConfidenceRecord(
        temperature=temperature,
        threshold=threshold,
        abstain_error=abstain_error,
        accepted=100.0 * float(accepted.mean()),
        accepted_top1=100.0 * float(correct[accepted].mean()),
        ece_before=expected_calibration_error(_best_scores(logits, 1.0), correct),
        ece_after=expected_calibration_error(scores, correct),
        images=evaluation.images,
        sha256=evaluation.predictions.sha256,
    )


def fit_temperature(logits: Logits, targets: NDArray[np.intp]) -> float:
    """Find the temperature with the lowest mean negative log-likelihood (Guo et al., ICML 2017, section 4.2).

    The negative log-likelihood is convex in the inverse of the temperature, so it has one minimum. A golden-section
    search over the logarithm finds it.

    Args:
        logits: ``(images, classes)`` float32.
        targets: ``(images,)`` index of the true class of each image.

    Returns:
        The temperature; 1 where the images do not determine a temperature: all of them are classified correctly, so
        that the lowest temperature fits best, or the logits say nothing about the classes, so that the highest does.

    Raises:
        CalibrationError: a temperature below all that a bundle may have would fit better.
        ValueError: there are no images, a logit is not finite, or a target is no class.
    """
    _check_fittable(logits, targets)
    if np.all(logits.argmax(axis=1) == targets):
        return 1.0
    low, high = (math.log(bound) for bound in TEMPERATURES)
    found = _golden_section(lambda log: negative_log_likelihood(logits, targets, math.exp(log)), low, high)
    if found < low + 10 * LOG_TOLERANCE:
        raise CalibrationError(
            f"the logits are so small that their best temperature lies below {TEMPERATURES[0]:g}",
            expected="logits with the scale that the model was trained with",
        )
    return 1.0 if found > high - 10 * LOG_TOLERANCE else math.exp(found)


def _check_fittable(logits: Logits, targets: NDArray[np.intp]) -> None:
    if logits.ndim != 2 or not logits.size or logits.dtype.kind != "f" or targets.shape != logits.shape[:1]:
        raise ValueError(f"{logits.dtype} logits of shape {logits.shape} for targets of shape {targets.shape}")
    known = targets.dtype.kind in "iu" and bool(np.all((targets >= 0) & (targets < logits.shape[1])))
    if not known or not np.all(np.isfinite(logits)):
        raise ValueError("logits that are not finite, or targets that are no classes")


def negative_log_likelihood(logits: Logits, targets: NDArray[np.intp], temperature: float) -> float:
    """Return the mean of ``−ln p`` of the true classes, in nats; infinite if a logit is not finite.

    Args:
        logits: ``(images, classes)`` float32.
        targets: ``(images,)`` index of the true class of each image.
        temperature: the logits are divided by it.
    """
    total = 0.0
    for start in range(0, len(logits), BLOCK):
        block = slice(start, start + BLOCK)
        log_probabilities = log_softmax(logits[block].astype(np.float64) / temperature)
        total -= float(np.take_along_axis(log_probabilities, targets[block, np.newaxis], axis=1).sum())
    return total / len(logits) if math.isfinite(total) else math.inf


def fit_threshold(scores: NDArray[np.floating], correct: NDArray[np.bool_], error: float) -> float:
    """Find the lowest threshold at which the error rate of the accepted predictions is at most ``error``.

    Args:
        scores: ``(images,)`` score of the best class, 0…1.
        correct: ``(images,)`` bool, whether the best class is correct.
        error: greatest error rate, 0…1.

    Returns:
        The mean of the lowest accepted score and the highest rejected score, so that rounding moves neither across it;
        0 if all predictions are accepted.

    Raises:
        CalibrationError: no threshold reaches the error rate; the message tells the lowest one.
        ValueError: there are no scores, a score is no probability, or ``correct`` has another shape or type.
    """
    if scores.ndim != 1 or not scores.size or correct.shape != scores.shape or correct.dtype != np.bool_:
        raise ValueError(f"scores of shape {scores.shape} for {correct.dtype} of shape {correct.shape}")
    if scores.dtype.kind != "f" or not np.all((scores >= 0.0) & (scores <= 1.0)):
        raise ValueError("scores that are no probabilities")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    error_rates = np.cumsum(~correct[order]) / np.arange(1, len(ranked) + 1)
    ends = np.append(ranked[1:] < ranked[:-1], True)  # equal scores are accepted together
    within = np.flatnonzero(ends & (error_rates <= error))
    if not within.size:
        raise CalibrationError(
            f"no threshold keeps the error rate of the accepted predictions within {100 * error:g} %: the lowest is "
            f"{100 * error_rates[ends].min():.2f} %",
            expected="an error rate that this model reaches on these images",
            fix="allow a higher abstain_error=",
        )
    return threshold_behind(ranked, int(within[-1]))


def threshold_behind(ranked: NDArray[np.float64], last: int) -> float:
    """Return a threshold between the last accepted score and the next one; 0 if all are accepted.

    Args:
        ranked: ``(images,)`` scores in descending order.
        last: index of the last accepted score.
    """
    return 0.0 if last == len(ranked) - 1 else float(ranked[last] + ranked[last + 1]) / 2


def write_confidence(bundle: Bundle, record: ConfidenceRecord) -> Bundle:
    """Write a record into the manifest of a bundle on disk; it replaces an earlier record.

    Raises:
        UsageError: the manifest cannot be written; the file stays unchanged.
        OutputError: the disk is full; the file stays unchanged.
    """
    return write_manifest(bundle, replace(bundle.manifest, confidence=record))


def write_manifest(bundle: Bundle, changed: Manifest) -> Bundle:
    """Write a changed manifest into a bundle on disk, in the current schema version.

    Raises:
        BundleError: the manifest on disk is not the one that ``bundle`` was opened with.
        UsageError: the manifest cannot be written; the file stays unchanged.
        OutputError: the disk is full; the file stays unchanged.
    """
    manifest = replace(changed, schema_version=SCHEMA_VERSION)
    text = dump_manifest(manifest)
    bundle.unchanged_manifest()
    write_report(bundle.path / MANIFEST, text)
    return replace(bundle, manifest=manifest, manifest_sha256=hashlib.sha256(text.encode()).hexdigest())


def _best_scores(logits: Logits, temperature: float) -> NDArray[np.float32]:
    """Return ``(images,)`` float32: the probability of each best class, as the runtime computes it."""
    blocks = range(0, len(logits), BLOCK)
    return np.concatenate([softmax(logits[at : at + BLOCK] / temperature).max(axis=1) for at in blocks])


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """Find the minimum of a unimodal function, to ``LOG_TOLERANCE`` (Kiefer, Proc. AMS 4, 1953)."""
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
