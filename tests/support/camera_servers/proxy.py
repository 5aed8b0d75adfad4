"""``Proxy``: a TCP proxy on loopback that holds, delays, refuses and resets connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

CHUNK = 65536
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time, so that closing sends RST."""


class Proxy:
    """Forwards connections to a port, in a thread of its own; leaving the context closes all of them.

    Attributes:
        port: the port that it listens on.

    Args:
        target: the port that it forwards to.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._delay = 0.0
        self._answers = True
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(0), self._loop).result()

    def hold(self) -> None:
        """Forward nothing more, and keep all connections open, as a router that lost its memory does."""
        self._call(self._passing.clear)

    def abandon(self) -> None:
        """Forward nothing more in the connections of now, which stay open; new ones are forwarded."""
        self._call(self._forget)

    def forward(self) -> None:
        """Forward again, at once, to all who connect."""
        self._delay, self._answers = 0.0, True
        self._call(self._passing.set)

    def delay(self, seconds: float) -> None:
        """Let each new connection wait before its first byte is forwarded."""
        self._delay = seconds

    def ignore(self) -> None:
        """Accept new connections, and never answer them."""
        self._answers = False

    def reset(self) -> None:
        """Break all connections with RST; new ones are forwarded."""
        self._call(self._break)

    def refuse(self) -> None:
        """Break all connections, and refuse new ones until ``listen``."""
        self._call(self._server.close)
        self.reset()

    def listen(self) -> None:
        """Listen again on the same port."""
        asyncio.run_coroutine_threadsafe(self._listen(self.port), self._loop).result()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _call(self, function: Callable[[], object]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (function(), done.set()))
        done.wait()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._cancel())
        self._loop.close()

    async def _cancel(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _listen(self, port: int) -> int:
        self._passing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # which asyncio would report at the end
            await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if not self._answers:
            await asyncio.Event().wait()
        await asyncio.sleep(self._delay)
        try:
            to_target, from_target = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            self._reset(writer)
            return
        self._writers.add(from_target)
        passing = self._passing
        await asyncio.gather(self._pipe(reader, from_target, passing), self._pipe(to_target, writer, passing))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await passing.wait()
                writer.write(data)
                await writer.drain()
        await passing.wait()
        writer.close()
        self._writers.discard(writer)

    def _forget(self) -> None:
        self._passing.clear()
        self._passing = asyncio.Event()
        self._passing.set()

    def _break(self) -> None:
        for writer in list(self._writers):
            self._reset(writer)

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        held = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
