"""``PacketSource``: the packets of a video track, for ``Decoded``; ``ContainerPackets`` reads them from PyAV."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vitedge.runtime.sources.video.tracks import UNTIMED, length_of, rate_of, video_of


@dataclass(frozen=True, slots=True)
class Coded:
    """A packet, which is not decoded yet.

    Attributes:
        packet: an ``av.Packet``.
        at_ns: when it came, on ``time.monotonic_ns``.
        is_video: whether it is of the video track.
        is_damaged: whether parts of it, or what came right before it, are known to be lost.
        is_decodable: whether decoding can have begun.
    """

    packet: Any
    at_ns: int
    is_video: bool = True
    is_damaged: bool = False
    is_decodable: bool = True


@dataclass(frozen=True)
class Stated:
    """What a file says about itself.

    Attributes:
        frames: number of frames; 0 if it does not say.
        seconds: how long it is; 0 if it does not say.
        start: timestamp of its beginning, in seconds.
    """

    frames: int = 0
    seconds: float = 0.0
    start: float = 0.0


class PacketSource(ABC):
    """The packets of one video track, and what decodes them; used in one thread, but for ``interrupt``.

    Attributes:
        name: name in messages, without secrets.
        live: whether it is a camera or a network stream.
        format: FFmpeg's name of the container's format; ``rtp`` without a container.
        context: PyAV's context of the decoder, which nobody has opened yet.
        size: columns and rows, as far as they are known; 0 if not.
        is_timed: whether its packets have timestamps.
        fps: frames per second; None if unknown.
        length: approximate number of frames; None if unknown.
        stated: what a file says about itself.
        notices: problems that showed when it was opened.
    """

    name: str
    live: bool
    format: str
    context: Any
    size: tuple[int, int] = (0, 0)
    is_timed: bool = True
    fps: float | None = None
    length: int | None = None
    stated: Stated = Stated()
    notices: tuple[str, ...] = ()

    @property
    def losses(self) -> tuple[str, ...]:
        """Say in words what was lost on the way so far."""
        return ()

    @abstractmethod
    def read(self) -> Coded | None:
        """Return the next packet; None at the end.

        Raises:
            Exception: one of ``vitedge.runtime.sources.video.causes.errors_of_pyav``.
        """

    @abstractmethod
    def decode(self, packet: Any) -> list[Any]:
        """Return the pictures that are complete with a packet.

        Raises:
            Exception: one of ``vitedge.runtime.sources.video.causes.errors_of_pyav``.
        """

    def sender_zero_ns(self) -> int | None:
        """Return when timestamp 0 was by the sender's clock, in nanoseconds since the Unix epoch, if that is news."""
        return None

    def interrupt(self) -> None:  # noqa: B027 - most reads cannot be interrupted
        """End a read of another thread, if that is possible; safe in a signal handler."""

    @abstractmethod
    def close(self) -> None:
        """Free everything; a second call does nothing."""


class ContainerPackets(PacketSource):
    """Packets of an open PyAV container, which they own.

    Args:
        container: an ``av.container.InputContainer``.
        name: name in messages, without secrets.
        live: whether it is a camera or a network stream.

    Raises:
        FrameSourceError: it has no video, or no decoder for it.
    """

    def __init__(self, container: Any, name: str, *, live: bool) -> None:
        self.name, self.live = name, live
        self._container = container
        try:
            stream, self.notices = video_of(container, name)
            self._describe(container, stream)
        except BaseException:
            container.close()
            raise

    def _describe(self, container: Any, stream: Any) -> None:
        self.format = container.format.name
        self.context, self._track = stream.codec_context, stream.index
        self.size = self.context.width, self.context.height
        self.is_timed = self.format not in UNTIMED
        self.fps = rate_of(stream, live=self.live) if self.is_timed else None
        self.length = None if self.live else length_of(container, stream, self.fps)
        seconds = _seconds(container, stream, self.fps)
        self.stated = Stated(stream.frames, seconds, (container.start_time or 0) / 1e6)
        self._packets: Iterator[Any] | None = None
        self._asks_sender = self.live and self.format == "rtsp"

    def read(self) -> Coded | None:
        """Return the next packet, of any track; None at the end."""
        if self._packets is None:
            self._packets = self._container.demux()
        packet = next(self._packets, None)
        return None if packet is None else Coded(packet, time.monotonic_ns(), packet.stream_index == self._track)

    def decode(self, packet: Any) -> list[Any]:
        """Return the pictures that are complete with a packet."""
        pictures: list[Any] = packet.decode()
        return pictures

    def sender_zero_ns(self) -> int | None:
        """Return when the stream began by the sender's clock, once FFmpeg knows it from a report of RTCP."""
        began = getattr(self._container, "start_time_realtime", None) if self._asks_sender else None
        if not began:
            return None
        self._asks_sender = False
        return int(began) * 1000

    def close(self) -> None:
        """Close the container; a second call does nothing."""
        container, self._container, self.context, self._packets = self._container, None, None, None
        if container is not None:
            container.close()


def _seconds(container: Any, stream: Any, fps: float | None) -> float:
    """Return how long a file says that it is; FFmpeg shortens an AVI to what is there, but not its number of frames."""
    by_frames = stream.frames / fps if container.format.name == "avi" and fps else 0.0
    return max(by_frames, (container.duration or 0) / 1e6)
