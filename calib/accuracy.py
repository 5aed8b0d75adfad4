"""Accuracy of any classifier on a set of images, and what changes from one classifier to another.

Images ─▶ predict ─▶ Answers ─┬▶ score (needs labels)  ─▶ Evaluation
                              └▶ compare (needs none)  ─▶ Comparison
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.images import Frame, ImageFile, Images, Tally
from vitedge.errors import UsageError
from vitedge.metrics import Interval, expected_calibration_error, kl_divergence, wilson_interval
from vitedge.prediction import Candidate
from vitedge.progress import Progress, Silent
from vitedge.runtime.classifier import Classifier

TOP = 5


@dataclass(frozen=True)
class Answer:
    """What a classifier said of one image.

    Attributes:
        file: the image.
        topk: its best classes, best first.
    """

    file: ImageFile
    topk: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The class it chose."""
        return self.topk[0]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a classifier said of a set of images, in a few bytes an image.

    Attributes:
        labels: of the model, one a logit.
        files: the images that could be read, in order.
        indices: ``(images, k)`` int32, the best classes of each, best first; ``k`` is five, or the number of classes
            where there are fewer.
        scores: ``(images, k)`` float32, their probabilities.
        divergences: ``(images,)`` float64, the Kullback-Leibler divergence of the softmax from that of the last of the
            classifiers that were asked together, in nats; zeros for that one.
        skipped: names of the images that could not be read.
        sha256: over the names and contents of the images that were read, in order.
        threshold: the classifier abstains from images with a lower score.
        logits: ``(images, classes)`` float32; None unless they were asked for.
    """

    labels: tuple[str, ...]
    files: tuple[ImageFile, ...]
    indices: NDArray[np.int32]
    scores: NDArray[np.float32]
    divergences: NDArray[np.float64]
    skipped: tuple[str, ...]
    sha256: str
    threshold: float = 0.0
    logits: NDArray[np.float32] | None = None

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """``(images,)`` whether the classifier stands by its answer."""
        return np.asarray(self.scores[:, 0] >= self.threshold)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> Answer:
        """The answer about one image."""
        best = zip(self.indices[position].tolist(), self.scores[position].tolist(), strict=True)
        return Answer(self.files[position], tuple(Candidate(self.labels[index], index, score) for index, score in best))

    def __iter__(self) -> Iterator[Answer]:
        return (self[position] for position in range(len(self)))


@dataclass(frozen=True)
class Share:
    """How many of a number of images.

    Attributes:
        hits: images that count.
        images: all of them; at least one.
    """

    hits: int
    images: int

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
        kl_p99: its 99th percentile over the images.
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
) -> tuple[Answers, ...]:
    """Classify every image with every classifier; each image is decoded once, ahead of its turn.

    Args:
        classifiers: one or more; the last one is what the others' divergences are from.
        images: those that cannot be read are skipped and named.
        progress: told of every image.
        keep_logits: of every image, for ``vitedge.calib.confidence``: 200 MB for 50 000 images of 1000 classes.

    Returns:
        The answers of each classifier, about the same images.

    Raises:
        CalibrationError: none of the images can be read.
        UsageError: the classifiers choose between different classes.
        EngineError: an engine failed.
        MissingExtraError: Pillow is not installed.
    """
    for each in classifiers:
        check_same_labels(each.labels, classifiers[-1].labels)
    tally, columns = Tally(), [_Columns() for _ in classifiers]
    with closing(images.pictures()) as pictures:
        tracked = progress.track(pictures, total=len(images), unit="images")
        for _, pixels in tally.readable(tracked):
            for column, verdict in zip(columns, _verdicts(classifiers, pixels), strict=True):
                column.append(verdict, keep_logits=keep_logits)
    return tuple(column.answers(classifier, tally) for classifier, column in zip(classifiers, columns, strict=True))


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
    flipped = np.flatnonzero(ours.indices[:, 0] != theirs.indices[:, 0]).tolist()
    return Comparison(
        agreement=Share(len(ours) - len(flipped), len(ours)),
        flips=tuple(
            Flip(ours.files[at], ours[at].best, theirs[at].best, float(ours.divergences[at])) for at in flipped
        ),
        kl_mean=float(ours.divergences.mean()),
        kl_p99=float(np.percentile(ours.divergences, 99)),
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


@dataclass(frozen=True)
class _Verdict:
    """What one classifier said of one image, and how far that is from what the last one said."""

    logits: NDArray[np.float32]
    topk: tuple[Candidate, ...]
    divergence: float


@dataclass
class _Columns:
    """The verdicts of one classifier, packed."""

    indices: array[int] = field(default_factory=lambda: array("i"))
    scores: array[float] = field(default_factory=lambda: array("f"))
    divergences: array[float] = field(default_factory=lambda: array("d"))
    logits: array[float] = field(default_factory=lambda: array("f"))

    def append(self, verdict: _Verdict, *, keep_logits: bool) -> None:
        """Add that of the next image."""
        if keep_logits:
            self.logits.frombytes(verdict.logits.tobytes())
        self.indices.extend(each.index for each in verdict.topk)
        self.scores.extend(each.score for each in verdict.topk)
        self.divergences.append(verdict.divergence)

    def answers(self, classifier: Classifier, tally: Tally) -> Answers:
        """All of them as arrays."""
        count = len(tally.files)
        return Answers(
            labels=classifier.labels,
            files=tuple(tally.files),
            indices=np.array(self.indices, dtype=np.int32).reshape(count, -1),
            scores=np.array(self.scores, dtype=np.float32).reshape(count, -1),
            divergences=np.array(self.divergences, dtype=np.float64),
            skipped=tuple(tally.skipped),
            sha256=tally.sha256,
            threshold=classifier.threshold,
            logits=np.frombuffer(self.logits, dtype=np.float32).reshape(count, -1) if self.logits else None,
        )


def _verdicts(classifiers: Sequence[Classifier], pixels: Frame) -> list[_Verdict]:
    logits = [each.infer(each.prepare(pixels, order="RGB")) for each in classifiers]
    topk = [each.rank(row, TOP) for each, row in zip(classifiers, logits, strict=True)]
    divergences = [float(kl_divergence(logits[-1], row)) for row in logits[:-1]]
    return [_Verdict(*each) for each in zip(logits, topk, [*divergences, 0.0], strict=True)]


def _difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} and {len(theirs)}"
    index = next(index for index, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    return f"class {index} is {ours[index]!r} in one and {theirs[index]!r} in the other"
