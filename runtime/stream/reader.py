"""``Reader``: the threads that open a source, read it, notice that it stalls, and open it again.

    vitedge-reader   opens one connection and delivers its frames; then the next, if no other thread does
    vitedge-watch    for live sources: starts connections, notices stalls, gives up what hangs

While a lost source does not answer, one patient attempt to open it has the whole ``open_timeout``, for a server that is
slow. Short ones run beside it, one after the other, for a server that returns and has forgotten the patient one.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import replace

from vitedge.errors import Cause, FrameSourceError, VitedgeError
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.stream.arrivals import Arrivals, paced
from vitedge.runtime.stream.reconnect import Reconnect
from vitedge.runtime.stream.states import StateChange, StreamState
from vitedge.runtime.stream.stats import ReaderStats
from vitedge.runtime.stream.threads import LastingThreads
from vitedge.runtime.system.owned import start_daemon
from vitedge.safety.escape import terminal
from vitedge.safety.redact import redact

logger = logging.getLogger("vitedge")

GRACE_SECONDS = 1.0
"""How much longer than its timeout a source may take before its thread is left behind."""
SHORT_ATTEMPT_SECONDS = 1.0
"""Least length of a short attempt. It is half as long again as the source takes to open, if that is more."""
STEADY_SECONDS = 5.0
"""A connection that lasted so long was steady: when it breaks, the first attempt follows at once."""
MOST_LEFT_BEHIND = 8
"""Threads that hang; while there are so many, no other attempt begins."""
MOST_NOTICES = 20

Connect = Callable[[float], FrameSource]
"""Opens a source within a number of seconds."""


class _Connection:
    """One connection and its thread.

    Attributes:
        source: the source once it is open.
        timeout: seconds to open it.
        asked_at: since when the source owes an answer; None while a frame of it is being delivered.
        began: when it began to open.
        online_at: when its first frame came; None until then.
        wanted: whether its frames are.
        over: whether its thread has left it.
        error: what ended it.
    """

    def __init__(self, source: FrameSource | None, timeout: float) -> None:
        self.source = source
        self.timeout = timeout
        self.began = time.monotonic()
        self.asked_at: float | None = self.began
        self.online_at: float | None = None
        self.wanted = True
        self.over = False
        self.error: BaseException | None = None


class Reader:
    """Reads a source in threads of its own, and opens it again if it is live and a policy says so.

    Args:
        connect: opens the source, within the seconds that it is given; the reader closes what it opens, and ``first``.
            None for a source that the caller owns: it is not closed, and not opened again.
        first: the source, open; None to open it in the reader's thread, as a live one.
        name: name of the source in messages, without secrets.
        deliver: takes each frame in a thread of the reader; it may wait, and returns False to end the reader.
        finish: called once in a thread of the reader when no frame will come any more, with the error if there was one;
            not called after ``stop``.
        on_state: called for each change of state, with a lock held: it must return at once.
        reconnect: when to open the source again; None for never.
        options: the timeouts, unless the source has options of its own; None for the defaults.
        opened_in: seconds that ``first`` took to open, if they are known.
        paced: whether to deliver each frame at its presentation time, as a camera would.
    """

    def __init__(
        self,
        connect: Connect | None,
        *,
        first: FrameSource | None,
        name: str,
        deliver: Callable[[Frame], bool],
        finish: Callable[[BaseException | None], object],
        on_state: Callable[[StateChange], object] = lambda _: None,
        reconnect: Reconnect | None = None,
        options: SourceOptions | None = None,
        opened_in: float = math.inf,
        paced: bool = False,
    ) -> None:
        self.name = name
        self.live = first is None or first.live
        self._connect = connect
        self._first = first
        self._deliver = deliver
        self._finish = finish
        self._on_state = on_state
        self._reconnect = reconnect if self.live and connect is not None else None
        self._options = (first.options if first is not None else None) or options or SourceOptions()
        self._paced = paced
        self._changed = threading.Condition()
        self._started = self._stopped = self._ended = False
        self._state = StateChange("connecting")
        self._current: _Connection | None = None
        self._source = first
        self._opening: list[_Connection] = []
        self._given_up: list[_Connection] = []
        self._watcher: threading.Thread | None = None
        self._closer: threading.Thread | None = None
        self._reading = LastingThreads("vitedge-reader", self._run, self._changed, waits=self._is_between)
        self._arrivals = Arrivals()
        self._stalls = 0
        self._oriented = 0
        self._notices: dict[str, None] = {}
        self._opened_in = opened_in
        self._lost_by: Cause | None = None

    @property
    def source(self) -> FrameSource | None:
        """Return the source of the newest connection; None before the first."""
        return self._source

    @property
    def state(self) -> StreamState:
        """Return the state at this moment."""
        return self._state.state

    @property
    def stats(self) -> ReaderStats:
        """Return the counts at this moment."""
        with self._changed:
            return ReaderStats(
                corrupt=self._arrivals.corrupt,
                late=self._arrivals.late,
                stalls=self._stalls,
                reconnects=max(0, self._arrivals.epoch),
                left_behind=self._left_behind(),
            )

    @property
    def oriented(self) -> int:
        """Return the number of frames with another ``orientation`` than 1, of all connections."""
        with self._changed:
            return self._oriented + (self._source.oriented if self._source is not None else 0)

    @property
    def notices(self) -> tuple[str, ...]:
        """Return problems that did not end the stream, each once, of all connections."""
        with self._changed:
            texts = dict(self._notices)
            texts.update(dict.fromkeys(self._source.notices if self._source is not None else ()))
            times = self._arrivals.epoch
            again = f"{self.name} was lost and opened again{f', {times} times' if times > 1 else ''}"
            return (*texts, again) if times > 0 else tuple(texts)

    def start(self) -> None:
        """Begin to read; a second call does nothing.

        Raises:
            RuntimeError: the system starts no more threads; the source is closed.
        """
        with self._changed:
            if self._started or self._stopped:
                return
            self._started = True
        try:
            if self.live:
                self._watcher = start_daemon("vitedge-watch", self._watch)
            else:
                self._begin(_Connection(self._first, 0.0))
        except BaseException:
            self._close(self._first)
            raise

    def stop(self) -> None:
        """End the reader, and return at once; it is safe in any thread and signal handler.

        Its threads close what it opened and end as soon as the source answers. A source that was not read yet is closed
        in a thread of its own, because it may hang.
        """
        with self._changed:
            if self._stopped:
                return
            self._stopped = True
            self._set_state("ended")
            self._changed.notify_all()
        if self._started or self._first is None or self._connect is None:
            return
        try:
            self._closer = start_daemon("vitedge-closer", self._close, self._first)
        except RuntimeError:  # no thread starts any more, as at the exit of the interpreter from Python 3.12 on
            self._close(self._first)

    def threads(self) -> list[threading.Thread]:
        """Return the threads that still run."""
        with self._changed:
            own = [each for each in (self._watcher, self._closer) if each is not None and each.is_alive()]
            return [*own, *self._reading.alive()]

    @property
    def _is_over(self) -> bool:
        """Return whether no frame is wanted any more."""
        return self._stopped or self._ended

    def _left_behind(self) -> int:
        if self._is_over:
            return sum(thread is not threading.current_thread() for thread in self.threads())
        return sum(not each.over for each in self._given_up)

    def _is_between(self) -> bool:
        """Return whether a live source may be opened again."""
        return self.live and not self._is_over and (self._current is None or self._current.over)

    # In the thread of a connection

    def _begin(self, connection: _Connection) -> _Connection:
        with self._changed:
            self._opening = [each for each in self._opening if not each.over]
            self._given_up = [each for each in self._given_up if not each.over]
            self._opening.append(connection)
            self._reading.begin(connection)
        return connection

    def _run(self, connection: _Connection) -> None:
        try:
            self._read(connection)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the consumer gets it, not this thread
            connection.error = error
            if self._may_reopen(connection, error):
                error.__traceback__ = None  # a cycle, which would keep the last picture of each connection
        connection.asked_at = time.monotonic()
        self._close(connection.source)
        with self._changed:
            connection.over = True
            self._changed.notify_all()
        if not self.live:
            self._end(connection.error)

    def _read(self, connection: _Connection) -> None:
        if connection.source is None and self._connect is not None:
            connection.source = self._connect(connection.timeout)
        source = connection.source
        if source is None or not self._admit(connection, source):
            return
        frames = paced(source, self._wait) if self._paced else iter(source)
        with closing(frames) if isinstance(frames, Generator) else nullcontext():
            for frame in frames:
                if not self._take(connection, frame):
                    return

    def _admit(self, connection: _Connection, source: FrameSource) -> bool:
        """Make this the connection that is read; False if another one was faster, or nobody wants it any more."""
        with self._changed:
            if self._is_over or not connection.wanted or self._current is not None:
                return False
            now = time.monotonic()
            if source is not self._first:
                self._opened_in = min(self._opened_in, now - connection.began)
            self._leave_source(source)
            if source.options is not None:
                self._options = replace(source.options, open_timeout=self._options.open_timeout)
            self._current, self._source = connection, source
            self._opening = [each for each in self._opening if each is not connection]
            connection.asked_at = now
            self._changed.notify_all()
            return True

    def _leave_source(self, new: FrameSource) -> None:
        """Keep what the source of the last connection has to tell."""
        if self._source is None or self._source is new:
            return
        self._oriented += self._source.oriented
        for notice in self._source.notices:
            if len(self._notices) < MOST_NOTICES:
                self._notices[notice] = None

    def _take(self, connection: _Connection, frame: Frame) -> bool:
        with self._changed:
            if self._is_over or self._current is not connection:
                return False
            connection.asked_at = None
            if connection.online_at is None:
                connection.online_at = time.monotonic()
                self._arrivals.connect()
            frame = self._arrivals.take(frame, stalled=self._state.state == "stalled")
            if self._state.state != "online":
                self._set_state("online")
                self._changed.notify_all()  # who watches waits for the end of the stall
        kept = self._deliver(frame)
        connection.asked_at = time.monotonic()
        return kept

    def _close(self, source: FrameSource | None) -> None:
        """Close a source, if it is the reader's."""
        if source is None or self._connect is None:
            return
        try:
            source.close()
        except BaseException:  # whatever it is, the consumer waits for the end of this thread
            logger.warning("%s could not be closed", terminal(self.name), exc_info=True)

    # In the thread that watches

    def _watch(self) -> None:
        error: BaseException | None = None
        try:
            self._keep_reading()
        except BaseException as problem:  # noqa: BLE001  # whatever it is, the consumer gets it, not this thread
            error = problem
        self._end(error)
        with self._changed:
            open_sources = [each.source for each in (self._current, *self._opening) if each and not each.over]
        for source in open_sources:
            self._close(source)

    def _keep_reading(self) -> None:
        """Read one connection after the other, until one ends for good.

        Raises:
            BaseException: the error of a connection that is not opened again.
        """
        failures, tried = 0, 0
        connection = self._begin(_Connection(self._first, 0.0)) if self._first is not None else self._opened(0, 0)
        while connection is not None:
            error = self._followed(connection)
            if self._stopped or error is None:
                return
            if not self._may_reopen(connection, error):
                raise error
            steady = connection.online_at is not None and time.monotonic() - connection.online_at >= STEADY_SECONDS
            failures = 0 if steady else failures + 1
            tried = 0 if connection.online_at is not None else tried + 1
            self._lost(connection, error)
            connection = self._opened(failures, tried)

    def _may_reopen(self, connection: _Connection, error: BaseException) -> bool:
        is_live = connection.source is None or connection.source.live
        return is_live and self._reconnect is not None and self._reconnect.retries(error)

    def _lost(self, connection: _Connection, error: BaseException) -> None:
        with self._changed:
            self._current = None
            if connection.online_at is not None:
                self._lost_by = error.cause if isinstance(error, FrameSourceError) else None
            self._set_state("reconnecting", error)

    def _followed(self, connection: _Connection) -> BaseException | None:
        """Wait until a connection ends, and return its error; a connection that hangs is given up."""
        stall = self._options.stall_timeout
        with self._changed:
            while not self._stopped and not connection.over:
                silence = self._silence(connection)
                longest = self._longest_silence(connection)
                if silence >= longest:
                    return self._give_up(connection, self._silent(longest))
                if silence >= stall and self._state.state == "online":
                    self._stalls += 1
                    self._set_state("stalled", self._silent(stall))
                rest = stall - silence if silence < stall else longest - silence
                self._changed.wait(min(rest, threading.TIMEOUT_MAX))
            return connection.error

    def _silence(self, connection: _Connection) -> float:
        """Return the seconds for which a live source has owed a frame."""
        is_live = connection.source is None or connection.source.live
        return time.monotonic() - connection.asked_at if is_live and connection.asked_at is not None else 0.0

    def _longest_silence(self, connection: _Connection) -> float:
        if self._connect is None:
            return self._options.read_timeout
        before_first = self._options.open_timeout if connection.online_at is None else 0.0
        return before_first + self._options.read_timeout + GRACE_SECONDS

    def _silent(self, seconds: float) -> FrameSourceError:
        return FrameSourceError(
            f"{self.name} delivered nothing for {seconds:g} s",
            expected="a camera or stream that goes on",
            fix="check the cable, the power and the network",
            cause="timeout",
        )

    def _give_up(self, connection: _Connection, error: FrameSourceError) -> FrameSourceError:
        """Leave the thread of a connection behind, which hangs, and return the error."""
        with self._changed:
            connection.wanted = False
            self._given_up.append(connection)
            self._opening = [each for each in self._opening if each is not connection]
            if self._current is connection:
                self._current = None
        if connection.source is not None:
            start_daemon("vitedge-closer", self._close, connection.source)  # the driver may hang in this, too
        return error

    def _opened(self, failures: int, tried: int) -> _Connection | None:
        """Open the source, in as many attempts as the policy allows; None if the reader was stopped.

        Raises:
            BaseException: the error of the last attempt.
        """
        while self._wait(self._reconnect.delay(failures, random.random()) if self._reconnect else 0.0):
            while self._left_behind() >= MOST_LEFT_BEHIND:
                if not self._wait(SHORT_ATTEMPT_SECONDS):
                    return None
            error = self._attempt()
            if error is None:
                return self._current
            failures, tried = failures + 1, tried + 1
            self._check_failure(error, tried)
            with self._changed:
                self._set_state("offline", error, attempt=tried)
        return None

    def _check_failure(self, error: BaseException, tried: int) -> None:
        policy = self._reconnect
        if policy is None or not policy.retries(error, lost_by=self._lost_by):
            raise error
        if policy.attempts is not None and tried >= policy.attempts and isinstance(error, FrameSourceError):
            raise FrameSourceError(
                f"{error.problem}; {tried} attempts in a row failed",
                expected=error.expected,
                fix=error.fix,
                cause=error.cause,
            ) from error

    def _attempt(self) -> BaseException | None:
        """Open the source and return None, or the error of the patient attempt; None also if the reader was stopped."""
        with self._changed:
            if self._current is not None:  # a short attempt that was still in flight
                return None
            patient = self._begin(_Connection(None, self._options.open_timeout))
            short: _Connection | None = None
            while not self._stopped and self._current is None:
                now = time.monotonic()
                if patient.over:
                    return patient.error
                rest = patient.began + patient.timeout + GRACE_SECONDS - now
                if rest <= 0:
                    return self._give_up(patient, self._unanswered(patient.timeout))
                due = self._short_due(patient, short) - now
                if due <= 0:
                    short = self._begin(_Connection(None, self._short_timeout()))
                self._changed.wait(min(rest, due if due > 0 else SHORT_ATTEMPT_SECONDS))
            return None

    def _short_timeout(self) -> float:
        return max(SHORT_ATTEMPT_SECONDS, 1.5 * self._opened_in if math.isfinite(self._opened_in) else 0.0)

    def _short_due(self, patient: _Connection, short: _Connection | None) -> float:
        """Return when the next short attempt begins: one is always in flight, and no two a second."""
        if self._reconnect is None or self._short_timeout() >= patient.timeout:
            return math.inf
        if short is None:
            return patient.began + self._short_timeout()
        return short.began + SHORT_ATTEMPT_SECONDS if short.over else math.inf

    def _unanswered(self, seconds: float) -> FrameSourceError:
        return FrameSourceError(
            f"{self.name} does not answer; it was given {seconds:g} s",
            expected="a camera or stream that answers",
            fix="check the cable, the power and the network",
            cause="timeout",
        )

    # In any thread

    def _wait(self, seconds: float) -> bool:
        """Wait, and return whether the reader goes on."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._stopped, min(max(0.0, seconds), threading.TIMEOUT_MAX))

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            if self._is_over:
                return
            self._ended = True
            self._set_state("ended", error)
            self._changed.notify_all()
        self._finish(error)

    def _set_state(self, state: StreamState, error: BaseException | None = None, *, attempt: int = 0) -> None:
        cause = error.cause if isinstance(error, FrameSourceError) else None
        if self._state.state == "ended" or (state, cause) == (self._state.state, self._state.cause):
            return
        self._state = StateChange(state, cause, words_of(error), epoch=self._arrivals.epoch, attempt=attempt)
        if error is not None and state != "ended":
            logger.warning("%s is %s: %s", terminal(self.name), state, terminal(self._state.message))
        elif state == "online" and self._arrivals.epoch > 0:
            logger.warning("%s is online again", terminal(self.name))
        self._on_state(self._state)


def words_of(error: BaseException | None) -> str:
    """Return an error in one line without secrets; an empty text without an error."""
    if error is None:
        return ""
    return error.problem if isinstance(error, VitedgeError) else f"{type(error).__name__}: {redact(str(error))}"
