"""States of a stream, and the thread that reports them to the application."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from vitedge.errors import Cause
from vitedge.runtime.system.owned import start_daemon

logger = logging.getLogger("vitedge")

StreamState = Literal["connecting", "online", "stalled", "reconnecting", "offline", "ended"]
"""The source has not delivered a frame yet; frames come; none came for the stall timeout; the connection was lost and
is being opened again; an attempt to open it failed and others follow; no frame will come any more."""

MOST_WAITING = 100
"""State changes that wait for a callback which is still busy; older ones are dropped."""


@dataclass(frozen=True)
class StateChange:
    """A new state of a stream.

    Attributes:
        state: the state from now on.
        cause: why, for ``stalled``, ``reconnecting``, ``offline``, and ``ended`` by an error; None if it is unknown.
        message: the error in words, without secrets; empty if there was none.
        when: seconds since the Unix epoch.
        epoch: number of the newest connection that delivered frames, from 0; -1 before the first frame.
        attempt: number of attempts to open the source that failed in a row.
        source: name of the camera, in a stream of several.
    """

    state: StreamState
    cause: Cause | None = None
    message: str = ""
    when: float = field(default_factory=time.time)
    epoch: int = -1
    attempt: int = 0
    source: str | None = None


OnState = Callable[[StateChange], object]


class StateCalls:
    """Calls a function of the application for each state change, in order, in one thread of its own.

    The stream does not wait for the function: it may block, raise, or close the stream. Its exceptions are logged,
    ``SystemExit`` among them.

    Args:
        on_state: the function.
    """

    def __init__(self, on_state: OnState) -> None:
        self._on_state = on_state
        self._changes: deque[StateChange] = deque(maxlen=MOST_WAITING)
        self._changed = threading.Condition()
        self._ended = False
        self.thread = start_daemon("vitedge-states", self._run)

    def put(self, change: StateChange) -> None:
        """Add a change; it is safe in a signal handler."""
        with self._changed:
            self._changes.append(change)
            self._changed.notify()

    def end(self) -> None:
        """End the thread after the changes that wait."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _run(self) -> None:
        while (change := self._next()) is not None:
            self._call(change)

    def _call(self, change: StateChange) -> None:
        try:
            self._on_state(change)
        except BaseException:  # SystemExit, too, would end this thread alone, and no later change would be told
            logger.exception("on_state failed at %r", change.state)

    def _next(self) -> StateChange | None:
        with self._changed:
            self._changed.wait_for(lambda: self._changes or self._ended)
            return self._changes.popleft() if self._changes else None
