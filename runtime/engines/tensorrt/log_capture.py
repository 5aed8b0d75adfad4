"""TensorRT's log messages, captured for the errors that vitedge raises.

TensorRT keeps the first logger of a process for everything that follows, so there is one logger per module.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from vitedge.runtime.engines.tensorrt.layers import LOG_HEADER, EngineLayer, parse_log
from vitedge.safety.escape import terminal

log = logging.getLogger("vitedge.tensorrt")

REASON_CHARACTERS = 300


@dataclass
class LogCapture:
    """The messages that were logged while the capture was open.

    Attributes:
        errors: error messages, in order.
        layers: layers of the plan that was built, if the builder listed them.
    """

    errors: list[str] = field(default_factory=list)
    layers: tuple[EngineLayer, ...] = ()

    @property
    def reason(self) -> str:
        """Return the last error, on one line; empty if there was none."""
        return " ".join(self.errors[-1].split())[:REASON_CHARACTERS] if self.errors else ""


class _LogRouter:
    """Passes each message to the captures that are open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[LogCapture] = []

    @contextmanager
    def capture(self) -> Iterator[LogCapture]:
        opened = LogCapture()
        with self._lock:
            self._open.append(opened)
        try:
            yield opened
        finally:
            with self._lock:
                self._open[:] = [each for each in self._open if each is not opened]

    def route(self, message: str, *, error: bool) -> None:
        layers = parse_log(message) if message.startswith(LOG_HEADER) else ()
        log.debug("%s", terminal(message))
        with self._lock:
            for capture in self._open:
                if error:
                    capture.errors.append(message)
                if layers:
                    capture.layers = layers


@cache
def _logger_and_router(module: Any) -> tuple[Any, _LogRouter]:
    router = _LogRouter()
    error_severity = int(module.ILogger.Severity.ERROR)  # smaller numbers are more severe

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            router.route(message, error=int(severity) <= error_severity)

    return Logger(), router


def logger_of(module: Any) -> Any:
    """Return the ``ILogger`` that this process uses for a TensorRT module."""
    return _logger_and_router(module)[0]


@contextmanager
def capture_log(module: Any) -> Iterator[LogCapture]:
    """Capture what a TensorRT module logs, from any thread, until the end of the ``with`` statement."""
    with _logger_and_router(module)[1].capture() as captured:
        yield captured
