"""``PipelineProcess``: ``gst-launch-1.0`` as a child whose frames come through a pipe.

A crash of a driver's element ends the child, not the app. A thread of its own starts the child, reads what it says and
ends it. The kernel kills the child when that thread ends, so that it does not outlive an app that is killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence

from vitedge.errors import FrameSourceError

PROGRAM = "gst-launch-1.0"
INSTALL = "sudo apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
LINES_KEPT = 200
LINE_BYTES = 4_096
GRACE_SECONDS = 2.0
"""Seconds for a pipeline to give its camera back before it is killed."""
LOOK_MILLISECONDS = 50
"""How often a thread that waits for the child looks whether it shall end."""

_OPTIONS = ("--no-fault", "--verbose", "--exclude=last-message")
"""Die of a fault, which its own handler would keep for a debugger; describe the formats, and no single frame."""
_LIVE = "pipeline is live"
_NOT_LIVE = ("pipeline is prerolling", "pipeline is prerolled", "setting pipeline to playing")
_CAPS = re.compile(r"mux.*:video_0: caps = (video/x-raw,.*)", re.IGNORECASE)
_LAUNCH = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.getppid() == int(sys.argv[1]) or os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Let the kernel kill this process when its parent ends (PR_SET_PDEATHSIG), then become another program."""


class PipelineProcess:
    """A running pipeline, and the read end of the pipe into which it writes; PyAV takes it as a file.

    Any thread may call ``stop``. One thread at a time calls ``read``.

    Args:
        elements: the pipeline as arguments of ``gst-launch-1.0``, without its end; no shell sees them.
        ending: the elements that write into the pipe, with ``{descriptor}`` for its write end.

    Attributes:
        timeout: seconds that a ``read`` may wait.
        timed_out: whether a ``read`` waited longer.
        interruption: what a signal handler raised during a ``read``.

    Raises:
        FrameSourceError: ``gst-launch-1.0`` is not installed, or cannot be started.
    """

    def __init__(self, elements: Sequence[str], ending: str, *, timeout: float) -> None:
        self.timeout = timeout
        self.timed_out = False
        self.interruption: BaseException | None = None
        command = _command(elements)
        self._read_end, write_end = os.pipe()
        self._closing = threading.Lock()
        self._stop_at = 0.0
        self._stopping = threading.Event()
        self._classified = threading.Event()
        self._ended = threading.Event()
        self._described = threading.Event()
        self._live = False
        self._caps = ""
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._exit_code: int | None = None
        self._problem: OSError | None = None
        self._child: subprocess.Popen[bytes] | None = None
        command += ["!", *ending.format(descriptor=write_end).split()]
        self._thread = threading.Thread(
            target=self._run, args=(command, write_end), name="vitedge-gstreamer", daemon=True
        )
        self._process = os.getpid()
        self._thread.start()

    def is_live(self, timeout: float) -> bool:
        """Wait until GStreamer has said whether the pipeline is live, and return it; False if it said nothing."""
        self._classified.wait(timeout)
        return self._live

    def caps(self, timeout: float) -> str:
        """Wait until GStreamer has described the raw frames, and return its description; empty if it has not."""
        self._described.wait(timeout)
        return self._caps

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes; none at the end, after a timeout, and when the pipeline is stopped.

        PyAV calls it, and may lose what it raises. Ctrl-C therefore ends the data, and waits in ``interruption``.
        """
        try:
            return self._read(size) if self.interruption is None else b""
        except BaseException as error:  # noqa: BLE001 - whoever reads the container raises it
            self.interruption = error
            return b""

    def _read(self, size: int) -> bytes:
        deadline = time.monotonic() + self.timeout
        while not self._stopping.is_set():
            if _is_readable(self._read_end):
                return os.read(self._read_end, size)
            if time.monotonic() > deadline:
                self.timed_out = True
                return b""
        return b""

    def stop(self) -> None:
        """Ask the child to end; its thread kills it if it does not."""
        self._stop_at = self._stop_at or time.monotonic()
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def close(self) -> None:
        """Stop the child and close the pipe; no ``read`` may be under way."""
        self.stop()
        with self._closing:
            if self._read_end >= 0:
                os.close(self._read_end)
                self._read_end = -1

    @property
    def stopped(self) -> bool:
        """Return whether ``stop`` was called."""
        return self._stopping.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait for the end of the child; return whether it has ended."""
        return self._ended.wait(timeout)

    @property
    def messages(self) -> tuple[str, ...]:
        """Return the last lines that the child wrote to standard output and standard error."""
        return tuple(self._lines)

    @property
    def exit_code(self) -> int | None:
        """Return the child's exit code; negative for the signal that ended it, None while it runs."""
        return self._exit_code

    @property
    def problem(self) -> OSError | None:
        """Return the error if the child could not be started."""
        return self._problem

    def _run(self, command: list[str], write_end: int) -> None:
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end,),
                start_new_session=True,  # so that Ctrl-C reaches this process alone
                env={**os.environ, "LC_ALL": "C", "GST_DEBUG_NO_COLOR": "1"},
            )
        except OSError as error:
            self._problem = error
        finally:
            os.close(write_end)
        if self._child is not None:
            self._attend(self._child)
        self._classified.set()
        self._described.set()
        self._ended.set()

    def _attend(self, child: subprocess.Popen[bytes]) -> None:
        """Read what the child says until it ends; kill it when it does not end in time."""
        assert child.stdout is not None
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        rest = b""
        with child.stdout as said:
            while read := self._next(said.fileno()):
                *lines, rest = (rest + read)[-LINE_BYTES:].split(b"\n")
                for line in lines:
                    self._hear(line.decode("utf-8", "replace").rstrip())
        self._hear(rest.decode("utf-8", "replace"))
        self._exit_code = self._reap(child)

    def _next(self, descriptor: int) -> bytes:
        """Return what the child says next; nothing when it has closed its outputs."""
        while not _is_readable(descriptor):
            self._kill_late()
        return os.read(descriptor, LINE_BYTES)

    def _kill_late(self) -> None:
        """Kill a child that was asked to end and has not done so in time."""
        if self._stopping.is_set() and time.monotonic() > self._stop_at + GRACE_SECONDS:
            self._signal(signal.SIGKILL)

    def _reap(self, child: subprocess.Popen[bytes]) -> int:
        """Wait for a child that has closed its outputs."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(LOOK_MILLISECONDS / 1000)
            self._kill_late()

    def _hear(self, line: str) -> None:
        if not line:
            return
        caps = _CAPS.search(line)
        if caps is not None:
            self._caps = caps[1]
            self._described.set()
        if " caps = " in line:  # one for each pad
            return
        self._lines.append(line)
        text = line.lower()
        if _LIVE in text:
            self._live = True
        if _LIVE in text or text.startswith(_NOT_LIVE):
            self._classified.set()

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the child and its own children, if the child has not been reaped."""
        child = self._child
        is_ours = self._process == os.getpid()  # a forked child has the object, and not the pipeline
        if is_ours and child is not None and child.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(child.pid, number)


def _is_readable(descriptor: int) -> bool:
    """Wait a moment until a pipe has data or an end."""
    poll = select.poll()  # unlike select.select, for any number of a descriptor
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(LOOK_MILLISECONDS))


def _command(elements: Sequence[str]) -> list[str]:
    program = shutil.which(PROGRAM)
    if program is None:
        raise FrameSourceError(
            f"a pipeline needs {PROGRAM}, which is not installed",
            expected="the tools of GStreamer",
            fix=INSTALL,
            cause="not_found",
        )
    elements = [*_OPTIONS, *elements]
    if sys.platform == "linux" and sys.executable:
        return [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), program, *elements]
    return [program, *elements]
