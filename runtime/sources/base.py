"""``Frame`` and ``FrameSource``: what every source of frames implements."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType

from vitedge.bundle.preprocessing import ChannelOrder
from vitedge.prediction import AgeBasis, Image
from vitedge.runtime.preprocess.orientation import AS_STORED
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.options import SourceOptions


@dataclass(frozen=True)
class Frame:
    """A picture, and when it was captured.

    Attributes:
        pixels: ``H×W×3`` uint8, or the planes of a decoder; nobody may write into them any more.
        index: index of the frame in its source, from 0.
        captured_at: time of capture, seconds since the Unix epoch.
        captured_ns: the same moment on ``time.monotonic_ns``, from which ages are measured.
        order: order of the channels of ``image``.
        file: path of the image, if the source is a file or folder of images.
        pts: presentation time, seconds since the first frame of its connection; None for images, and for a video that
            has no times.
        orientation: EXIF orientation, 1…8, by which the image is shown turned; 1 shows it as it is stored. A classifier
            turns it if its preprocessing asks for it.
        age_basis: where the time of capture comes from.
        epoch: number of the connection to its source, from 0.
        corrupt: whether the decoder concealed lost or damaged data.
        backlog: whether the frame waited in a buffer before the source was read, so that it is old.
    """

    pixels: Image | YuvPlanes
    index: int
    captured_at: float = field(default_factory=time.time)
    captured_ns: int = field(default_factory=time.monotonic_ns)
    order: ChannelOrder = "BGR"
    file: str | None = None
    pts: float | None = None
    orientation: int = AS_STORED
    age_basis: AgeBasis = "arrival"
    epoch: int = 0
    corrupt: bool = False
    backlog: bool = False

    @cached_property
    def image(self) -> Image:
        """Return the stored picture, ``H×W×3`` uint8 in ``order``; the first read converts planes to BGR."""
        return self.pixels.bgr() if isinstance(self.pixels, YuvPlanes) else self.pixels


class FrameSource(ABC):
    """Frames in order, to be iterated once, in one thread; a context manager that closes the source.

    Attributes:
        name: name in messages, without the password of an address.
        live: whether frames that nobody reads are lost, as with a camera or a network stream.
        fps: frames per second; None if unknown.
        length: approximate number of frames; None if unknown.
        oriented: number of delivered frames with another ``orientation`` than 1.
        options: the options in force; None for a source that vitedge did not open.
        lasting: a path under which the same device is found after it was unplugged; None if the source is no device, or
            has no such path.
    """

    name: str
    live: bool = False
    fps: float | None = None
    length: int | None = None
    oriented: int = 0
    options: SourceOptions | None = None
    lasting: Path | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """Return problems that did not end the stream, such as skipped images; they are logged too."""
        return ()

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            FrameSourceError: the source has no frame, or a live source stopped delivering.
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
