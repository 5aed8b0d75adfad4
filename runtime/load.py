"""``load``: open a bundle for classification.

Bundle ─▶ engine (checks the files that it reads; a thread checks the others) ─▶ self-test ─▶ Classifier
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from vitedge.bundle.bundle import GOLDEN, Bundle, open_bundle
from vitedge.bundle.signatures import Trust
from vitedge.errors import BundleError, EngineError
from vitedge.progress import Progress, Silent, reporting
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines.base import Engine
from vitedge.runtime.engines.open import EngineName, files_read, open_engine, open_workers
from vitedge.runtime.engines.self_test import ensure_self_test

logger = logging.getLogger("vitedge")


def load(
    bundle: Bundle | str | Path,
    *,
    engine: EngineName | None = None,
    threads: int | None = None,
    trust: Trust | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> Classifier:
    """Open a bundle for classification: check its hashes, compile it, and run the engine's self-test.

    Args:
        bundle: a bundle, or its path.
        engine: ``openvino``, ``onnxruntime`` or ``tensorrt``; by default the engine of the bundle's target.
        threads: number of CPU threads; by default the engine decides. TensorRT, which computes on the GPU, ignores it
            and logs that.
        trust: public keys, one of which must have signed the bundle.
        progress: receives the steps; a TensorRT engine that was not built before takes minutes.

    Raises:
        BundleError: the bundle cannot be read, one of its files was altered, or no trusted key has signed it.
        UsageError: there is no engine of that name, ``threads`` is not 1…1024, or ``trust`` is not a key.
        MissingExtraError: the engine's library is not installed.
        EngineError: the engine cannot run the bundle, or does not reproduce its golden vectors.
    """
    opened = open_bundle(bundle, trust=trust, contents=False)
    checked_before = opened is bundle  # Bundle.open did that, unless it was told not to
    unread = () if checked_before else opened.manifest.files.keys() - {*files_read(opened, engine), GOLDEN}
    with reporting(progress, f"loading {opened.path}"), ExitStack() as failed:
        with _checked_meanwhile(opened, unread):
            opened_engine = open_engine(opened, engine, threads=threads, progress=progress)
            failed.callback(opened_engine.close)
        if not ensure_self_test(opened, opened_engine).vectors and not checked_before:
            opened.check([GOLDEN])  # a self-test that runs reads, and so checks, the golden vectors
        model, confidence = opened.manifest.model, opened.manifest.confidence
        classifier = Classifier(
            opened_engine,
            model.preprocessing,
            model.labels,
            temperature=1.0 if confidence is None else confidence.temperature,
            threshold=0.0 if confidence is None else confidence.threshold,
            activation=model.activation,
            thresholds=opened.manifest.label_thresholds,
            open_workers=partial(_tested_workers, opened, engine, threads),
        )
        failed.pop_all()
    return classifier


@contextmanager
def _checked_meanwhile(bundle: Bundle, names: Iterable[str]) -> Generator[None, None, None]:
    """Check files in a thread while the engine reads, checks and compiles the others.

    Raises:
        BundleError: a file was altered; this takes precedence over an error from inside the context.
    """
    errors: list[Exception] = []

    def check() -> None:
        try:
            bundle.check(names)
        except Exception as error:  # noqa: BLE001  # raised below, in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=check, name="vitedge-check")
    thread.start()
    try:
        yield
    finally:
        thread.join()
        if errors:
            raise errors[0]


def _tested_workers(bundle: Bundle, engine: str | None, threads: int | None, batches: bool) -> Sequence[Engine]:
    """Open the workers and test them; empty if that fails, because the classifier works without them."""
    try:
        _check_unchanged(bundle)
        with ExitStack() as failed:
            workers = open_workers(bundle, engine, threads=threads, batches=batches)
            for worker in workers:
                failed.callback(worker.close)
            for worker in workers[:1]:  # the others are infer requests of the same compiled graph
                ensure_self_test(bundle, worker)
            failed.pop_all()
    except (BundleError, EngineError) as error:
        logger.warning("streams of every frame go on with one engine, more slowly: %s", error)
        return ()
    return workers


def _check_unchanged(bundle: Bundle) -> None:
    """Refuse another bundle in the place of the one that was loaded: an application may run for months."""
    if Bundle.open(bundle.path, contents=False).manifest != bundle.manifest:
        raise BundleError(f"{bundle.path} holds another bundle than when it was loaded", fix="load it again")
