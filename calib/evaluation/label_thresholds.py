"""Thresholds of a multi-label model, one for each label, fitted on labelled images.

label scores, targets ─▶ fit_f1_threshold or fit_threshold ─▶ ThresholdsRecord ─▶ manifest ─▶ Classifier
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.accuracy_records import ThresholdsRecord
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.model_card import LABEL_THRESHOLD
from vitedge.calib.evaluation.multilabel import LabelEvaluation, score_labels
from vitedge.calib.evaluation.score_calibration import (
    check_abstain_error,
    check_image_count,
    fit_threshold,
    threshold_behind,
    write_manifest,
)
from vitedge.errors import CalibrationError


def fit_label_thresholds(evaluation: LabelEvaluation, abstain_error: float | None = None) -> ThresholdsRecord:
    """Fit the threshold of each label that an image has; other labels keep 0.5.

    Args:
        evaluation: of a multi-label model.
        abstain_error: largest share of wrong images, 0…1, among the images that get a label; the lowest threshold that
            keeps it is taken. None to take the threshold with the highest F1.

    Raises:
        UsageError: ``abstain_error`` is not in 0…1, or is 1.
        CalibrationError: there are too few images, or no threshold of a label keeps the share.
    """
    check_abstain_error(abstain_error)
    check_image_count(evaluation.images)
    scores, targets = evaluation.predictions.label_scores, evaluation.targets
    thresholds = tuple(
        _threshold(label.label, scores[:, index], targets[:, index], abstain_error) if label.images else LABEL_THRESHOLD
        for index, label in enumerate(evaluation.labels)
    )
    return ThresholdsRecord(
        thresholds=thresholds,
        abstain_error=abstain_error,
        fitted=len(evaluation.known_labels),
        macro_f1_before=_macro_f1(evaluation, (LABEL_THRESHOLD,) * len(thresholds)),
        macro_f1_after=_macro_f1(evaluation, thresholds),
        images=evaluation.images,
        sha256=evaluation.predictions.sha256,
    )


def _threshold(
    label: str, scores: NDArray[np.float32], targets: NDArray[np.bool_], abstain_error: float | None
) -> float:
    if abstain_error is None:
        return fit_f1_threshold(scores, targets)
    try:
        return fit_threshold(scores, targets, abstain_error)
    except CalibrationError as error:
        raise CalibrationError(f"label {label!r}: {error.problem}", expected=error.expected, fix=error.fix) from error


def fit_f1_threshold(scores: NDArray[np.floating], targets: NDArray[np.bool_]) -> float:
    """Find the threshold with the highest F1, and the highest such threshold.

    Args:
        scores: ``(images,)`` score of a label in each image, 0…1.
        targets: ``(images,)`` bool, whether the image has the label; at least one has it.

    Returns:
        The mean of the lowest accepted score and the highest rejected score; 0 if all images are accepted.

    Raises:
        ValueError: there are no scores, no image has the label, or ``targets`` has another shape or type.
    """
    if scores.ndim != 1 or targets.shape != scores.shape or targets.dtype != np.bool_ or not targets.any():
        raise ValueError(f"scores of shape {scores.shape} for {targets.dtype} of shape {targets.shape}")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    ends = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))  # equal scores are accepted together
    f1 = 2.0 * np.cumsum(targets[order])[ends] / (ends + 1 + int(targets.sum()))
    return threshold_behind(ranked, int(ends[int(f1.argmax())]))


def _macro_f1(evaluation: LabelEvaluation, thresholds: tuple[float, ...]) -> float:
    return score_labels(replace(evaluation.predictions, thresholds=thresholds)).macro_f1


def write_thresholds(bundle: Bundle, record: ThresholdsRecord) -> Bundle:
    """Write a record into the manifest of a bundle on disk; it replaces an earlier record.

    Raises:
        UsageError: the manifest cannot be written; the file stays unchanged.
        OutputError: the disk is full; the file stays unchanged.
    """
    return write_manifest(bundle, replace(bundle.manifest, thresholds=record))
