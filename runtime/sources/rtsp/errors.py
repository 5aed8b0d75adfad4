"""Errors of the RTSP client. ``vitedge.runtime.sources.video.rtsp`` turns them into the errors that users see."""

from __future__ import annotations

from vitedge.errors import Cause, FrameSourceError


class RtspError(FrameSourceError):
    """A server does not keep to RTSP, or exceeds a bound.

    Args:
        problem: what it does.
        cause: why the source does not deliver.
    """

    def __init__(self, problem: str, *, cause: Cause = "network") -> None:
        super().__init__(problem, expected="an RTSP server", cause=cause)


class StatusError(RtspError):
    """A server answers a request with an error.

    Attributes:
        status: its number, such as 404.

    Args:
        status: its number.
        reason: the words of the server.
    """

    def __init__(self, status: int, reason: str) -> None:
        causes: dict[int, Cause] = {401: "auth", 403: "auth", 404: "not_found", 454: "not_found"}
        super().__init__(f"{status} {reason}".strip(), cause=causes.get(status, "network"))
        self.status = status


class TransportError(RtspError):
    """A server offers no transport that is spoken here."""
