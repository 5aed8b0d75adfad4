"""What classifiers say of images: rows that come a batch at a time, in any order, and the table that they fill.

files ─▶ batches_of ─▶ Answering (here, or elsewhere) ─▶ rows ─▶ Table ─▶ Answers
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.data.images import ImageFile, Tally
from vitedge.prediction import Candidate

TOP = 5
BATCH_IMAGES = 64
DIGEST_BYTES = 32


class Model(Protocol):
    """What a table needs to know of a classifier.

    Attributes:
        labels: one a logit.
        threshold: it abstains from images with a lower score.
    """

    @property
    def labels(self) -> tuple[str, ...]:
        """One a logit."""

    @property
    def threshold(self) -> float:
        """The least score of an answer that it stands by."""


@dataclass(frozen=True)
class Batch:
    """Images that are answered about together.

    Attributes:
        start: place of the first one among all.
        files: the images.
    """

    start: int
    files: tuple[ImageFile, ...]

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class Verdict:
    """What one classifier said of one image.

    Attributes:
        indices: the best classes, best first.
        scores: their probabilities.
        divergence: as in ``Answers``.
        logits: ``(classes,)`` float32; None unless they are kept.
    """

    indices: tuple[int, ...]
    scores: tuple[float, ...]
    divergence: float
    logits: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Row:
    """What all classifiers said of one image.

    Attributes:
        sha256: of the file's contents, hex; empty if it could not be read.
        verdicts: one for each classifier; none if it could not be read.
    """

    sha256: str
    verdicts: tuple[Verdict, ...]


Answering: TypeAlias = Callable[[Sequence[Batch]], Generator[tuple[Batch, Sequence[Row]], None, None]]
"""Answers batches, each with a row for every image, in any order."""


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


class Table:
    """The rows of all images, packed into arrays: at most 84 bytes an image and classifier without logits.

    Args:
        models: what answers.
        files: the images.
        keep_logits: make room for them.
    """

    def __init__(self, models: Sequence[Model], files: Sequence[ImageFile], *, keep_logits: bool = False) -> None:
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

    def takes(self, batch: Batch, rows: Sequence[Row]) -> bool:
        """Whether rows are about a batch, these models and their classes."""
        classes = len(self._models[-1].labels)
        return len(rows) == len(batch) and all(
            not row.sha256
            or (
                len(row.verdicts) == len(self._models)
                and all(
                    len(each.indices) == self._indices.shape[-1] and max(each.indices) < classes
                    for each in row.verdicts
                )
            )
            for row in rows
        )

    def put(self, batch: Batch, rows: Sequence[Row]) -> None:
        """Take in the rows of a batch."""
        for place, row in enumerate(rows, batch.start):
            self._readable[place] = bool(row.sha256)
            self._contents[place] = np.void(bytes.fromhex(row.sha256 or "00" * DIGEST_BYTES))
            for number, verdict in enumerate(row.verdicts):
                self._indices[number, place] = verdict.indices
                self._scores[number, place] = verdict.scores
                self._divergences[number, place] = verdict.divergence
                if self._logits is not None:
                    self._logits[number, place] = verdict.logits

    def answers(self) -> tuple[Answers, ...]:
        """Those of each classifier, about the images that could be read.

        Raises:
            CalibrationError: none could be read.
        """
        tally, readable = Tally(), self._readable
        for file, content, read in zip(self._files, self._contents, readable.tolist(), strict=True):
            tally.note(file, content.tobytes().hex() if read else "")
        tally.check()
        files, skipped, sha256 = tuple(tally.files), tuple(tally.skipped), tally.sha256
        return tuple(
            Answers(
                labels=model.labels,
                files=files,
                indices=self._indices[number, readable],
                scores=self._scores[number, readable],
                divergences=self._divergences[number, readable],
                skipped=skipped,
                sha256=sha256,
                threshold=model.threshold,
                logits=None if self._logits is None else self._logits[number, readable],
            )
            for number, model in enumerate(self._models)
        )


def batches_of(files: Sequence[ImageFile]) -> tuple[Batch, ...]:
    """The images in their order, some at a time."""
    return tuple(
        Batch(start, tuple(files[start : start + BATCH_IMAGES])) for start in range(0, len(files), BATCH_IMAGES)
    )
