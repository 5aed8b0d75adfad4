"""A table in shared memory: when the frame of each number was last due to be sent, which is when its camera took it."""

from __future__ import annotations

import mmap
from pathlib import Path

NUMBERS = 1 << 14
"""As many as ``burnt_numbers`` can write."""


class SendTimes:
    """Nanoseconds on ``time.monotonic_ns`` by number; 0 for a number that was never sent.

    Args:
        path: the file that the sender and the test map.
    """

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(NUMBERS * 8)
            self._mapped = mmap.mmap(file.fileno(), NUMBERS * 8)
        self._times = memoryview(self._mapped).cast("q")

    def note(self, number: int, due: float) -> None:
        """Note the second on ``time.monotonic`` at which a frame was due."""
        self._times[number] = round(due * 1e9)

    def __getitem__(self, number: int) -> int:
        return self._times[number]

    def close(self) -> None:
        """Unmap the file."""
        self._times.release()
        self._mapped.close()
