"""Accuracy of multi-label models, and the differences between two of them.

    label file ─▶ predict ─▶ Predictions ─┬▶ score_labels   (needs labels)    ─▶ LabelEvaluation
                                          └▶ compare_labels (needs no labels) ─▶ LabelComparison

A decision is whether an image gets a label, which its score and the label's threshold decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.data.dataset import ImageFile, some_names
from vitedge.calib.evaluation.accuracy import Proportion, check_same_labels
from vitedge.calib.evaluation.predictions import Predictions
from vitedge.counts import counted
from vitedge.errors import CalibrationError, UsageError
from vitedge.metrics import average_precision, f1_score
from vitedge.prediction import ClassScore

Decisions = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelScore:
    """How well a model tells one label.

    Attributes:
        label: name of the label.
        threshold: score from which an image gets the label.
        images: images that have the label.
        precision: percent of the images that get the label and have it; None if no image gets it.
        recall: percent of the images that have the label and get it; None if no image has it.
        f1: harmonic mean of precision and recall, in percent; None if no image has or gets the label.
        average_precision: of the ranking by score, in percent; None if no image has the label.
    """

    label: str
    threshold: float
    images: int
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None


@dataclass(frozen=True, eq=False)
class LabelEvaluation:
    """Accuracy of a multi-label model on images whose labels are known.

    Attributes:
        predictions: image by image, with logits.
        targets: ``(images, labels)`` bool, whether an image has a label.
        labels: the labels of the model, in order.
        micro_f1: F1 of all decisions together, in percent; None if no image has or gets a label.
        exact_proportion: images whose labels are all right.
    """

    predictions: Predictions
    targets: Decisions
    labels: tuple[LabelScore, ...]
    micro_f1: float | None
    exact_proportion: Proportion

    @property
    def images(self) -> int:
        """Return the number of images that were evaluated."""
        return len(self.predictions)

    @property
    def known_labels(self) -> tuple[LabelScore, ...]:
        """Return the labels that at least one image has; means over labels use only these."""
        return tuple(each for each in self.labels if each.images)

    @property
    def mean_average_precision(self) -> float:
        """Return the mean of the average precision of ``known_labels`` (mAP), in percent."""
        return float(np.mean([each.average_precision for each in self.known_labels]))

    @property
    def macro_f1(self) -> float:
        """Return the mean F1 of ``known_labels``, in percent."""
        return float(np.mean([each.f1 for each in self.known_labels]))

    @property
    def exact_match(self) -> float:
        """Return the percentage of images whose labels are all right."""
        return self.exact_proportion.percent


@dataclass(frozen=True)
class LabelFlip:
    """An image to which two models give different labels.

    Attributes:
        file: the image.
        ours: labels of the first model, best first.
        theirs: labels of the second model, best first.
        divergence: Kullback-Leibler divergence, as in ``Predictions``.
    """

    file: ImageFile
    ours: tuple[ClassScore, ...]
    theirs: tuple[ClassScore, ...]
    divergence: float


@dataclass(frozen=True)
class LabelComparison:
    """The differences between two multi-label models.

    Attributes:
        agreement: images that get the same labels.
        decisions: decisions, one for each image and label, that are the same.
        label_flips: number of images that get a label from one model alone, by label; labels without such images are
            left out, the one with most comes first.
        flips: images that get different labels, in the order of the dataset.
        kl_mean: mean Kullback-Leibler divergence, summed over the labels, in nats.
        kl_p99: 99th percentile of the divergence over the images; like the mean, it is infinite if the divergence of
            an image is not finite.
    """

    agreement: Proportion
    decisions: Proportion
    label_flips: dict[str, int]
    flips: tuple[LabelFlip, ...]
    kl_mean: float
    kl_p99: float

    @property
    def flipped(self) -> Proportion:
        """Return the proportion of images that get different labels."""
        return Proportion(len(self.flips), self.agreement.images)


def label_targets(files: Sequence[ImageFile], labels: Sequence[str]) -> Decisions:
    """Return ``(images, labels)`` bool: whether an image has a label.

    Args:
        files: images of a label file.
        labels: of the model, one a logit.

    Raises:
        CalibrationError: the images come from no label file, a label is unknown, or no image has a label.
    """
    if any(file.labels is None for file in files):
        raise CalibrationError(
            "the model gives any number of labels an image, and folders name one class",
            expected='a label file (.jsonl), one object a line: {"file": "1.jpg", "labels": ["a", "b"]}',
        )
    index_of = {label: index for index, label in enumerate(labels)}
    unknown = sorted({label for file in files for label in file.labels or () if label not in index_of})
    if unknown:
        raise CalibrationError(
            f"{counted(len(unknown), 'label of the images is no label', 'labels of the images are no labels')} of the "
            f"model: {some_names(unknown)}",
            expected=f"labels spelled as the model's: {some_names(labels)}",
        )
    targets = np.zeros((len(files), len(labels)), dtype=np.bool_)
    for row, file in enumerate(files):
        targets[row, [index_of[label] for label in file.labels or ()]] = True
    if not targets.any():
        raise CalibrationError("no image has a label", expected="images with labels, and without")
    return targets


def score_labels(predictions: Predictions) -> LabelEvaluation:
    """Compare the predictions of a multi-label model with the labels of the images.

    Raises:
        CalibrationError: the images come from no label file, a label is unknown, or no image has a label.
        ValueError: the predictions hold no logits, or the model gives one class an image.
    """
    targets, decisions, scores = (
        label_targets(predictions.files, predictions.labels),
        predictions.decisions,
        predictions.label_scores,
    )
    hits = decisions & targets
    labels = tuple(
        _label_score(label, threshold, decisions[:, index], targets[:, index], scores[:, index])
        for index, (label, threshold) in enumerate(zip(predictions.labels, predictions.thresholds or (), strict=True))
    )
    exact = int((decisions == targets).all(axis=1).sum())
    micro = f1_score(int(hits.sum()), int(decisions.sum()), int(targets.sum()))
    return LabelEvaluation(predictions, targets, labels, micro, Proportion(exact, len(predictions)))


def _label_score(
    label: str, threshold: float, decisions: Decisions, targets: Decisions, scores: NDArray[np.float32]
) -> LabelScore:
    hits, predicted, present = int((decisions & targets).sum()), int(decisions.sum()), int(targets.sum())
    return LabelScore(
        label=label,
        threshold=threshold,
        images=present,
        precision=100.0 * hits / predicted if predicted else None,
        recall=100.0 * hits / present if present else None,
        f1=f1_score(hits, predicted, present),
        average_precision=average_precision(scores, targets) if present else None,
    )


def compare_labels(ours: Predictions, theirs: Predictions) -> LabelComparison:
    """Compare the predictions of two multi-label models for the same images; needs no labels.

    Args:
        ours: predictions of the first model.
        theirs: predictions of the second model, the last one of the same run.

    Raises:
        UsageError: the models have different labels, or classified different images.
        ValueError: the predictions hold no logits, or the model gives one class an image.
    """
    check_same_labels(ours.labels, theirs.labels)
    if ours.sha256 != theirs.sha256:
        raise UsageError("the predictions are for different images", expected="predictions for the same images")
    differ = ours.decisions != theirs.decisions
    flipped = np.flatnonzero(differ.any(axis=1)).tolist()
    by_label = zip(ours.labels, differ.sum(axis=0).tolist(), strict=True)
    finite = bool(np.all(np.isfinite(ours.divergences)))
    return LabelComparison(
        agreement=Proportion(len(ours) - len(flipped), len(ours)),
        decisions=Proportion(differ.size - int(differ.sum()), differ.size),
        label_flips=dict(sorted(((label, count) for label, count in by_label if count), key=lambda each: -each[1])),
        flips=tuple(
            LabelFlip(ours.files[at], ours.accepted_labels(at), theirs.accepted_labels(at), float(ours.divergences[at]))
            for at in flipped
        ),
        kl_mean=float(ours.divergences.mean()) if finite else math.inf,
        kl_p99=float(np.percentile(ours.divergences, 99)) if finite else math.inf,
    )
