"""Images answered about on a Dask cluster: batches go to its workers, which read images and bundles at the same paths.

A worker that dies costs the batches that it had in work: the scheduler gives them to another one.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vitedge.bundle.bundle import Bundle
from vitedge.calib.data.images import Images, ImageSet
from vitedge.calib.evaluation.predictions import Answering, Batch, Row
from vitedge.calib.evaluation.workers import Lanes
from vitedge.errors import BundleError, CalibrationError, EngineError, UsageError
from vitedge.extras import require
from vitedge.runtime.classifier import load
from vitedge.runtime.stream.stream import LANES_PAY_FROM

CONNECT_SECONDS = 20
WORKER_SECONDS = 60
IN_FLIGHT = 256
"""Batches that the scheduler knows of at a time."""

_opening = threading.Lock()


@dataclass(frozen=True)
class RemoteModel:
    """What is known here of a classifier that runs elsewhere.

    Attributes:
        labels: one a logit.
        threshold: it abstains from images with a lower score.
    """

    labels: tuple[str, ...]
    threshold: float

    @classmethod
    def of(cls, bundle: Bundle) -> RemoteModel:
        """That of a bundle."""
        confidence = bundle.manifest.confidence
        return cls(bundle.manifest.model.labels, 0.0 if confidence is None else confidence.threshold)


@dataclass(frozen=True)
class Place:
    """A bundle as workers find it.

    Attributes:
        path: its absolute path.
        sha256: of its manifest, which holds the hash of every file.
    """

    path: str
    sha256: str

    @classmethod
    def of(cls, bundle: Bundle) -> Place:
        """Where it is here."""
        path = bundle.path.resolve()
        return cls(str(path), bundle.digest)


@dataclass(frozen=True)
class Task:
    """What a worker does at a time.

    Attributes:
        images: a batch of them, at absolute paths.
        bundles: to classify each of them with.
        engine: key in ``vitedge.runtime.engines.base.ENGINES``, or None for that of the bundle's target.
    """

    images: ImageSet
    bundles: tuple[Place, ...]
    engine: str | None


def on_cluster(scheduler: str, bundles: Sequence[Bundle], images: Images, engine: str | None = None) -> Answering:
    """An answering on the workers of a Dask scheduler.

    Args:
        scheduler: its address, such as ``tcp://10.0.0.1:8786``.
        bundles: one for each classifier; every worker finds the same at the same path.
        images: of a folder that every worker finds at the same path.
        engine: what runs the bundles.

    Returns:
        Raises when it is used: UsageError where the scheduler or a worker is missing, MissingExtraError without
        dask.distributed, CalibrationError or BundleError where a worker does not find what it needs, EngineError where
        an engine failed or batches kill their workers.

    Raises:
        UsageError: the images are not those of a folder.
    """
    if not isinstance(images, ImageSet):
        raise UsageError(
            f"{images.path} is a video, which is read in order", expected="a folder of images for --scheduler"
        )
    places, folder = tuple(Place.of(bundle) for bundle in bundles), images.folder.resolve()

    def task(batch: Batch) -> Task:
        return Task(
            ImageSet(folder, tuple(replace(file, path=folder / file.name) for file in batch.files)), places, engine
        )

    def answering(batches: Sequence[Batch]) -> Generator[tuple[Batch, Sequence[Row]], None, None]:
        if batches:
            with _connected(scheduler) as client, closing(_spread(client, task, batches)) as answered:
                yield from answered

    return answering


def answer(task: Task) -> list[Row]:
    """What a worker runs.

    Raises:
        BundleError: the bundle is not here, or is another one.
        CalibrationError: an image is not here.
        EngineError: an engine failed.
    """
    lanes = _lanes(task.bundles, task.engine)
    rows = list(lanes.rows(task.images.pictures()))
    for file, row in zip(task.images.files, rows, strict=True):
        if not row.sha256 and not file.path.exists():
            raise CalibrationError(
                f"the worker on {socket.gethostname()} has no {file.path}",
                expected="the images at the same path on every worker",
                fix="mount or copy the folder there",
            )
    return rows


def _spread(client: Any, task: Any, batches: Sequence[Batch]) -> Generator[tuple[Batch, Sequence[Row]], None, None]:
    """Keep so many batches in flight, and give out each as it is done."""
    distributed = _distributed()
    waiting, running, done = deque(batches), {}, distributed.as_completed(loop=client.loop)

    def submit() -> None:
        batch = waiting.popleft()
        future = client.submit(answer, task(batch), pure=False)
        running[future.key] = batch
        done.add(future)

    for _ in range(min(IN_FLIGHT, len(batches))):
        submit()
    for future in done:
        rows = _result(distributed, future)
        batch = running.pop(future.key)
        if waiting:
            submit()
        yield batch, rows


def _result(distributed: Any, future: Any) -> list[Row]:
    if future.cancelled():
        raise EngineError("the scheduler has gone", fix="start it again, then the same command, which goes on")
    try:
        rows: list[Row] = future.result()
    except distributed.KilledWorker as error:
        raise EngineError(
            f"workers die of the same images: {error}",
            expected="workers that live",
            fix="look into their logs; most often memory runs out",
        ) from error
    return rows


def _connected(scheduler: str) -> Any:
    distributed = _distributed()
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no scheduler answers at {scheduler}",
            expected="the address of a Dask scheduler, such as tcp://10.0.0.1:8786",
            fix="dask scheduler starts one, and prints its address",
        ) from error
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except distributed.TimeoutError as error:
        client.close()
        raise UsageError(
            f"the scheduler at {scheduler} has no workers", fix=f"on every machine: dask worker {scheduler}"
        ) from error
    return client


def _distributed() -> Any:
    return require("distributed", extra="cluster", purpose="--scheduler")


def _lanes(bundles: tuple[Place, ...], engine: str | None) -> Lanes:
    with _opening:  # the threads of a worker share them
        return _opened(bundles, engine)


@lru_cache(maxsize=1)
def _opened(bundles: tuple[Place, ...], engine: str | None) -> Lanes:
    return Lanes([load(_bundle(place), engine=engine) for place in bundles], LANES_PAY_FROM)


def _bundle(place: Place) -> Bundle:
    bundle = Bundle.open(Path(place.path))
    if bundle.digest != place.sha256:
        raise BundleError(
            f"{bundle.path} on {socket.gethostname()} is another bundle",
            expected="the same bundle at the same path on every worker",
            fix="copy it there again",
        )
    return bundle
