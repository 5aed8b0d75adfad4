"""Predictions made in this process, on all of its processors."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice

from vitedge.calib.data.dataset import DecodedImage, ImageDataset
from vitedge.calib.evaluation.predictions import TOP, Batch, ImageResult, Predictor, TopK
from vitedge.metrics import binary_kl_divergence, kl_divergence
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.stream.stream import WORKERS_PAY_FROM

PREFETCH = 2
"""Decoded images that wait for each worker."""


class WorkerPool:
    """Workers that classify images in parallel, each with its own infer request of every classifier.

    All workers of a classifier give the same logits, so any worker may take any image.

    Args:
        classifiers: every image is classified by each of them.
        images: expected number of images; for a few images, opening workers takes longer than they save.
        keep_logits: keep the logits in the results.
    """

    def __init__(self, classifiers: Sequence[Classifier], images: int, *, keep_logits: bool = False) -> None:
        opened = [each.workers() if images >= WORKERS_PAY_FROM else () for each in classifiers]
        columns = [workers or (classifier,) for workers, classifier in zip(opened, classifiers, strict=True)]
        self.count = max(map(len, columns))
        self._classifiers = tuple(classifiers)  # they own the workers, and close them when they are collected
        self._keep_logits = keep_logits
        self._free: queue.SimpleQueue[tuple[Classifier, ...]] = queue.SimpleQueue()
        for number in range(self.count):
            self._free.put(tuple(column[number % len(column)] for column in columns))

    def predict(self, image: DecodedImage) -> ImageResult:
        """Classify an image on the next free worker; safe in any thread.

        Raises:
            EngineError: an engine failed.
        """
        if image.pixels is None:
            return ImageResult("", ())
        pixels, orientation = image.pixels, image.orientation
        classifiers = self._free.get()
        try:
            logits = [each.infer(each.prepare(each.oriented(pixels, orientation), order="RGB")) for each in classifiers]
            topk = [each.rank(row, TOP) for each, row in zip(classifiers, logits, strict=True)]
        finally:
            self._free.put(classifiers)
        divergence_of = binary_kl_divergence if classifiers[-1].activation == "sigmoid" else kl_divergence
        scaled = [row / each.temperature for each, row in zip(classifiers, logits, strict=True)]
        divergences = [*(float(divergence_of(scaled[-1], row)) for row in scaled[:-1]), 0.0]
        return ImageResult(
            image.sha256,
            tuple(
                TopK(
                    tuple(each.index for each in best),
                    tuple(each.score for each in best),
                    divergence,
                    row if self._keep_logits else None,
                )
                for best, divergence, row in zip(topk, divergences, logits, strict=True)
            ),
            orientation,
        )

    def predict_all(self, images: Iterable[DecodedImage]) -> Generator[ImageResult, None, None]:
        """Classify images on all workers at once, and yield the results in the order of the images."""
        with ThreadPoolExecutor(self.count, thread_name_prefix="vitedge-eval") as pool:
            yield from _in_order(pool, self.predict, images, PREFETCH * self.count)


def local_predictor(classifiers: Sequence[Classifier], images: ImageDataset, *, keep_logits: bool = False) -> Predictor:
    """Return a predictor that runs in this process; it raises the errors of ``predict``."""

    def predictor(batches: Sequence[Batch]) -> Generator[tuple[Batch, Sequence[ImageResult]], None, None]:
        pool = WorkerPool(classifiers, sum(map(len, batches)), keep_logits=keep_logits)
        files = [file for batch in batches for file in batch.files]
        with closing(images.subset(files).decode()) as decoded, closing(pool.predict_all(decoded)) as results:
            for batch in batches:
                yield batch, list(islice(results, len(batch)))

    return predictor


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[DecodedImage], ImageResult], images: Iterable[DecodedImage], prefetch: int
) -> Generator[ImageResult, None, None]:
    pending: deque[Future[ImageResult]] = deque()
    try:
        for image in images:
            pending.append(pool.submit(work, image))
            if len(pending) > prefetch:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
