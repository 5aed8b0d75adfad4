"""Options of sources, given with a source or in the query of its address, such as ``rtsp://camera/1?transport=udp``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Transport = Literal["tcp", "udp"]


@dataclass(frozen=True)
class SourceOptions:
    """Options of every source.

    Attributes:
        open_timeout: seconds to open the source.
        read_timeout: seconds to wait for a frame, after which the connection is given up.
        stall_timeout: seconds without a frame after which a live source counts as stalled.
        decode_threads: threads of the decoder; None for one thread in a live source, whose frames several threads would
            hold back, and one a core for a file.
        planes: whether frames keep the planes of the decoder, which are cheaper to classify; False converts each frame
            to BGR first. None for planes in a live source, and BGR for a file.
    """

    open_timeout: float = 10.0
    read_timeout: float = 5.0
    stall_timeout: float = 2.0
    decode_threads: int | None = None
    planes: bool | None = None


@dataclass(frozen=True)
class NetworkOptions(SourceOptions):
    """Options of a network stream.

    Attributes:
        transport: how RTSP carries its packets; None tries TCP, then UDP.
    """

    transport: Transport | None = None


@dataclass(frozen=True)
class CameraOptions(SourceOptions):
    """What to ask of a camera; it may agree on something else. None leaves the choice to the camera.

    Attributes:
        width: columns.
        height: rows.
        fps: frames per second.
        fourcc: pixel format, four characters such as ``MJPG`` or ``YUYV``.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    fourcc: str | None = None
