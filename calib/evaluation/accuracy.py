"""Accuracy of any classifier on a set of images, and what changes from one classifier to another.

Images ─▶ predict ─▶ Answers ─┬▶ score (needs labels)  ─▶ Evaluation
                              └▶ compare (needs none)  ─▶ Comparison

``predict`` answers in this process; ``collect`` does the same with answers that are made elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.data.images import ImageFile, Images
from vitedge.calib.evaluation.predictions import Answering, Answers, Batch, Model, Row, Table, batches_of
from vitedge.calib.evaluation.resume_log import Journal
from vitedge.calib.evaluation.workers import in_lanes
from vitedge.errors import UsageError
from vitedge.metrics import Interval, expected_calibration_error, wilson_interval
from vitedge.prediction import Candidate
from vitedge.progress import Progress, Silent
from vitedge.runtime.classifier import Classifier


@dataclass(frozen=True)
class Share:
    """How many of a number of images.

    Attributes:
        hits: images that count.
        images: all of them; at least one.

    Raises:
        ValueError: there are none, or more hits than images.
    """

    hits: int
    images: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.images or not self.images:
            raise ValueError(f"{self.hits} of {self.images} images")

    @property
    def percent(self) -> float:
        """The share, in percent."""
        return 100.0 * self.hits / self.images

    @property
    def ci95(self) -> Interval:
        """Wilson's 95 % interval of it, in percent."""
        return wilson_interval(self.hits, self.images)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Accuracy on labelled images.

    Attributes:
        answers: image by image.
        targets: ``(images,)`` which logit the class of each image is.
        first: images whose best class is right.
        among_top: images whose class is among the best ``k``.
        k: five, or the number of classes where there are fewer.
    """

    answers: Answers
    targets: NDArray[np.intp]
    first: Share
    among_top: Share
    k: int

    @property
    def top1(self) -> float:
        """Percent of images whose best class is right."""
        return self.first.percent

    @property
    def top5(self) -> float:
        """Percent of images whose class is among the best ``k``."""
        return self.among_top.percent

    @property
    def images(self) -> int:
        """How many images were evaluated."""
        return len(self.answers)

    @property
    def right(self) -> NDArray[np.bool_]:
        """``(images,)`` whether the best class is right."""
        return np.asarray(self.answers.indices[:, 0] == self.targets)

    @property
    def ece(self) -> float:
        """Expected calibration error of the scores, in percent."""
        return expected_calibration_error(self.answers.scores[:, 0], self.right)

    @property
    def accepted_first(self) -> Share | None:
        """Of the images that the classifier stands by, those whose best class is right; None if there are none."""
        accepted = self.right[self.answers.accepted]
        return Share(int(accepted.sum()), len(accepted)) if len(accepted) else None


@dataclass(frozen=True)
class Flip:
    """An image on which two classifiers choose different classes.

    Attributes:
        file: the image.
        ours: what one chose.
        theirs: what the other chose.
        divergence: how far apart all their probabilities are, as in ``Answers``.
    """

    file: ImageFile
    ours: Candidate
    theirs: Candidate
    divergence: float


@dataclass(frozen=True)
class Comparison:
    """How far a classifier departs from another one.

    Attributes:
        agreement: images with the same best class.
        flips: the others, in the order of the images.
        kl_mean: mean Kullback-Leibler divergence of the softmax from the other's, in nats.
        kl_p99: its 99th percentile over the images; both are infinite if that of an image is not finite.
    """

    agreement: Share
    flips: tuple[Flip, ...]
    kl_mean: float
    kl_p99: float

    @property
    def flipped(self) -> Share:
        """Images with different best classes."""
        return Share(len(self.flips), self.agreement.images)


def predict(
    classifiers: Sequence[Classifier],
    images: Images,
    progress: Progress = Silent(),  # noqa: B008
    *,
    keep_logits: bool = False,
    journal: Journal | None = None,
) -> tuple[Answers, ...]:
    """Classify every image with every classifier, in this process; each image is decoded once, ahead of its turn.

    Args:
        classifiers: one or more; the last one is what the others' divergences are from. Their lanes are used where
            there are enough images.
        images: those that cannot be read are skipped and named.
        progress: told of every image.
        keep_logits: of every image, for ``score_calibration``: 200 MB for 50 000 images of 1000 classes.
        journal: holds the answers of an earlier run that was interrupted, and takes those of this one.

    Returns:
        The answers of each classifier, about the same images.

    Raises:
        CalibrationError: none of the images can be read.
        UsageError: the classifiers choose between different classes.
        EngineError: an engine failed.
        MissingExtraError: Pillow is not installed.
    """
    answering = in_lanes(classifiers, images, keep_logits=keep_logits)
    return collect(classifiers, images, answering, progress, keep_logits=keep_logits, journal=journal)


def collect(
    models: Sequence[Model],
    images: Images,
    answering: Answering,
    progress: Progress = Silent(),  # noqa: B008
    *,
    keep_logits: bool = False,
    journal: Journal | None = None,
) -> tuple[Answers, ...]:
    """Have images answered about, wherever that happens, and put the answers in order.

    Arguments and errors are those of ``predict``, and those of ``answering``, which answers batches as each of the
    models does.
    """
    for each in models:
        check_same_labels(each.labels, models[-1].labels)
    table = Table(models, images.files, keep_logits=keep_logits)
    missing = {batch.start: batch for batch in batches_of(images.files)}
    if journal is not None:
        _put_journal(journal, table, missing)
    left = sum(map(len, missing.values()))
    if left < len(images):
        progress.step(f"{len(images) - left} of them were classified before the interrupt")
    answered = _noted(answering(tuple(missing.values())), table, journal)
    with closing(answered):
        for _ in progress.track(answered, total=left, unit="images"):
            pass
    return table.answers()


def evaluate(
    classifier: Classifier,
    images: Images,
    progress: Progress = Silent(),  # noqa: B008
    *,
    keep_logits: bool = False,
) -> Evaluation:
    """Top-1 and top-5 accuracy on images that lie in folders named by the classifier's labels.

    Raises:
        CalibrationError: a folder is no label, or no image can be read.
        EngineError: the engine failed.
        MissingExtraError: Pillow is not installed.
    """
    images.targets(classifier.labels)
    (answers,) = predict([classifier], images, progress, keep_logits=keep_logits)
    return score(answers, images)


def score(answers: Answers, images: Images) -> Evaluation:
    """Hold answers against the classes of the images' folders.

    Raises:
        CalibrationError: a folder is no label of the model.
    """
    targets = images.targets(answers.labels)
    wanted = np.array([targets[file.class_name] for file in answers.files])
    right = answers.indices == wanted[:, np.newaxis]
    first, among = int(right[:, 0].sum()), int(right.any(axis=1).sum())
    return Evaluation(answers, wanted, Share(first, len(answers)), Share(among, len(answers)), right.shape[1])


def compare(ours: Answers, theirs: Answers) -> Comparison:
    """How far a classifier departs from another one on the same images; needs no labelled images.

    Args:
        ours: of the one.
        theirs: of the other: the last of the classifiers that were asked together.

    Raises:
        UsageError: they choose between different classes, or answered about different images.
    """
    check_same_labels(ours.labels, theirs.labels)
    if ours.sha256 != theirs.sha256:
        raise UsageError("the answers are about different images", expected="answers about the same images")
    finite = bool(np.all(np.isfinite(ours.divergences)))
    flipped = np.flatnonzero(ours.indices[:, 0] != theirs.indices[:, 0]).tolist()
    return Comparison(
        agreement=Share(len(ours) - len(flipped), len(ours)),
        flips=tuple(
            Flip(ours.files[at], ours[at].best, theirs[at].best, float(ours.divergences[at])) for at in flipped
        ),
        kl_mean=float(ours.divergences.mean()) if finite else math.inf,
        kl_p99=float(np.percentile(ours.divergences, 99)) if finite else math.inf,
    )


def check_same_labels(ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Refuse to compare models that choose between different classes.

    Raises:
        UsageError: the labels differ; the message says where.
    """
    if tuple(ours) != tuple(theirs):
        raise UsageError(
            f"the two models have different classes: {_difference(ours, theirs)}",
            expected="the same labels in the same order",
        )


def _put_journal(journal: Journal, table: Table, missing: dict[int, Batch]) -> None:
    """Put the answers of an earlier run into the table, and take their batches out of those that are missing."""
    for start, rows in journal.read():
        batch = missing.pop(start, None)
        if batch is None or not table.takes(batch, rows):
            raise UsageError(f"{journal.path} is damaged: it answers what was not asked", fix="remove it")
        table.put(batch, rows)


def _noted(
    answered: Generator[tuple[Batch, Sequence[Row]], None, None], table: Table, journal: Journal | None
) -> Generator[Row, None, None]:
    """The rows as they come, each batch noted once it is whole."""
    with closing(answered):
        for batch, rows in answered:
            table.put(batch, rows)
            if journal is not None:
                journal.append(batch, rows)
            yield from rows


def _difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} and {len(theirs)}"
    index = next(index for index, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    return f"class {index} is {ours[index]!r} in one and {theirs[index]!r} in the other"
