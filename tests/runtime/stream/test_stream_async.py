"""``async for`` and ``async with``: the event loop goes on, and nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from vitedge.errors import EngineError, FrameSourceError
from vitedge.runtime.stream.stream import Stream
from vitedge.testing import FakeCamera, FakeSource

pytest.importorskip("av")
pytest.importorskip("PIL.Image")

import clips
from streams import EITHER, PATIENCE, NumberReader, no_threads, numbered

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]

FRAME = clips.numbered_frame(1)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine, and see that it starts no thread but those of the stream."""

    async def watched() -> None:
        await asyncio.wait_for(main(), PATIENCE)
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    before = set(threading.enumerate())
    asyncio.run(watched())
    assert no_threads()
    assert set(threading.enumerate()) <= before


@pytest.fixture
def camera() -> Iterator[FakeCamera]:
    camera = FakeCamera(lambda index: clips.numbered_frame(index % 256), fps=500.0)
    yield camera
    camera.come_back()  # a thread that still hangs in it would fail the tests that follow


@EITHER
def test_every_prediction_comes_in_order(reader: NumberReader, policy: str):
    async def main() -> None:
        async with Stream(reader, numbered(100), policy=policy) as stream:
            seen = [prediction.frame async for prediction in stream]
        assert seen == (list(range(100)) if policy == "every" else sorted(set(seen)))
        assert seen[-1] == 99

    run(main)


@EITHER
def test_the_loop_goes_on_while_frames_are_classified_and_workers_open(policy: str):
    """The engine waits for the loop: a loop that waited for the engine would hang."""
    turns = threading.Semaphore(0)

    class Waiting(NumberReader):
        def classify(self, image, *, topk, order):
            assert turns.acquire(timeout=PATIENCE)
            return super().classify(image, topk=topk, order=order)

        def workers(self, *, batches):
            assert turns.acquire(timeout=PATIENCE)
            return ()

    async def tick() -> None:
        while True:
            turns.release()
            await asyncio.sleep(0.001)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        async with Stream(Waiting(), numbered(500), policy=policy, max_frames=200) as stream:
            async for _ in stream:
                if stream.stats.predicted == 5:
                    break
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)

    run(main)


@pytest.mark.parametrize("error", [OSError("unplugged"), FrameSourceError("over", cause="eof")])
def test_an_error_of_the_source_is_raised(reader: NumberReader, error: Exception):
    async def main() -> None:
        stream = Stream(reader, FakeSource([FRAME], error=error))
        assert (await stream.__anext__()).frame == 0
        with pytest.raises(type(error)):
            await stream.__anext__()
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()

    run(main)


@EITHER
def test_an_error_of_the_engine_closes_the_source(reader: NumberReader, camera: FakeCamera, policy: str):
    async def main() -> None:
        reader.error = EngineError("overflow")
        with pytest.raises(EngineError, match="overflow"):
            async for _ in Stream(reader, camera.open, policy=policy):
                pass
        assert camera.sources[0].closed

    run(main)


@EITHER
def test_a_cancelled_task_ends_the_stream(reader: NumberReader, camera: FakeCamera, policy: str):
    async def main() -> None:
        stream = Stream(reader, camera.open, policy=policy)
        await stream.__anext__()
        camera.go_silent()

        async def consume() -> None:
            async for _ in stream:
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stream.state == "ended"

    run(main)
    assert camera.sources[0].closed


def test_a_cancelled_task_leaves_the_with_statement(reader: NumberReader, camera: FakeCamera):
    async def main() -> None:
        async def consume() -> None:
            async with Stream(reader, camera.open) as stream:
                async for _ in stream:
                    started.set()
                    await asyncio.sleep(PATIENCE)

        started = asyncio.Event()
        task = asyncio.create_task(consume())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert camera.sources[0].closed

    run(main)


@pytest.mark.parametrize("where", ["loop", "thread"])
def test_a_stop_ends_a_task_that_waits(reader: NumberReader, camera: FakeCamera, where: str):
    async def main() -> None:
        stream = Stream(reader, camera.open)
        await stream.__anext__()
        camera.hang()
        if where == "loop":
            asyncio.get_running_loop().call_later(0.05, stream.stop)
        else:
            threading.Timer(0.05, stream.stop).start()
        assert len([each async for each in stream]) <= 1  # the frame that waited already
        camera.come_back()

    run(main)


def test_leaving_early_and_closing_twice(reader: NumberReader, camera: FakeCamera):
    async def main() -> None:
        async with Stream(reader, camera.open) as stream:
            async for _ in stream:
                break
        assert camera.sources[0].closed
        await stream.aclose()

    run(main)


def test_a_source_that_hangs_does_not_hold_the_loop(reader: NumberReader, camera: FakeCamera):
    async def main() -> None:
        async with Stream(reader, camera.open) as stream:
            await stream.__anext__()
            camera.hang()
            captured = -1
            while captured < stream.stats.captured:
                captured = stream.stats.captured
                await asyncio.sleep(0.2)
        assert stream.stats.left_behind == 1
        camera.come_back()

    run(main)


def test_several_streams_share_a_loop():
    async def consume(count: int) -> int:
        async with Stream(NumberReader(), numbered(count)) as stream:
            return len([each async for each in stream])

    async def main() -> None:
        assert await asyncio.gather(*(consume(count) for count in (10, 20, 30, 40))) == [10, 20, 30, 40]

    run(main)


def test_a_loop_that_is_closed_meanwhile_breaks_no_thread(reader: NumberReader, camera: FakeCamera):
    stream = Stream(reader, camera.open)
    loop = asyncio.new_event_loop()
    task = loop.create_task(stream.__anext__())
    camera.go_silent()
    loop.run_until_complete(asyncio.sleep(0.01))
    if not task.done():
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    loop.close()
    stream.close()
    assert no_threads()
