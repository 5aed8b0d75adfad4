"""The classifier: preprocessing, an engine and postprocessing.

    classify: preprocess ─▶ engine ─▶ postprocess ─▶ Prediction

``Stream`` calls ``classify`` for every frame, in the classifier or in its ``workers``. ``vitedge.runtime.load`` opens a
classifier on a bundle.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast, overload

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.model_card import Activation
from vitedge.bundle.preprocessing import ChannelOrder, Preprocessing
from vitedge.errors import EngineError
from vitedge.prediction import ClassScore, Image, Prediction, StageTimes
from vitedge.runtime.engines.base import BatchEngine, Engine, EngineInfo
from vitedge.runtime.postprocess import Postprocessor
from vitedge.runtime.preprocess.orientation import is_turned, orientation_notice, oriented, turned
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.preprocess.preprocessor import Preprocessor
from vitedge.runtime.sources.images.given import AnyImage, stored_image
from vitedge.runtime.system.owned import Owned, close_all

if TYPE_CHECKING:
    from vitedge.runtime.sources.options import SourceOptions
    from vitedge.runtime.stream.cameras.streams import Streams
    from vitedge.runtime.stream.opening import StreamSource
    from vitedge.runtime.stream.reconnect import Reconnect
    from vitedge.runtime.stream.states import OnState
    from vitedge.runtime.stream.stream import Policy, Stream

NANOSECONDS_PER_MS = 1e6


@dataclass(frozen=True)
class _Inference:
    """The logits of one frame, ``(classes,)`` float32, and the milliseconds of the stages before them."""

    logits: NDArray[np.float32]
    preprocess_ms: float
    infer_ms: float


class Classifier(Owned):
    """Classifies images with one engine.

    Calls from several threads are safe: one frame is preprocessed while another is inferred. For more throughput, give
    each thread one of the ``workers``. A forked child cannot use or close it: every method then raises EngineError.

    Args:
        engine: runs the graph; the classifier owns it and closes it.
        preprocessing: how an image becomes the engine's input.
        labels: one for each logit.
        temperature: the logits are divided by it before the softmax.
        threshold: predictions with a lower score abstain, 0…1.
        activation: ``softmax`` for one class an image, ``sigmoid`` for any number of labels an image (multi-label).
        thresholds: with ``sigmoid``, the score that each label must reach, 0…1; by default 0.5 for every label.
        open_workers: opens the engines of ``workers``, which the classifier owns as well; its argument says whether
            they may take batches; called at most once for each kind.

    Attributes:
        batch: images that ``classify_batch`` takes at once; 1 for an engine that takes one, as all but some workers do.

    Raises:
        UsageError: ``temperature`` or ``threshold`` is given with ``sigmoid``, or ``thresholds`` with ``softmax``; or
            there is not one threshold for each label.
    """

    def __init__(
        self,
        engine: Engine,
        preprocessing: Preprocessing,
        labels: Sequence[str],
        *,
        temperature: float = 1.0,
        threshold: float = 0.0,
        activation: Activation = "softmax",
        thresholds: Sequence[float] | None = None,
        open_workers: Callable[[bool], Sequence[Engine]] = lambda _: (),
    ) -> None:
        self.preprocessing = preprocessing
        self.info: EngineInfo = engine.info
        self._preprocess = Preprocessor(preprocessing)
        self._postprocess = Postprocessor(
            self.info,
            labels,
            temperature=temperature,
            threshold=threshold,
            activation=activation,
            thresholds=thresholds,
        )
        self._engine: Engine | None = engine
        self._batch_engine = engine if isinstance(engine, BatchEngine) else None
        self.batch = 1 if self._batch_engine is None else len(self._batch_engine.frames)
        self._preprocess_lock = threading.Lock()
        self._engine_lock = threading.Lock()
        self._open_workers = open_workers
        self._workers: dict[bool, tuple[Classifier, ...]] = {}
        self._workers_lock = threading.Lock()
        self._owner: Callable[[], Classifier | None] = lambda: None
        self._acquired("the classifier")

    @property
    def labels(self) -> tuple[str, ...]:
        """Return one label for each logit."""
        return self._postprocess.labels

    @property
    def activation(self) -> Activation:
        """Return ``softmax`` for one class an image, ``sigmoid`` for any number of labels an image."""
        return self._postprocess.activation

    @property
    def temperature(self) -> float:
        """Return the number that divides the logits before the softmax."""
        return self._postprocess.temperature

    @property
    def threshold(self) -> float:
        """Return the threshold; predictions with a lower score abstain."""
        return self._postprocess.threshold

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Return the score that each label must reach; None for one class an image."""
        return self._postprocess.thresholds

    def classify(self, image: AnyImage, *, topk: int = 5, order: ChannelOrder = "BGR") -> Prediction:
        """Classify one image.

        Args:
            image: ``H×W×3`` uint8; or the planes of a decoder; or the path of an image file, its bytes, or a Pillow
                image of any mode. A file is read and checked as the images of a folder are, and turned by its EXIF
                orientation if the model's preprocessing asks for it; so is a Pillow image.
            topk: number of classes to return; all classes if there are fewer.
            order: order of the channels of an array: ``BGR``, as in OpenCV, or ``RGB``.

        Returns:
            The best classes, the time of each stage, and as ``age_ms`` the milliseconds since the call.

        Raises:
            FrameSourceError: an array is empty, grey, or not uint8; an image file or Pillow image has values beyond 8
                bits; or there is no such file, or it is damaged or exceeds a limit of ``vitedge.safety.limits``.
            MissingExtraError: an image file needs Pillow, which is not installed.
            UsageError: ``topk`` is less than 1.
            EngineError: the engine failed, returned logits that are not finite, or is closed.
        """
        captured_at, captured_ns = time.time(), time.monotonic_ns()
        return self._ranked(self._infer(image, order), topk, captured_at, captured_ns)

    def classify_batch(
        self, images: Sequence[tuple[Image | YuvPlanes, ChannelOrder]], *, topk: int = 5
    ) -> list[Prediction | Exception]:
        """Classify several images at once, which takes an engine of the ``workers`` less time; for one thread.

        Args:
            images: at most ``batch`` arrays or planes, each with the order of its channels.
            topk: number of classes to return; all classes if there are fewer.

        Returns:
            For each image the prediction of ``classify``, or the exception that ``classify`` would raise. The time of
            inference, and ``age_ms``, cover all images together.

        Raises:
            EngineError: the engine failed, takes one image at a time, or is closed.
        """
        captured_at, captured_ns = time.time(), time.monotonic_ns()
        self._check_process()
        with self._engine_lock:
            engine = self._batch_engine
            if engine is None:
                self._opened()  # else it is closed
                raise EngineError("this engine takes one image at a time", fix="classify, for each image")
            filled = [self._filled(place, *image) for place, image in zip(engine.frames, images, strict=False)]
            begun = time.perf_counter_ns()
            logits = engine.run_batch()
            infer_ms = (time.perf_counter_ns() - begun) / NANOSECONDS_PER_MS
        return [
            each
            if isinstance(each, Exception)
            else self._outcome(_Inference(own, each, infer_ms), topk, captured_at, captured_ns)
            for each, own in zip(filled, logits, strict=False)
        ]

    def logits(self, image: AnyImage, *, order: ChannelOrder = "BGR") -> NDArray[np.float32]:
        """Return the ``(classes,)`` float32 logits of one image; arguments and errors as for ``classify``."""
        return self._infer(image, order).logits

    def stream(
        self,
        source: StreamSource,
        *,
        policy: Policy | None = None,
        max_frames: int | None = None,
        topk: int = 5,
        options: SourceOptions | None = None,
        reconnect: bool | Reconnect | None = None,
        max_age_ms: float | None = None,
        on_state: OnState | None = None,
        skip_corrupt: bool = True,
    ) -> Stream:
        """Classify the frames of a camera, video, folder or iterable; arguments and errors as for ``Stream``."""
        from vitedge.runtime.stream.stream import Stream

        return Stream(
            self,
            source,
            policy=policy,
            max_frames=max_frames,
            topk=topk,
            options=options,
            reconnect=reconnect,
            max_age_ms=max_age_ms,
            on_state=on_state,
            skip_corrupt=skip_corrupt,
        )

    def streams(
        self,
        cameras: Mapping[str, StreamSource] | str | Path,
        *,
        max_fps: float | Mapping[str, float] | None = None,
        max_frames: int | None = None,
        topk: int = 5,
        options: SourceOptions | Mapping[str, SourceOptions] | None = None,
        reconnect: bool | Reconnect | None = None,
        max_age_ms: float | None = None,
        on_state: OnState | None = None,
        skip_corrupt: bool = True,
    ) -> Streams:
        """Classify the newest frames of several cameras, in turn; arguments and errors as for ``Streams``."""
        from vitedge.runtime.stream.cameras.streams import Streams

        return Streams(
            self,
            cameras,
            max_fps=max_fps,
            max_frames=max_frames,
            topk=topk,
            options=options,
            reconnect=reconnect,
            max_age_ms=max_age_ms,
            on_state=on_state,
            skip_corrupt=skip_corrupt,
        )

    def workers(self, *, batches: bool = False) -> tuple[Classifier, ...]:
        """Return classifiers for one thread each, which together reach a higher throughput; often there are none.

        They give the same logits and share the processors, so that a single frame takes longer. The first call opens
        them, which compiles the graph once more and takes as long as ``load``; calls to this classifier go on
        meanwhile. They belong to this classifier, which closes them.

        Args:
            batches: whether several frames will wait at once. The workers then take them together, if the engine can
                and gains by it, and leave a single frame to this classifier.
        """
        self._check_process()
        with self._workers_lock:
            if batches not in self._workers:
                opened = tuple(self._worker(engine) for engine in self._open_workers(batches))
                if all(worker.batch == 1 for worker in opened):
                    self._workers.setdefault(False, opened)
                self._workers[batches] = opened
            return self._workers[batches]

    def prepare(self, image: AnyImage, *, order: ChannelOrder = "BGR") -> NDArray[np.uint8]:
        """Preprocess an image into the engine's ``h×w×3`` uint8 input; safe in any thread.

        Arguments and errors are as for ``classify``.
        """
        self._check_process()
        pixels, order = self._pixels(image, order)
        return self._preprocess(pixels, order=order)

    @overload
    def oriented(self, image: Image, orientation: int) -> Image: ...

    @overload
    def oriented(self, image: Image | YuvPlanes, orientation: int) -> Image | YuvPlanes: ...

    def oriented(self, image: Image | YuvPlanes, orientation: int) -> Image | YuvPlanes:
        """Turn an ``H×W×3`` image by its EXIF orientation, 1…8, if the model's preprocessing asks for it.

        Planes that are turned become a BGR image.

        Streams and evaluations do this to every image. ``classify`` does it to image files and Pillow images, because
        an array has no orientation.
        """
        if isinstance(image, YuvPlanes):
            turns = self.preprocessing.exif_orientation and is_turned(orientation)
            return turned(image.bgr(), orientation) if turns else image
        return oriented(image, orientation, self.preprocessing)

    def orientation_notice(self, count: int, subject: str) -> str:
        """Describe what became of ``count`` images of ``subject`` that state an orientation."""
        return orientation_notice(count, subject, self.preprocessing)

    def infer(self, prepared: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the ``(classes,)`` float32 logits of a frame that ``prepare`` returned.

        Raises:
            EngineError: the engine failed, or is closed.
        """
        self._check_process()
        owner = self._owner()
        if owner is not None:
            return owner.infer(prepared)
        with self._engine_lock:
            engine = self._opened()
            engine.frame[...] = prepared
            return engine.run()

    def rank(self, logits: NDArray[np.float32], topk: int) -> tuple[ClassScore, ...]:
        """Return the ``topk`` best classes of ``(classes,)`` logits, best first; ties in the order of their index.

        The scores are the softmax of the logits over the temperature, or the sigmoid of each logit.

        Raises:
            UsageError: ``topk`` is less than 1.
            EngineError: the logits are not finite, or there is not one for each label.
        """
        return self._postprocess.rank(logits, topk)

    def accept(self, logits: NDArray[np.float32]) -> tuple[ClassScore, ...]:
        """Return the labels of ``(classes,)`` logits whose scores reach their thresholds, best first.

        Raises:
            UsageError: the classifier gives one class an image.
            EngineError: the logits are not finite, or there is not one for each label.
        """
        return self._postprocess.accept(logits)

    def close(self) -> None:
        """Free the engine and the workers, each once no call uses it; a second call does nothing.

        Raises:
            Exception: the first error of an engine that could not be closed; all others are closed.
        """
        self._check_process()
        self._released()
        with self._workers_lock:
            workers = {worker for kind in self._workers.values() for worker in kind}
            self._workers = {False: (), True: ()}
        with self._engine_lock:
            engine, self._engine, self._batch_engine = self._engine, None, None
        close_all([*(worker.close for worker in workers), *([] if engine is None else [engine.close])])

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def _holds_anything(self) -> bool:
        return isinstance(self._engine, Owned)  # an engine in a test of an application holds nothing

    def _worker(self, engine: Engine) -> Classifier:
        """Make a classifier like this one on another engine; one for batches leaves single images to this one."""
        worker = Classifier(
            engine,
            self.preprocessing,
            self.labels,
            temperature=self.temperature,
            threshold=self.threshold,
            activation=self.activation,
            thresholds=self.thresholds,
        )
        if worker.batch > 1:
            worker._owner = weakref.ref(self)
        return worker

    def _opened(self) -> Engine:
        if self._engine is None:
            raise EngineError("this classifier is closed", fix="open the bundle again with vitedge.load")
        return self._engine

    def _infer(self, image: AnyImage, order: ChannelOrder) -> _Inference:
        """Preprocess and infer; a stage's time begins with the thread's turn, not with its wait for the other threads.

        If the engine is free, the image is preprocessed straight into its input. If another thread uses the engine, the
        image is preprocessed meanwhile and copied into the input afterwards.
        """
        self._check_process()  # before a lock that a thread of the parent may have held
        owner = self._owner()
        if owner is not None:
            return owner._infer(image, order)
        begun = time.perf_counter_ns()
        pixels, order = self._pixels(image, order)
        decode_ms = (time.perf_counter_ns() - begun) / NANOSECONDS_PER_MS
        if self._engine_lock.acquire(blocking=False):
            try:
                engine = self._opened()
                preprocess_ms = decode_ms + self._fill(engine.frame, pixels, order)
                return _timed_run(engine, preprocess_ms)
            finally:
                self._engine_lock.release()
        prepared = np.empty((*self.preprocessing.input_size, 3), np.uint8)
        preprocess_ms = decode_ms + self._fill(prepared, pixels, order)
        with self._engine_lock:
            return _timed_run(self._opened(), preprocess_ms, prepared)

    def _filled(self, place: NDArray[np.uint8], image: AnyImage, order: ChannelOrder) -> float | Exception:
        """Preprocess an image into its place in a batch; return the milliseconds, or the error of the image."""
        begun = time.perf_counter_ns()
        try:
            pixels, order = self._pixels(image, order)
            return (time.perf_counter_ns() - begun) / NANOSECONDS_PER_MS + self._fill(place, pixels, order)
        except Exception as error:  # noqa: BLE001  # it belongs to this image alone
            return error

    def _outcome(
        self, inference: _Inference, topk: int, captured_at: float, captured_ns: int
    ) -> Prediction | Exception:
        try:
            return self._ranked(inference, topk, captured_at, captured_ns)
        except Exception as error:  # noqa: BLE001  # it belongs to this image alone
            return error

    def _ranked(self, inference: _Inference, topk: int, captured_at: float, captured_ns: int) -> Prediction:
        """Return the prediction for the logits of an image that was captured at a time."""
        begun = time.perf_counter_ns()
        decided = self._postprocess(inference.logits, topk)
        postprocess_ms = (time.perf_counter_ns() - begun) / NANOSECONDS_PER_MS
        return Prediction(
            topk=decided.topk,
            frame=0,
            captured_at=captured_at,
            captured_ns=captured_ns,
            age_ms=(time.monotonic_ns() - captured_ns) / NANOSECONDS_PER_MS,
            stages_ms=StageTimes(inference.preprocess_ms, inference.infer_ms, postprocess_ms),
            abstained=decided.abstained,
            accepted=decided.accepted,
        )

    def _fill(self, prepared: NDArray[np.uint8], pixels: Image | YuvPlanes, order: ChannelOrder) -> float:
        """Preprocess a frame into ``prepared`` and return the milliseconds that it took."""
        with self._preprocess_lock:
            begun = time.perf_counter_ns()
            self._preprocess(pixels, order=order, out=prepared)
            return (time.perf_counter_ns() - begun) / NANOSECONDS_PER_MS

    def _pixels(self, image: AnyImage, order: ChannelOrder) -> tuple[Image | YuvPlanes, ChannelOrder]:
        """Return an image as pixels, upright, and the order of their channels; image files become RGB as in timm."""
        stored = stored_image(image)
        if stored is None:
            return cast("Image | YuvPlanes", image), order
        return self.oriented(stored.pixels, stored.orientation), "RGB"


def _timed_run(engine: Engine, preprocess_ms: float, prepared: NDArray[np.uint8] | None = None) -> _Inference:
    """Run an engine on its input, or on ``prepared``, which is copied into it."""
    begun = time.perf_counter_ns()
    if prepared is not None:
        engine.frame[...] = prepared
    logits = engine.run()
    return _Inference(logits, preprocess_ms, (time.perf_counter_ns() - begun) / NANOSECONDS_PER_MS)
