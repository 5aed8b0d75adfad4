"""Frames of the caller's own as a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace

from vitedge.errors import FrameSourceError
from vitedge.prediction import Image
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.preprocess.preprocessor import check_frame
from vitedge.runtime.sources.base import Frame, FrameSource


class FrameIterable(FrameSource):
    """Frames of the caller: ``H×W×3`` uint8 BGR arrays, or ``Frame`` objects, which carry their own time of capture.

    Args:
        frames: the iterable; the caller closes it.
        live: whether frames that nobody reads are lost, as with a camera.
    """

    def __init__(self, frames: Iterable[Image | Frame], *, live: bool = False) -> None:
        self.name = "the iterable of frames"
        self.live = live
        self.length = len(frames) if isinstance(frames, Sized) else None
        self._frames = frames

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            FrameSourceError: a frame is not an ``H×W×3`` uint8 array.
        """
        for index, item in enumerate(self._frames):
            frame = replace(item, age_basis="caller") if isinstance(item, Frame) else Frame(item, index)
            try:
                if not isinstance(frame.pixels, YuvPlanes):
                    check_frame(frame.pixels)
            except FrameSourceError as error:
                raise FrameSourceError(
                    f"frame {index} of {self.name}: {error.problem}", expected=error.expected, fix=error.fix
                ) from error
            yield frame

    def close(self) -> None:
        """Do nothing: the caller closes the iterable."""
