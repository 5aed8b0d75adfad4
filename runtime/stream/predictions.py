"""``PredictionStream``: how an application gets predictions from the threads of a stream, and ends them."""

from __future__ import annotations

from types import TracebackType
from typing import ClassVar, TypeVar

from vitedge.errors import UsageError
from vitedge.prediction import Prediction
from vitedge.runtime.stream.pipeline import Pipeline
from vitedge.runtime.system.owned import Owned

CLOSE_SECONDS = 0.25
"""How long ``close`` waits for the threads of a stream; whatever answers later is left behind."""

Self = TypeVar("Self", bound="PredictionStream")


class PredictionStream(Owned):
    """An iterator of predictions, an asynchronous iterator, and a context manager of both kinds.

    Any thread and any signal handler may end it. Its threads end when it ends. One that is garbage-collected before its
    end closes itself, with a ResourceWarning.

    Args:
        pipeline: the threads.
    """

    _runs_threads: ClassVar[bool] = True

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._stop_requested = False
        self._acquired("the stream")

    def __iter__(self: Self) -> Self:
        return self

    def __next__(self) -> Prediction:
        self._check_process()
        try:
            prediction = self._pipeline.next()
        except BaseException:
            self._end()
            raise
        if prediction is None:
            if not self._stop_requested:
                self._end()
            raise StopIteration
        return prediction

    def stop(self) -> None:
        """End the stream and return at once; any thread, any signal handler and ``on_state`` may call it.

        A thread that waits for a prediction gets the end. The threads of the stream end by themselves, as soon as the
        source and the engine answer; until then they count as left behind.
        """
        self._check_process()
        self._stop_requested = True
        self._released()
        self._pipeline.stop()

    def close(self) -> None:
        """End the stream and wait for its threads, for 0.25 s at most; a second call does nothing."""
        self._check_process()
        self._end()

    def _holds_anything(self) -> bool:
        return not self._pipeline.stopped

    def _end(self) -> None:
        self._released()
        self._pipeline.stop()
        self._pipeline.join(CLOSE_SECONDS)

    def _end_at_exit(self) -> None:
        self._pipeline.park()
        if self._owned_as:
            self._warn_of_abandonment()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def __aiter__(self: Self) -> Self:
        return self

    async def __anext__(self) -> Prediction:
        """Wait for the next prediction without blocking the event loop; a cancellation ends the stream."""
        self._check_process()
        try:
            prediction = await self._pipeline.next_async()
        except Exception:
            await self.aclose()
            raise
        except BaseException:  # the task was cancelled
            self.stop()
            raise
        if prediction is None:
            if not self._stop_requested:
                await self.aclose()
            raise StopAsyncIteration
        return prediction

    async def aclose(self) -> None:
        """End the stream and wait for its threads as ``close`` does, without blocking the event loop."""
        self.stop()
        await self._pipeline.join_async(CLOSE_SECONDS)

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not self._inherited:
            await self.aclose()


def check_arguments(max_frames: int | None, topk: int, max_age_ms: float | None) -> None:
    """Refuse numbers that no stream can have."""
    for name, number in (("max_frames", max_frames), ("topk", topk)):
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}", expected="1 or more")
    if max_age_ms is not None and not max_age_ms > 0:
        raise UsageError(f"max_age_ms is {max_age_ms}", expected="milliseconds, above 0")
