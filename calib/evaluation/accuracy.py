"""Accuracy of any classifier on a dataset of images, and the differences between two classifiers.

    ImageDataset ─▶ predict ─▶ Predictions ─┬▶ score   (needs labels)    ─▶ Evaluation
                                            └▶ compare (needs no labels) ─▶ Comparison

``predict`` runs in this process; ``collect_predictions`` runs any predictor, such as a cluster's.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.data.dataset import ImageDataset, ImageFile
from vitedge.calib.evaluation.predictions import (
    Batch,
    ImageResult,
    ModelInfo,
    Predictions,
    PredictionTable,
    Predictor,
    batches_of,
)
from vitedge.calib.evaluation.resume_log import ResumeLog
from vitedge.calib.evaluation.workers import local_predictor
from vitedge.counts import counted
from vitedge.errors import UsageError
from vitedge.metrics import Interval, expected_calibration_error, wilson_interval
from vitedge.prediction import ClassScore
from vitedge.progress import Progress, Silent
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.preprocess.orientation import is_turned, orientation_notice

NEAR_TIE = 0.1
"""Margin below which a flip is a near tie."""


@dataclass(frozen=True)
class Proportion:
    """A proportion of a number of images.

    Attributes:
        hits: the images that count.
        images: all images; at least one.

    Raises:
        ValueError: there are no images, or more hits than images.
    """

    hits: int
    images: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.images or not self.images:
            raise ValueError(f"{self.hits} of {counted(self.images, 'image')}")

    @property
    def percent(self) -> float:
        """Return the proportion, in percent."""
        return 100.0 * self.hits / self.images

    @property
    def ci95(self) -> Interval:
        """Return Wilson's 95 % interval of the proportion, in percent."""
        return wilson_interval(self.hits, self.images)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Accuracy on labelled images.

    Attributes:
        predictions: image by image.
        targets: ``(images,)`` index of the true class of each image.
        top1_proportion: images whose best class is correct.
        topk_proportion: images whose true class is among the best ``k``.
        k: five, or the number of classes if it is smaller.
    """

    predictions: Predictions
    targets: NDArray[np.intp]
    top1_proportion: Proportion
    topk_proportion: Proportion
    k: int

    @property
    def top1(self) -> float:
        """Return the top-1 accuracy, in percent."""
        return self.top1_proportion.percent

    @property
    def top5(self) -> float:
        """Return the top-``k`` accuracy, in percent."""
        return self.topk_proportion.percent

    @property
    def images(self) -> int:
        """Return the number of images that were evaluated."""
        return len(self.predictions)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Return ``(images,)`` bool, whether the best class is correct."""
        return np.asarray(self.predictions.indices[:, 0] == self.targets)

    @property
    def ece(self) -> float:
        """Return the expected calibration error of the scores, in percent."""
        return expected_calibration_error(self.predictions.scores[:, 0], self.correct)

    @property
    def accepted_top1(self) -> Proportion | None:
        """Return the proportion of accepted images whose best class is correct; None if no image is accepted."""
        accepted = self.correct[self.predictions.accepted]
        return Proportion(int(accepted.sum()), len(accepted)) if len(accepted) else None


@dataclass(frozen=True)
class Flip:
    """An image for which two classifiers predict different classes.

    Attributes:
        file: the image.
        ours: best class of the first classifier.
        theirs: best class of the second classifier.
        divergence: Kullback-Leibler divergence of their probabilities, as in ``Predictions``.
        margin: by how much the second classifier preferred its class to the first one's, as a difference of
            probabilities, 0…1; at least, if the first one's is not among its best five.
    """

    file: ImageFile
    ours: ClassScore
    theirs: ClassScore
    divergence: float
    margin: float

    @property
    def near_tie(self) -> bool:
        """Return whether the second classifier hardly preferred its class."""
        return self.margin < NEAR_TIE


@dataclass(frozen=True)
class Comparison:
    """The differences between two classifiers.

    Attributes:
        agreement: images with the same best class.
        flips: images with different best classes, in the order of the dataset.
        kl_mean: mean Kullback-Leibler divergence of the first softmax from the second, in nats.
        kl_p99: 99th percentile of the divergence over the images; like the mean, it is infinite if the divergence of
            an image is not finite.
    """

    agreement: Proportion
    flips: tuple[Flip, ...]
    kl_mean: float
    kl_p99: float

    @property
    def flipped(self) -> Proportion:
        """Return the proportion of images with different best classes."""
        return Proportion(len(self.flips), self.agreement.images)


def predict(
    classifiers: Sequence[Classifier],
    images: ImageDataset,
    progress: Progress = Silent(),  # noqa: B008
    *,
    keep_logits: bool = False,
    resume_log: ResumeLog | None = None,
) -> tuple[Predictions, ...]:
    """Classify every image with every classifier, in this process; each image is decoded once, ahead of its turn.

    Args:
        classifiers: one or more; divergences are measured from the last one. With enough images, each classifier runs
            on several workers.
        images: images that cannot be read are skipped and named.
        progress: told of every image.
        keep_logits: keep the logits of every image for ``score_calibration``: 200 MB for 50 000 images of 1000 classes.
            Those of multi-label classifiers are always kept.
        resume_log: holds the results of an earlier run that was interrupted, and takes the results of this run.

    Returns:
        The predictions of each classifier, for the same images.

    Raises:
        CalibrationError: no image can be read.
        UsageError: the classifiers have different classes, or ``resume_log`` is given for multi-label classifiers,
            whose logits it does not hold.
        EngineError: an engine failed.
        MissingExtraError: Pillow is not installed.
    """
    keep_logits = keep_logits or any(each.thresholds is not None for each in classifiers)
    predictor = local_predictor(classifiers, images, keep_logits=keep_logits)
    return collect_predictions(classifiers, images, predictor, progress, keep_logits=keep_logits, resume_log=resume_log)


def collect_predictions(
    models: Sequence[ModelInfo],
    images: ImageDataset,
    predictor: Predictor,
    progress: Progress = Silent(),  # noqa: B008
    *,
    keep_logits: bool = False,
    resume_log: ResumeLog | None = None,
) -> tuple[Predictions, ...]:
    """Classify images with a predictor, wherever it runs, and put the predictions in order.

    Args:
        models: labels and threshold of each classifier.
        images: images that cannot be read are skipped and named.
        predictor: classifies batches with every model.
        progress: told of every image.
        keep_logits: keep the logits of every image.
        resume_log: holds the results of an earlier run that was interrupted, and takes the results of this run.

    Raises:
        CalibrationError: no image can be read.
        UsageError: the models have different classes, or the log is damaged.
        VitedgeError: whatever the predictor raises.
    """
    for each in models:
        check_same_labels(each.labels, models[-1].labels)
        if (each.thresholds is None) != (models[-1].thresholds is None):
            raise UsageError(
                "one of the two models gives one class an image, the other any number of labels",
                expected="two models with the same activation",
            )
    if resume_log is not None and models[-1].thresholds is not None:
        raise UsageError("resume= keeps no logits, which a multi-label model needs", fix="leave out resume=")
    table = PredictionTable(models, images.files, keep_logits=keep_logits)
    missing = {batch.start: batch for batch in batches_of(images.files)}
    if resume_log is not None:
        _put_resume_log(resume_log, table, missing)
    left = sum(map(len, missing.values()))
    if left < len(images):
        progress.step(f"{len(images) - left} of them were classified before the interrupt")
    results = _stored(predictor(tuple(missing.values())), table, resume_log)
    with closing(results):
        oriented = sum(is_turned(each.orientation) for each in progress.track(results, total=left, unit="images"))
    if oriented:
        for notice in {orientation_notice(oriented, str(images.path), each.preprocessing): None for each in models}:
            progress.step(f"note: {notice}")
    return table.predictions()


def evaluate(
    classifier: Classifier,
    images: ImageDataset,
    progress: Progress = Silent(),  # noqa: B008
    *,
    keep_logits: bool = False,
) -> Evaluation:
    """Measure top-1 and top-5 accuracy on images that lie in folders named by the classifier's labels.

    Raises:
        UsageError: the classifier gives any number of labels an image.
        CalibrationError: a folder is no label, or no image can be read.
        EngineError: the engine failed.
        MissingExtraError: Pillow is not installed.
    """
    images.class_to_idx(classifier.labels)
    (predictions,) = predict([classifier], images, progress, keep_logits=keep_logits)
    return score(predictions, images)


def score(predictions: Predictions, images: ImageDataset) -> Evaluation:
    """Compare predictions with the classes of the images' folders.

    Raises:
        UsageError: a multi-label model made the predictions.
        CalibrationError: a folder is no label of the model.
    """
    if predictions.thresholds is not None:
        raise UsageError("a multi-label model has no top-1 accuracy", expected="a model of one class an image")
    class_to_idx, count = images.class_to_idx(predictions.labels), len(predictions)
    targets = np.array([class_to_idx[file.class_name] for file in predictions.files])
    correct = predictions.indices == targets[:, np.newaxis]
    top1, topk = int(correct[:, 0].sum()), int(correct.any(axis=1).sum())
    return Evaluation(predictions, targets, Proportion(top1, count), Proportion(topk, count), correct.shape[1])


def compare(ours: Predictions, theirs: Predictions) -> Comparison:
    """Compare the predictions of two classifiers for the same images; needs no labels.

    Args:
        ours: predictions of the first classifier.
        theirs: predictions of the second classifier, the last one of the same run.

    Raises:
        UsageError: the classifiers have different classes, classified different images, or are multi-label models.
    """
    check_same_labels(ours.labels, theirs.labels)
    if ours.sha256 != theirs.sha256:
        raise UsageError("the predictions are for different images", expected="predictions for the same images")
    if ours.thresholds is not None:
        raise UsageError("multi-label models are compared by compare_labels", expected="models of one class an image")
    finite = bool(np.all(np.isfinite(ours.divergences)))
    flipped = np.flatnonzero(ours.indices[:, 0] != theirs.indices[:, 0]).tolist()
    return Comparison(
        agreement=Proportion(len(ours) - len(flipped), len(ours)),
        flips=tuple(_flip(ours, theirs, at) for at in flipped),
        kl_mean=float(ours.divergences.mean()) if finite else math.inf,
        kl_p99=float(np.percentile(ours.divergences, 99)) if finite else math.inf,
    )


def _flip(ours: Predictions, theirs: Predictions, at: int) -> Flip:
    chosen, preferred = ours[at].best, theirs[at].topk
    score = next((each.score for each in preferred if each.index == chosen.index), preferred[-1].score)
    return Flip(ours.files[at], chosen, preferred[0], float(ours.divergences[at]), margin=preferred[0].score - score)


def check_same_labels(ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Refuse to compare models that have different classes.

    Raises:
        UsageError: the labels differ; the message says where.
    """
    if tuple(ours) != tuple(theirs):
        raise UsageError(
            f"the two models have different classes: {_difference(ours, theirs)}",
            expected="the same labels in the same order",
        )


def _put_resume_log(resume_log: ResumeLog, table: PredictionTable, missing: dict[int, Batch]) -> None:
    """Put the results of an earlier run into the table, and remove their batches from ``missing``."""
    for start, results in resume_log.read():
        batch = missing.pop(start, None)
        if batch is None or not table.accepts(batch, results):
            raise UsageError(f"{resume_log.path} is damaged: it holds results of other images", fix="remove it")
        table.put(batch, results)


def _stored(
    batches: Generator[tuple[Batch, Sequence[ImageResult]], None, None],
    table: PredictionTable,
    resume_log: ResumeLog | None,
) -> Generator[ImageResult, None, None]:
    """Store each batch as it arrives, and yield its results."""
    with closing(batches):
        for batch, results in batches:
            table.put(batch, results)
            if resume_log is not None:
                resume_log.append(batch, results)
            yield from results


def _difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} and {len(theirs)}"
    index = next(index for index, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    return f"class {index} is {ours[index]!r} in one and {theirs[index]!r} in the other"
