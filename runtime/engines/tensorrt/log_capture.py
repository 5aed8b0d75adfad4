"""What TensorRT logs, kept for the errors that vitedge raises.

TensorRT takes the first logger of a process for all that follow, so there is one for each module.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from vitedge.runtime.engines.tensorrt.layers import LOG_HEADER, Layer, parse_log
from vitedge.safety.escape import terminal

log = logging.getLogger("vitedge.tensorrt")

WORDS = 300


@dataclass
class Journal:
    """What was logged while it was open.

    Attributes:
        errors: messages of errors, in order.
        layers: those of the plan that was built, where the builder listed them.
    """

    errors: list[str] = field(default_factory=list)
    layers: tuple[Layer, ...] = ()

    @property
    def reason(self) -> str:
        """The last error, on one line; empty if there was none."""
        return " ".join(self.errors[-1].split())[:WORDS] if self.errors else ""


class _Listeners:
    """The journals that are open, and whom to tell."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[Journal] = []

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        journal = Journal()
        with self._lock:
            self._open.append(journal)
        try:
            yield journal
        finally:
            with self._lock:
                self._open[:] = [each for each in self._open if each is not journal]

    def hear(self, message: str, *, error: bool) -> None:
        layers = parse_log(message) if message.startswith(LOG_HEADER) else ()
        log.debug("%s", terminal(message))
        with self._lock:
            for journal in self._open:
                if error:
                    journal.errors.append(message)
                if layers:
                    journal.layers = layers


@cache
def _listeners(module: Any) -> tuple[Any, _Listeners]:
    listeners = _Listeners()
    worst_tolerable = int(module.ILogger.Severity.ERROR)

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            listeners.hear(message, error=int(severity) <= worst_tolerable)

    return Logger(), listeners


def logger_of(module: Any) -> Any:
    """The ``ILogger`` of that module in this process."""
    return _listeners(module)[0]


@contextmanager
def journal(module: Any) -> Iterator[Journal]:
    """Keep what that module logs, from any thread, until the end of the ``with`` statement."""
    with _listeners(module)[1].journal() as opened:
        yield opened
