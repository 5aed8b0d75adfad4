"""``Opening``: how a stream opens its source, first and again."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from vitedge.errors import FrameSourceError, UsageError
from vitedge.runtime.sources.base import FrameSource
from vitedge.runtime.sources.open import Source, open_source
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.stream.reader import Connect
from vitedge.runtime.stream.reconnect import Reconnect, policy_of
from vitedge.safety.redact import redact_address

logger = logging.getLogger("vitedge")

OWN_READ_TIMEOUT = 15.0
"""Seconds that a live source of the caller's own may be silent, if no options say otherwise."""

_OPEN_TIMEOUT = re.compile(r"(?<=[?&])open_timeout=[^&#]*&?")

StreamSource: TypeAlias = Source | Callable[[], FrameSource]


class Opening:
    """How a stream opens its source, first and again.

    Attributes:
        connect: opens the source; None if it was passed in open.
        options: options of the caller, or of the kind of source; None for none.
        seconds: how long the first opening took; infinity before.
        policy: when to open it again; None for never.
        name: name of the source in messages until it is open.
    """

    def __init__(self, source: StreamSource, options: SourceOptions | None, reconnect: bool | Reconnect | None) -> None:
        self._source = source
        self._again = _OPEN_TIMEOUT.sub("", source) if isinstance(source, str) else source
        self._in_force: SourceOptions | None = None
        self._tries_first = reconnect is True or isinstance(reconnect, Reconnect)
        self.policy = policy_of(reconnect)
        self.connect: Connect | None = None if isinstance(source, FrameSource) else self._connect
        self.options = options
        self.seconds = math.inf
        self.name = redact_address(str(source)) if isinstance(source, str | int | Path) else "the source"

    def first(self) -> FrameSource | None:
        """Open the source; None if that failed and the reader is to try again.

        Raises:
            FrameSourceError: the source cannot be opened.
            UsageError: there is no such kind of source.
        """
        if isinstance(self._source, FrameSource):
            self.options = self.options or SourceOptions(read_timeout=OWN_READ_TIMEOUT)
            return self._source
        begun = time.monotonic()
        try:
            source = self._noted(self._opened(self._source, self.options))
        except FrameSourceError as error:
            if self._tries_first and error.cause is not None and self.policy and self.policy.retries(error):
                logger.warning("%s", error.problem)
                return None
            raise
        self.seconds = time.monotonic() - begun
        return source

    @staticmethod
    def _opened(source: StreamSource, options: SourceOptions | None) -> FrameSource:
        if callable(source) and not isinstance(source, FrameSource | Iterable):
            return open_source(source())
        return open_source(source, options)

    def _connect(self, open_timeout: float) -> FrameSource:
        """Open the source again, with the options that are in force."""
        options = self._in_force or self.options or SourceOptions()
        try:
            return self._noted(self._opened(self._again, replace(options, open_timeout=open_timeout)))
        except UsageError:  # the file of the address says another time
            return self._noted(self._opened(self._again, options))

    def _noted(self, source: FrameSource) -> FrameSource:
        """Note the options of an open source, and where to find a camera that was plugged in again."""
        self._in_force = source.options
        if source.lasting is not None:
            self._again = source.lasting
        return source
