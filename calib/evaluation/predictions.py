"""Predictions of classifiers for a dataset: they arrive a batch at a time, in any order, and fill a table.

files ─▶ batches_of ─▶ Predictor (in this process, or on a cluster) ─▶ ImageResult ─▶ PredictionTable ─▶ Predictions
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.dataset import DatasetDigest, ImageFile
from vitedge.metrics import reach, sigmoid
from vitedge.prediction import ClassScore
from vitedge.runtime.preprocess.orientation import AS_STORED

TOP = 5
BATCH_IMAGES = 64
DIGEST_BYTES = 32


class ModelInfo(Protocol):
    """What an evaluation knows of a classifier, wherever it runs.

    Attributes:
        preprocessing: says whether images are turned.
        labels: one a logit.
        threshold: the classifier abstains from images with a lower score.
        thresholds: of a multi-label model, one for each label; None for one class an image.
    """

    @property
    def preprocessing(self) -> Preprocessing:
        """Return the steps that turn an image into the engine's input."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Return one label for each logit."""

    @property
    def threshold(self) -> float:
        """Return the lowest score that the classifier accepts."""

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Return the score that each label must reach; None for one class an image."""


@dataclass(frozen=True)
class Batch:
    """Images that are classified together.

    Attributes:
        start: position of the first image in the dataset.
        files: the images.
    """

    start: int
    files: tuple[ImageFile, ...]

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class TopK:
    """The best classes that one classifier predicts for one image.

    Attributes:
        indices: the best classes, best first.
        scores: their probabilities.
        divergence: Kullback-Leibler divergence, as in ``Predictions``.
        logits: ``(classes,)`` float32; None unless they are kept.
    """

    indices: tuple[int, ...]
    scores: tuple[float, ...]
    divergence: float
    logits: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ImageResult:
    """The predictions of all classifiers for one image.

    Attributes:
        sha256: hex SHA-256 of the file's contents; empty if the file could not be read.
        predictions: one for each classifier; empty if the file could not be read.
        orientation: EXIF orientation, 1…8; 1 as well in results of a resumed run.
    """

    sha256: str
    predictions: tuple[TopK, ...]
    orientation: int = AS_STORED


Predictor: TypeAlias = Callable[[Sequence[Batch]], Generator[tuple[Batch, Sequence[ImageResult]], None, None]]
"""Classifies batches and yields them in any order, each with a result for every image."""


@dataclass(frozen=True)
class ImagePrediction:
    """The prediction of a classifier for one image.

    Attributes:
        file: the image.
        topk: the best classes, best first.
    """

    file: ImageFile
    topk: tuple[ClassScore, ...]

    @property
    def best(self) -> ClassScore:
        """Return the best class."""
        return self.topk[0]


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of a classifier for a dataset, in a few bytes an image.

    Attributes:
        labels: labels of the model, one a logit.
        files: the images that could be read, in order.
        indices: ``(images, k)`` int32, the best classes of each image, best first; ``k`` is five, or the number of
            classes if it is smaller.
        scores: ``(images, k)`` float32, their probabilities.
        divergences: ``(images,)`` float64, Kullback-Leibler divergence of the softmax, or of the sigmoids summed over
            the labels, from the last classifier of the same run, in nats; zeros for the last classifier itself.
        skipped: names of the images that could not be read.
        sha256: hex SHA-256 of the names and contents of the images that were read, in order.
        threshold: the classifier abstains from images with a lower score.
        logits: ``(images, classes)`` float32; None unless they are kept.
        thresholds: of a multi-label model, one for each label; None for one class an image.
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
    thresholds: tuple[float, ...] | None = None

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Return ``(images,)`` bool, whether the score, or any label's score, reaches its threshold."""
        if self.thresholds is not None:
            return np.asarray(self.decisions.any(axis=1))
        return np.asarray(self.scores[:, 0] >= self.threshold)

    @property
    def label_scores(self) -> NDArray[np.float32]:
        """Return the ``(images, labels)`` float32 scores of a multi-label model.

        Raises:
            ValueError: the logits were not kept.
        """
        if self.logits is None:
            raise ValueError("these predictions hold no logits")
        return sigmoid(self.logits)

    @property
    def decisions(self) -> NDArray[np.bool_]:
        """Return ``(images, labels)`` bool, whether an image gets a label of a multi-label model.

        Raises:
            ValueError: the logits were not kept, or the model gives one class an image.
        """
        if self.thresholds is None:
            raise ValueError("these are predictions of one class an image")
        return reach(self.label_scores, self.thresholds)

    def accepted_labels(self, position: int) -> tuple[ClassScore, ...]:
        """Return the labels that one image gets from a multi-label model, best first; errors as for ``decisions``."""
        row = slice(position, position + 1)
        one = replace(self, files=self.files[row], logits=None if self.logits is None else self.logits[row])
        (scores,), (decisions,) = one.label_scores, one.decisions
        accepted = sorted(np.flatnonzero(decisions).tolist(), key=lambda index: -scores[index])
        return tuple(ClassScore(self.labels[index], index, float(scores[index])) for index in accepted)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> ImagePrediction:
        """Return the prediction for one image."""
        best = zip(self.indices[position].tolist(), self.scores[position].tolist(), strict=True)
        return ImagePrediction(
            self.files[position], tuple(ClassScore(self.labels[index], index, score) for index, score in best)
        )

    def __iter__(self) -> Iterator[ImagePrediction]:
        return (self[position] for position in range(len(self)))


class PredictionTable:
    """The results of all images, packed into arrays: at most 84 bytes an image and classifier without logits.

    Args:
        models: the classifiers.
        files: the images.
        keep_logits: reserve memory for the logits.
    """

    def __init__(self, models: Sequence[ModelInfo], files: Sequence[ImageFile], *, keep_logits: bool = False) -> None:
        shape = (len(models), len(files))
        classes = len(models[-1].labels)
        top = min(TOP, classes)
        self._models = models
        self._files = files
        self._contents = np.zeros(len(files), dtype=f"V{DIGEST_BYTES}")
        self._readable = np.zeros(len(files), dtype=np.bool_)
        self._indices = np.zeros((*shape, top), dtype=np.int32)
        self._scores = np.zeros((*shape, top), dtype=np.float32)
        self._divergences = np.zeros(shape, dtype=np.float64)
        self._logits = np.zeros((*shape, classes), dtype=np.float32) if keep_logits else None

    def accepts(self, batch: Batch, results: Sequence[ImageResult]) -> bool:
        """Return whether the results fit the batch, the number of models and their classes."""
        classes = len(self._models[-1].labels)
        return len(results) == len(batch) and all(
            not result.sha256
            or (
                len(result.predictions) == len(self._models)
                and all(
                    len(each.indices) == self._indices.shape[-1] and max(each.indices) < classes
                    for each in result.predictions
                )
            )
            for result in results
        )

    def put(self, batch: Batch, results: Sequence[ImageResult]) -> None:
        """Store the results of a batch."""
        for place, result in enumerate(results, batch.start):
            self._readable[place] = bool(result.sha256)
            self._contents[place] = np.void(bytes.fromhex(result.sha256 or "00" * DIGEST_BYTES))
            for number, prediction in enumerate(result.predictions):
                self._indices[number, place] = prediction.indices
                self._scores[number, place] = prediction.scores
                self._divergences[number, place] = prediction.divergence
                if self._logits is not None:
                    self._logits[number, place] = prediction.logits

    def predictions(self) -> tuple[Predictions, ...]:
        """Return the predictions of each classifier for the images that could be read.

        Raises:
            CalibrationError: no image could be read.
        """
        digest, readable = DatasetDigest(), self._readable
        for file, content, read in zip(self._files, self._contents, readable.tolist(), strict=True):
            digest.add(file, content.tobytes().hex() if read else "")
        digest.check_not_empty()
        files, skipped, sha256 = tuple(digest.files), tuple(digest.skipped), digest.sha256
        return tuple(
            Predictions(
                labels=model.labels,
                files=files,
                indices=self._indices[number, readable],
                scores=self._scores[number, readable],
                divergences=self._divergences[number, readable],
                skipped=skipped,
                sha256=sha256,
                threshold=model.threshold,
                logits=None if self._logits is None else self._logits[number, readable],
                thresholds=model.thresholds,
            )
            for number, model in enumerate(self._models)
        )


def batches_of(files: Sequence[ImageFile]) -> tuple[Batch, ...]:
    """Split the images into batches, in their order."""
    return tuple(
        Batch(start, tuple(files[start : start + BATCH_IMAGES])) for start in range(0, len(files), BATCH_IMAGES)
    )
