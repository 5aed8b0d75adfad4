"""Images answered about in this process, on all of its processors."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice

from vitedge.calib.data.images import Images, Picture
from vitedge.calib.evaluation.predictions import TOP, Answering, Batch, Row, Verdict
from vitedge.metrics import kl_divergence
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.stream.stream import LANES_PAY_FROM

AHEAD = 2
"""Images that wait for each lane, decoded."""


class Lanes:
    """Classifiers for a thread each: the lanes of those that have some, beside one another.

    A lane gives the logits that its classifier gives, so that it does not matter which image goes where.

    Args:
        classifiers: what every image is to be classified by, in each lane.
        images: how many there will be; for a few, opening lanes takes longer than they save.
        keep_logits: in the rows.
    """

    def __init__(self, classifiers: Sequence[Classifier], images: int, *, keep_logits: bool = False) -> None:
        opened = [each.lanes() if images >= LANES_PAY_FROM else () for each in classifiers]
        columns = [lanes or (classifier,) for lanes, classifier in zip(opened, classifiers, strict=True)]
        self.count = max(map(len, columns))
        self._keep_logits = keep_logits
        self._free: queue.SimpleQueue[tuple[Classifier, ...]] = queue.SimpleQueue()
        for number in range(self.count):
            self._free.put(tuple(column[number % len(column)] for column in columns))

    def row(self, picture: Picture) -> Row:
        """Classify an image in the next free lane; safe in any thread.

        Raises:
            EngineError: an engine failed.
        """
        if picture.pixels is None:
            return Row("", ())
        classifiers = self._free.get()
        try:
            logits = [each.infer(each.prepare(picture.pixels, order="RGB")) for each in classifiers]
            topk = [each.rank(row, TOP) for each, row in zip(classifiers, logits, strict=True)]
        finally:
            self._free.put(classifiers)
        divergences = [*(float(kl_divergence(logits[-1], row)) for row in logits[:-1]), 0.0]
        return Row(
            picture.sha256,
            tuple(
                Verdict(
                    tuple(each.index for each in best),
                    tuple(each.score for each in best),
                    divergence,
                    row if self._keep_logits else None,
                )
                for best, divergence, row in zip(topk, divergences, logits, strict=True)
            ),
        )

    def rows(self, pictures: Iterable[Picture]) -> Generator[Row, None, None]:
        """Those of many images, in their order, in all lanes at once."""
        with ThreadPoolExecutor(self.count, thread_name_prefix="vitedge-eval") as pool:
            yield from _in_order(pool, self.row, pictures, AHEAD * self.count)


def in_lanes(classifiers: Sequence[Classifier], images: Images, *, keep_logits: bool = False) -> Answering:
    """An answering in this process; its errors are those of ``predict``."""

    def answering(batches: Sequence[Batch]) -> Generator[tuple[Batch, Sequence[Row]], None, None]:
        lanes = Lanes(classifiers, sum(map(len, batches)), keep_logits=keep_logits)
        files = [file for batch in batches for file in batch.files]
        with closing(images.only(files).pictures()) as pictures, closing(lanes.rows(pictures)) as rows:
            for batch in batches:
                yield batch, list(islice(rows, len(batch)))

    return answering


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Picture], Row], pictures: Iterable[Picture], ahead: int
) -> Generator[Row, None, None]:
    pending: deque[Future[Row]] = deque()
    try:
        for picture in pictures:
            pending.append(pool.submit(work, picture))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
