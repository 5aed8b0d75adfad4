"""What sources deliver: the nouns between a source and the stream that consumes it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import ChannelOrder

Image: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """One picture, and when it was taken.

    Attributes:
        image: ``H×W×3`` uint8; nobody writes into it any more.
        index: number of the frame in its source, from 0.
        captured_at: when it was grabbed, seconds since the Unix epoch.
        captured_ns: the same moment on ``time.monotonic_ns``, from which ages are measured.
        order: order of the channels.
        file: path of the image, where the source is a file or folder of images.
    """

    image: Image
    index: int
    captured_at: float = field(default_factory=time.time)
    captured_ns: int = field(default_factory=time.monotonic_ns)
    order: ChannelOrder = "BGR"
    file: str | None = None


class FrameSource(ABC):
    """Frames in order, to be iterated once; a context manager that closes itself.

    Attributes:
        name: what to call it in messages; passwords in addresses are blanked.
        live: frames come when they come, and those that nobody fetches are lost: a camera or a network stream.
        fps: frames per second, or None where it is not known.
        length: how many frames there are, about; None where it is not known.
    """

    name: str
    live: bool = False
    fps: float | None = None
    length: int | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """What went wrong without ending the stream: skipped images, a video that is cut off. Also logged."""
        return ()

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """The frames.

        Raises:
            FrameSourceError: there are none, or a live source stopped delivering.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the camera or file; a second call does nothing."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
