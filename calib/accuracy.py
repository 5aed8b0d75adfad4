"""Accuracy of any classifier on a set of images, and what changes from one classifier to another.

ImageSet ─▶ predict ─▶ Answers ─┬▶ score (needs labels)  ─▶ Evaluation
                                └▶ compare (needs none)  ─▶ Comparison
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from vitedge.calib.images import Frame, ImageFile, ImageSet, Tally
from vitedge.errors import UsageError
from vitedge.metrics import Interval, wilson_interval
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


@dataclass(frozen=True)
class Answers:
    """What a classifier said of a set of images.

    Attributes:
        labels: of the model, one a logit.
        each: an answer for each image that could be read, in order.
        skipped: names of those that could not be read.
        sha256: over the names and contents of the images that were read, in order.
    """

    labels: tuple[str, ...]
    each: tuple[Answer, ...]
    skipped: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.each)


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


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on labelled images.

    Attributes:
        answers: image by image.
        first: images whose best class is right.
        among_top: images whose class is among the best ``k``.
        k: five, or the number of classes where there are fewer.
    """

    answers: Answers
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


@dataclass(frozen=True)
class Flip:
    """An image on which two classifiers choose different classes."""

    file: ImageFile
    ours: Candidate
    theirs: Candidate


@dataclass(frozen=True)
class Comparison:
    """How often two classifiers choose the same class.

    Attributes:
        agreement: images with the same best class.
        flips: the others, in the order of the images.
    """

    agreement: Share
    flips: tuple[Flip, ...]


def predict(
    classifiers: Sequence[Classifier],
    images: ImageSet,
    progress: Progress = Silent(),  # noqa: B008
) -> tuple[Answers, ...]:
    """Classify every image with every classifier; each image is decoded once, ahead of its turn.

    Args:
        classifiers: one or more.
        images: those that cannot be read are skipped and named.
        progress: told of every image.

    Returns:
        The answers of each classifier, about the same images.

    Raises:
        CalibrationError: none of the images can be read.
        EngineError: an engine failed.
        MissingExtraError: Pillow is not installed.
    """
    tally = Tally()
    with closing(images.pictures()) as pictures:
        tracked = progress.track(pictures, total=len(images), unit="images")
        rows = [[_answer(each, file, pixels) for each in classifiers] for file, pixels in tally.readable(tracked)]
    return tuple(
        Answers(classifier.labels, column, tuple(tally.skipped), tally.sha256)
        for classifier, column in zip(classifiers, zip(*rows, strict=True), strict=True)
    )


def evaluate(classifier: Classifier, images: ImageSet, progress: Progress = Silent()) -> Evaluation:  # noqa: B008
    """Top-1 and top-5 accuracy on images that lie in folders named by the classifier's labels.

    Raises:
        CalibrationError: a folder is no label, or no image can be read.
        EngineError: the engine failed.
        MissingExtraError: Pillow is not installed.
    """
    images.targets(classifier.labels)
    (answers,) = predict([classifier], images, progress)
    return score(answers, images)


def score(answers: Answers, images: ImageSet) -> Evaluation:
    """Hold answers against the classes of the images' folders.

    Raises:
        CalibrationError: a folder is no label of the model.
    """
    targets = images.targets(answers.labels)
    k = min(TOP, len(answers.labels))
    wanted = [(answer, targets[answer.file.class_name]) for answer in answers.each]
    first = sum(answer.best.index == target for answer, target in wanted)
    among = sum(target in [candidate.index for candidate in answer.topk[:k]] for answer, target in wanted)
    return Evaluation(answers, Share(first, len(answers)), Share(among, len(answers)), k)


def compare(ours: Answers, theirs: Answers) -> Comparison:
    """Agreement of two classifiers on the same images; needs no labelled images.

    Raises:
        UsageError: they choose between different classes, or answered about different images.
    """
    check_same_labels(ours.labels, theirs.labels)
    if ours.sha256 != theirs.sha256:
        raise UsageError("the answers are about different images", expected="answers about the same images")
    pairs = zip(ours.each, theirs.each, strict=True)
    flips = tuple(Flip(a.file, a.best, b.best) for a, b in pairs if a.best.index != b.best.index)
    return Comparison(Share(len(ours) - len(flips), len(ours)), flips)


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


def _answer(classifier: Classifier, file: ImageFile, pixels: Frame) -> Answer:
    logits = classifier.infer(classifier.prepare(pixels, order="RGB"))
    return Answer(file, classifier.rank(logits, TOP))


def _difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} and {len(theirs)}"
    index = next(index for index, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    return f"class {index} is {ours[index]!r} in one and {theirs[index]!r} in the other"
