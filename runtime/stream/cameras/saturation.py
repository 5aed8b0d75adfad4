"""Whether one engine on all processors keeps up with several cameras, or workers should share the processors."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 2.0
"""Length of the past that decides; both ways of working are kept for at least so long."""
BUSY_SHARE = 0.75
"""From this share of time in which the engine computes, frames begin to wait for it."""
EASED_SHARE = 0.55
"""Below this share the engine alone would have time to spare again."""


class Saturation:
    """Decides between one engine, which gives the lowest latency, and workers, which give the highest throughput.

    The measure is the share of time that the engine computes, or would compute if it were alone. An application that is
    slow to fetch its predictions leaves the engine idle, and is no reason for workers.

    Attributes:
        saturated: whether workers should classify.
    """

    def __init__(self, now: float) -> None:
        self.saturated = False
        self._since = now
        self._jobs: deque[tuple[float, float]] = deque()
        self._alone_seconds = 0.0

    def worked(self, seconds: float, now: float) -> bool:
        """Note a frame that took ``seconds`` and was done at the time ``now``; return whether ``saturated`` changed."""
        self._jobs.append((now, seconds))
        while self._jobs[0][0] <= now - WINDOW_SECONDS:
            self._jobs.popleft()
        if now - self._since < WINDOW_SECONDS:
            return False
        if not self.saturated:
            self._alone_seconds = sum(took for _, took in self._jobs) / len(self._jobs)
        share = len(self._jobs) * self._alone_seconds / WINDOW_SECONDS
        if share < EASED_SHARE if self.saturated else share >= BUSY_SHARE:
            self.saturated = not self.saturated
            self.forget(now)
            return True
        return False

    def forget(self, now: float) -> None:
        """Forget the past, in which something else kept the processors busy or another way of working began."""
        self._since = now
