"""Predictions made on a Dask cluster, whose workers read images and bundles at the same paths as this machine.

When a worker dies, the scheduler gives its unfinished batches to another worker.
"""

from __future__ import annotations

import socket
import threading
import weakref
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.dataset import ImageDataset
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.evaluation.predictions import Batch, ImageResult, Predictor
from vitedge.calib.evaluation.workers import WorkerPool
from vitedge.errors import BundleError, CalibrationError, EngineError, UsageError
from vitedge.extras import require
from vitedge.runtime.engines.open import EngineName
from vitedge.runtime.load import load
from vitedge.runtime.stream.stream import WORKERS_PAY_FROM
from vitedge.runtime.system.owned import close_all

CONNECT_SECONDS = 20
WORKER_SECONDS = 60
IN_FLIGHT = 256
"""Greatest number of batches submitted at a time."""

_opening = threading.Lock()


@dataclass(frozen=True)
class RemoteModel:
    """What is known of a classifier that runs on the cluster.

    Attributes:
        preprocessing: says whether images are turned.
        labels: one a logit.
        threshold: the classifier abstains from images with a lower score.
        thresholds: of a multi-label model, one for each label; None for one class an image.
    """

    preprocessing: Preprocessing
    labels: tuple[str, ...]
    threshold: float
    thresholds: tuple[float, ...] | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> RemoteModel:
        """Read preprocessing, labels and thresholds from a bundle's manifest."""
        manifest, confidence = bundle.manifest, bundle.manifest.confidence
        threshold = 0.0 if confidence is None else confidence.threshold
        model = manifest.model
        return cls(model.preprocessing, model.labels, threshold, manifest.label_thresholds)


@dataclass(frozen=True)
class BundleLocation:
    """Path and hash by which a worker finds a bundle.

    Attributes:
        path: absolute path.
        sha256: hex SHA-256 of the manifest, which holds the hash of every file.
    """

    path: str
    sha256: str

    @classmethod
    def of(cls, bundle: Bundle) -> BundleLocation:
        """Return the location of a bundle on this machine."""
        path = bundle.path.resolve()
        return cls(str(path), bundle.digest)


@dataclass(frozen=True)
class BatchTask:
    """The work that a worker takes at a time.

    Attributes:
        images: a batch of images, at absolute paths.
        bundles: each image is classified with each bundle.
        engine: key in ``vitedge.runtime.engines.base.ENGINES``, or None for the engine of the bundle's target.
    """

    images: ImageFolder
    bundles: tuple[BundleLocation, ...]
    engine: EngineName | None


def cluster_predictor(
    scheduler: str, bundles: Sequence[Bundle], images: ImageDataset, engine: EngineName | None = None
) -> Predictor:
    """Return a predictor that runs on the workers of a Dask scheduler.

    Args:
        scheduler: address of the scheduler, such as ``tcp://10.0.0.1:8786``.
        bundles: one for each classifier; every worker finds the same bundle at the same path.
        images: images of a folder that every worker finds at the same path.
        engine: engine that runs the bundles; None for the engine of each bundle's target.

    Returns:
        A predictor. When used, it raises UsageError if the scheduler or a worker is missing, MissingExtraError without
        dask.distributed, CalibrationError or BundleError if a worker lacks an image or a bundle, and EngineError if an
        engine fails or batches kill their workers.

    Raises:
        UsageError: the images are frames of a video.
    """
    if not isinstance(images, ImageFolder):
        raise UsageError(
            f"{images.path} is a video, which is read in order", expected="a folder of images for scheduler="
        )
    locations, folder = tuple(BundleLocation.of(bundle) for bundle in bundles), images.folder.resolve()

    def task(batch: Batch) -> BatchTask:
        return BatchTask(
            ImageFolder(folder, tuple(replace(file, path=folder / file.name) for file in batch.files)),
            locations,
            engine,
        )

    def predictor(batches: Sequence[Batch]) -> Generator[tuple[Batch, Sequence[ImageResult]], None, None]:
        if batches:
            with _connected(scheduler) as client, closing(_submit_all(client, task, batches)) as results:
                yield from results

    return predictor


def predict_batch(task: BatchTask) -> list[ImageResult]:
    """Classify a batch, on a worker.

    Raises:
        BundleError: the worker has no such bundle, or another one at its path.
        CalibrationError: the worker lacks an image.
        EngineError: an engine failed.
    """
    pool = _worker_pool(task.bundles, task.engine)
    results = list(pool.predict_all(task.images.decode()))
    for file, result in zip(task.images.files, results, strict=True):
        if not result.sha256 and not file.path.exists():
            raise CalibrationError(
                f"the worker on {socket.gethostname()} has no {file.path}",
                expected="the images at the same path on every worker",
                fix="mount or copy the folder there",
            )
    return results


def _submit_all(
    client: Any, task: Any, batches: Sequence[Batch]
) -> Generator[tuple[Batch, Sequence[ImageResult]], None, None]:
    """Keep ``IN_FLIGHT`` batches submitted, and yield each as it is done."""
    distributed = _distributed()
    waiting, running, done = deque(batches), {}, distributed.as_completed(loop=client.loop)

    def submit() -> None:
        batch = waiting.popleft()
        future = client.submit(predict_batch, task(batch), pure=False)
        running[future.key] = batch
        done.add(future)

    for _ in range(min(IN_FLIGHT, len(batches))):
        submit()
    for future in done:
        results = _result(distributed, future)
        batch = running.pop(future.key)
        if waiting:
            submit()
        yield batch, results


def _result(distributed: Any, future: Any) -> list[ImageResult]:
    if future.cancelled():
        raise EngineError(
            "the scheduler has stopped", fix="start it again, then run the same command again: it resumes"
        )
    try:
        results: list[ImageResult] = future.result()
    except distributed.KilledWorker as error:
        raise EngineError(
            f"several workers died while they classified the same images: {error}",
            expected="workers that survive a batch",
            fix="look into their logs; the most frequent cause is a lack of memory",
        ) from error
    return results


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
    return require("distributed", extra="cluster", purpose="scheduler=")


def _worker_pool(bundles: tuple[BundleLocation, ...], engine: EngineName | None) -> WorkerPool:
    with _opening:  # the threads of a Dask worker share one pool
        return _opened(bundles, engine)


@lru_cache(maxsize=1)
def _opened(bundles: tuple[BundleLocation, ...], engine: EngineName | None) -> WorkerPool:
    """Open a pool; its classifiers are closed if one of them does not open, and when nobody uses the pool any more."""
    with ExitStack() as failed:
        classifiers = []
        for location in bundles:
            classifiers.append(load(_bundle(location), engine=engine))
            failed.callback(classifiers[-1].close)
        pool = WorkerPool(classifiers, WORKERS_PAY_FROM)
        failed.pop_all()
    weakref.finalize(pool, close_all, [classifier.close for classifier in classifiers])
    return pool


def _bundle(location: BundleLocation) -> Bundle:
    bundle = Bundle.open(Path(location.path))
    if bundle.digest != location.sha256:
        raise BundleError(
            f"{bundle.path} on {socket.gethostname()} is another bundle",
            expected="the same bundle at the same path on every worker",
            fix="copy it there again",
        )
    return bundle
