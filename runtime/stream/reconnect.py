"""``Reconnect``: when a stream opens its source again, and how long it waits between attempts."""

from __future__ import annotations

from dataclasses import dataclass

from vitedge.errors import Cause, FrameSourceError, UsageError

FACTOR = 2.0
"""Each delay is so many times the one before it, up to the longest."""
PERMANENT: tuple[Cause, ...] = ("auth", "not_found", "permission", "codec", "no_video")
"""Causes that time does not mend. Many cameras lock an account after a few wrong passwords."""
UNPLUGGED: tuple[Cause, ...] = ("not_found", "permission")
"""What a device says while it is unplugged, and for a moment after it was plugged in again."""
LONGEST_WAIT = 3600.0


@dataclass(frozen=True)
class Reconnect:
    """How to open a live source again.

    The first attempt follows at once when a connection breaks that was steady. Delays vary at random between a half and
    all of their length, so that many cameras do not come back in step.

    Attributes:
        first_delay: seconds between the first attempt that fails and the next; it doubles with each that fails.
        longest_delay: seconds that no delay exceeds.
        attempts: attempts in a row that may fail; None for any number.
        also: causes to retry which end a stream otherwise: ``auth``, ``not_found``, ``permission``, ``codec`` and
            ``no_video``. ``("not_found",)`` waits for a camera that answers 404 while it boots.

    Raises:
        UsageError: a delay is negative or above an hour, or ``attempts`` is below 1.
    """

    first_delay: float = 0.1
    longest_delay: float = 1.0
    attempts: int | None = None
    also: tuple[Cause, ...] = ()

    def __post_init__(self) -> None:
        for name, seconds in (("first_delay", self.first_delay), ("longest_delay", self.longest_delay)):
            if not 0.0 <= seconds <= LONGEST_WAIT:
                raise UsageError(f"{name} is {seconds}", expected=f"seconds, 0…{LONGEST_WAIT:g}")
        if self.attempts is not None and self.attempts < 1:
            raise UsageError(f"attempts is {self.attempts}", expected="1 or more, or None for any number")
        if not set(self.also) <= set(PERMANENT):
            raise UsageError(
                f"also is {self.also!r}", expected=f"a tuple of {', '.join(PERMANENT)}; other causes are retried anyway"
            )

    def retries(self, error: BaseException | None, *, lost_by: Cause | None = None) -> bool:
        """Decide whether to open the source again after an error.

        Args:
            error: what ended the connection or the attempt; None for a source that came to its end.
            lost_by: cause by which the last connection that delivered frames was lost.
        """
        if not isinstance(error, FrameSourceError):
            return False
        if lost_by == "unplugged" and error.cause in UNPLUGGED:
            return True
        return error.cause not in PERMANENT or error.cause in self.also

    def delay(self, failures: int, chance: float) -> float:
        """Return the seconds to wait after ``failures`` attempts in a row; ``chance`` is a random number, 0…1."""
        if failures < 1:
            return 0.0
        longest = min(self.longest_delay, self.first_delay * FACTOR ** min(failures - 1, 64))
        return longest * (0.5 + 0.5 * chance)


def policy_of(reconnect: bool | Reconnect | None) -> Reconnect | None:
    """Return what the argument ``reconnect`` of a stream means; None never opens a source again.

    Raises:
        UsageError: it is neither a bool nor a ``Reconnect``.
    """
    if isinstance(reconnect, Reconnect):
        return reconnect
    if reconnect is not None and not isinstance(reconnect, bool):
        raise UsageError(
            f"reconnect is {reconnect!r:.80}",
            expected="True, False or a Reconnect",
            fix="Reconnect(attempts=5), for a number of attempts",
        )
    return None if reconnect is False else Reconnect()
