"""The classifier: preprocessing, an engine, labels.

    load ─▶ Bundle (hashes checked) ─▶ engine ─▶ golden self-test ─▶ Classifier

``Classifier.classify`` goes through three stages, which streams call one by one: ``prepare`` (any thread), ``infer``
(one at a time) and ``rank`` (any thread). Streams that want every frame do so in the classifier's ``lanes``.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import Bundle, open_bundle
from vitedge.bundle.preprocessing import ChannelOrder, Preprocessing
from vitedge.bundle.signatures import Trust
from vitedge.errors import BundleError, EngineError, UsageError
from vitedge.prediction import Candidate, Prediction, StageTimes
from vitedge.runtime.engines.base import READS, Engine, EngineInfo, open_engine, open_lanes
from vitedge.runtime.engines.self_test import ensure_self_test
from vitedge.runtime.preprocess.preprocessor import Preprocessor

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

    from vitedge.runtime.sources.open import Source
    from vitedge.runtime.stream.stream import Policy

    Image = NDArray[np.uint8] | PillowImage

logger = logging.getLogger("vitedge")

NANOSECONDS_PER_MS = 1e6


class Classifier:
    """Classifies images with one engine.

    Calls from several threads are safe and run one after the other; the ones that should overlap need a classifier
    each.

    Args:
        engine: what runs the graph; the classifier owns it and closes it.
        preprocessing: how an image becomes the engine's input.
        labels: one for each logit.
        temperature: what logits are divided by before the softmax.
        threshold: abstain from predictions with a lower score, 0…1.
        open_lanes: opens the engines of ``lanes``, which the classifier then owns as well; called once at most.
    """

    def __init__(
        self,
        engine: Engine,
        preprocessing: Preprocessing,
        labels: Sequence[str],
        *,
        temperature: float = 1.0,
        threshold: float = 0.0,
        open_lanes: Callable[[], Sequence[Engine]] = tuple,
    ) -> None:
        self.preprocessing = preprocessing
        self.labels = tuple(labels)
        self.temperature = temperature
        self.threshold = threshold
        self.info: EngineInfo = engine.info
        self._preprocess = Preprocessor(preprocessing)
        self._engine: Engine | None = engine
        self._lock = threading.Lock()
        self._open_lanes = open_lanes
        self._lanes: tuple[Classifier, ...] | None = None
        self._lanes_lock = threading.Lock()

    def classify(self, image: Image, *, topk: int = 5) -> Prediction:
        """Classify one image.

        Args:
            image: ``H×W×3`` uint8 BGR, as OpenCV gives it, or a Pillow image of any mode.
            topk: how many classes to return; all of them where there are fewer.

        Returns:
            The best classes, the time in each stage, and as ``age_ms`` the milliseconds since the call.

        Raises:
            FrameSourceError: the image is empty, grey, or not uint8.
            EngineError: the engine failed, gave logits that are not numbers, or is closed.
        """
        captured_at = time.time()
        begun = time.perf_counter_ns()
        with self._lock:
            engine = self._opened()
            entered = time.perf_counter_ns()
            self._fill(engine.frame, image)
            prepared = time.perf_counter_ns()
            logits = engine.run()
            inferred = time.perf_counter_ns()
        candidates = self.rank(logits, topk)
        abstained = candidates[0].score < self.threshold
        done = time.perf_counter_ns()
        return Prediction(
            topk=candidates,
            frame=0,
            captured_at=captured_at,
            age_ms=(done - begun) / NANOSECONDS_PER_MS,
            stages_ms=StageTimes(
                preprocess=(prepared - entered) / NANOSECONDS_PER_MS,
                infer=(inferred - prepared) / NANOSECONDS_PER_MS,
                postprocess=(done - inferred) / NANOSECONDS_PER_MS,
            ),
            abstained=abstained,
        )

    def logits(self, image: Image) -> NDArray[np.float32]:
        """The ``(classes,)`` float32 logits of one image; arguments and errors as for ``classify``."""
        with self._lock:
            engine = self._opened()
            self._fill(engine.frame, image)
            return engine.run()

    def stream(
        self, source: Source, *, policy: Policy | None = None, max_frames: int | None = None, topk: int = 5
    ) -> Generator[Prediction, None, None]:
        """Classify the frames of a camera, video, folder or iterable; see ``vitedge.runtime.stream.stream``."""
        from vitedge.runtime.stream.stream import stream

        return stream(self, source, policy=policy, max_frames=max_frames, topk=topk)

    def lanes(self) -> tuple[Classifier, ...]:
        """Classifiers for a thread each, which together classify more frames a second than this one; often none.

        They give the same logits and share the processors, so that one frame takes longer. The first call opens them,
        which compiles the graph once more and takes as long as ``load``; they belong to this classifier, which closes
        them. Other calls to it go on meanwhile.
        """
        with self._lanes_lock:
            if self._lanes is None:
                self._lanes = tuple(self._beside(engine) for engine in self._open_lanes())
            return self._lanes

    def prepare(self, image: Image, *, order: ChannelOrder = "BGR") -> NDArray[np.uint8]:
        """The engine's ``h×w×3`` uint8 input for an image; safe in any thread.

        Raises:
            FrameSourceError: the image is empty, grey, or not uint8.
        """
        pixels, order = _pixels(image, order)
        return self._preprocess(pixels, order=order)

    def infer(self, prepared: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The ``(classes,)`` float32 logits of a frame that ``prepare`` returned.

        Raises:
            EngineError: the engine failed, or is closed.
        """
        with self._lock:
            engine = self._opened()
            engine.frame[...] = prepared
            return engine.run()

    def rank(self, logits: NDArray[np.float32], topk: int) -> tuple[Candidate, ...]:
        """The ``topk`` best classes of ``(classes,)`` logits, best first; equal ones in the order of their index.

        Scores are the softmax of the logits over the temperature.

        Raises:
            UsageError: ``topk`` is less than 1.
            EngineError: the logits are not finite, or are not one for each label.
        """
        peak, least = float(logits.max(initial=-math.inf)), float(logits.min(initial=math.inf))
        if topk < 1 or not math.isfinite(peak - least) or logits.size != len(self.labels):
            raise self._unrankable(logits, topk)
        weights = np.exp((logits - peak) / self.temperature)
        best = _best(logits, min(topk, logits.size))
        scores = weights[best] / weights.sum()
        return tuple(
            Candidate(self.labels[index], index, score)
            for index, score in zip(best.tolist(), scores.tolist(), strict=True)
        )

    def close(self) -> None:
        """Free the engine and the lanes, each once no call is using it; a second call does nothing."""
        with self._lanes_lock:
            for lane in self._lanes or ():
                lane.close()
            self._lanes = ()
        with self._lock:
            if self._engine is not None:
                self._engine.close()
            self._engine = None

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _beside(self, engine: Engine) -> Classifier:
        """A classifier like this one, with another engine."""
        return Classifier(
            engine, self.preprocessing, self.labels, temperature=self.temperature, threshold=self.threshold
        )

    def _opened(self) -> Engine:
        if self._engine is None:
            raise EngineError("this classifier is closed", fix="open the bundle again with vitedge.load")
        return self._engine

    def _fill(self, target: NDArray[np.uint8], image: Image) -> None:
        pixels, order = _pixels(image, "BGR")
        self._preprocess(pixels, order=order, out=target)

    def _unrankable(self, logits: NDArray[np.float32], topk: int) -> UsageError | EngineError:
        if topk < 1:
            return UsageError(f"topk is {topk}", expected="1 or more")
        if logits.size != len(self.labels):
            return EngineError(
                f"the engine gave {logits.size} logits", expected=f"{len(self.labels)}, one for each label"
            )
        return EngineError(
            f"{self.info.name} gave logits that are not finite numbers",
            expected="finite logits",
            fix=f"{self.info.effective_precision} overflows on this machine: convert with another precision",
        )


def _best(logits: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Indices of the ``count`` largest, in descending order, without sorting all."""
    threshold = np.partition(logits, logits.size - count)[logits.size - count]
    candidates = np.flatnonzero(logits >= threshold)
    order = np.argsort(-logits[candidates], kind="stable")
    return candidates[order[:count]]


def _pixels(image: Image, order: ChannelOrder) -> tuple[NDArray[np.uint8], ChannelOrder]:
    """An image as an array, and the order of its channels; Pillow images become RGB as in timm."""
    pillow = sys.modules.get("PIL.Image")  # nobody has a Pillow image who has not imported it
    if pillow is not None and isinstance(image, pillow.Image):
        return np.asarray(image.convert("RGB")), "RGB"
    return cast("NDArray[np.uint8]", image), order


def load(
    bundle: Bundle | str | Path, *, engine: str | None = None, threads: int | None = None, trust: Trust | None = None
) -> Classifier:
    """Open a bundle for classification: check its hashes, compile it, have the engine prove itself.

    Args:
        bundle: a bundle, or the path of one.
        engine: key in ``vitedge.runtime.engines.base.ENGINES``; by default the one of the bundle's target.
        threads: CPU threads to use; by default the engine decides.
        trust: public keys, of which one has to have signed the bundle.

    Raises:
        BundleError: the bundle cannot be read, a file of it was altered, or no trusted key has signed it.
        UsageError: no engine of that name, fewer than one thread, or no key.
        MissingExtraError: the engine's library is not installed.
        EngineError: the engine does not load, or does not reproduce the bundle's golden vectors.
    """
    opened = open_bundle(bundle, trust=trust, contents=False)
    unread = () if opened is bundle else opened.manifest.files.keys() - set(READS.get(engine, ()))
    with ExitStack() as failed:
        with _checked_meanwhile(opened, unread):
            opened_engine = open_engine(opened, engine, threads=threads)
            failed.callback(opened_engine.close)
        ensure_self_test(opened, opened_engine)
        model, confidence = opened.manifest.model, opened.manifest.confidence
        classifier = Classifier(
            opened_engine,
            model.preprocessing,
            model.labels,
            temperature=1.0 if confidence is None else confidence.temperature,
            threshold=0.0 if confidence is None else confidence.threshold,
            open_lanes=partial(_proven_lanes, opened, engine, threads),
        )
        failed.pop_all()
    return classifier


@contextmanager
def _checked_meanwhile(bundle: Bundle, names: Iterable[str]) -> Generator[None, None, None]:
    """Check files in a thread while those that an engine reads, which checks them, are compiled.

    Raises:
        BundleError: one was altered; this goes before an error from inside.
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


def _proven_lanes(bundle: Bundle, engine: str | None, threads: int | None) -> Sequence[Engine]:
    """The lanes, if they pass the self-test; else none, for the classifier works without them."""
    try:
        _check_unchanged(bundle)
        with ExitStack() as failed:
            lanes = open_lanes(bundle, engine, threads=threads)
            for lane in lanes:
                failed.callback(lane.close)
            for lane in lanes[:1]:  # the others are requests to the same compiled graph
                ensure_self_test(bundle, lane)
            failed.pop_all()
    except (BundleError, EngineError) as error:
        logger.warning("streams of every frame go on with one engine, more slowly: %s", error)
        return ()
    return lanes


def _check_unchanged(bundle: Bundle) -> None:
    """An application may run for months, and somebody may put another bundle in the place of the one it loaded."""
    if Bundle.open(bundle.path, contents=False).manifest != bundle.manifest:
        raise BundleError(f"{bundle.path} holds another bundle than when it was loaded", fix="load it again")
