"""``Preprocessor``: from a camera's frame to the network's input, like timm's evaluation transform, with numpy alone.

``Preprocessor`` resizes as Pillow does (``pillow_resample``), crops or pads as torchvision and timm do
(``vitedge.bundle.preprocessing``) and puts the channels into the network's order. Mean and standard deviation are
part of the graph. FFmpeg resizes the frames of its decoders (``swscale``) where its filters are Pillow's. Other planes
are resized before they become colours (``planar``) where that saves work.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import CHANNEL_ORDERS, ChannelOrder, Preprocessing
from vitedge.errors import FrameSourceError, UsageError
from vitedge.prediction import Image
from vitedge.runtime.preprocess.pillow_resample import Resize, pillow_resize
from vitedge.runtime.preprocess.planar import PlanarResampler
from vitedge.runtime.preprocess.planes import ChromaStep, YuvPlanes
from vitedge.runtime.preprocess.swscale import FrameKind, SwscaleResampler, frame_kind, resizes_as_pillow
from vitedge.runtime.preprocess.taps import ResizeAxis
from vitedge.safety.limits import IMAGE_SIDE, RESIZED_SIDE

KEPT_PLANS = 4
"""Number of frame sizes whose plans and scratch buffers are kept. For 1920x1080, one takes 3 MB for arrays, 8 MB for
planes and 11 MB for a decoder's frames."""
LEAST_SHRINKING = 2
"""How much both sides of planes must shrink, so that resizing them before they become colours takes less time."""

Resampling = TypeVar("Resampling")

_UINT8 = np.dtype(np.uint8)
_FRAME = 'an HxWx3 uint8 array: BGR, as in OpenCV, or RGB with order="RGB"'


class Preprocessor:
    """Turns frames into network inputs. Calls from several threads are safe and run one after the other.

    The first frame of a size costs a few milliseconds more; the plans of the last few sizes are kept.

    Args:
        preprocessing: preprocessing of the model.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._shape = (*preprocessing.input_size, 3)
        self._plan = lru_cache(KEPT_PLANS)(partial(_make_plan, preprocessing))
        self._decoder_plan = lru_cache(KEPT_PLANS)(partial(_make_decoder_plan, preprocessing))
        self._planar_plan = lru_cache(KEPT_PLANS)(partial(_make_planar_plan, preprocessing))
        self._lock = threading.Lock()

    def __call__(self, frame: Image | YuvPlanes, *, order: ChannelOrder = "BGR", out: Image | None = None) -> Image:
        """Resize, crop and order the channels of one frame.

        FFmpeg resizes the frames of its decoders where both sides shrink by 1.5 or more and a crop cuts off the edges,
        and planes that come from elsewhere are resized before they become colours where both sides shrink by two or
        more. In photos the result is within 1 of the result for ``frame.bgr()`` on 99 % of the pixels; it differs by
        more than 2 only next to colours that are clipped at black or white. All others give the result for
        ``frame.bgr()``.

        Args:
            frame: ``H×W×3`` uint8 of any strides, or the planes of a decoder; it is only read.
            order: order of the channels of an array.
            out: ``h×w×3`` uint8 array of the input size that receives the result, such as an engine's ``frame``; of any
                strides.

        Returns:
            ``out``, or a new array that the caller owns: ``h×w×3`` uint8 in the network's channel order. For an array,
            its values differ from the result of timm's transform by at most 1; in drawings of flat colours beyond
            640x480 pixels, a few in 10^5 by 2.

        Raises:
            FrameSourceError: the frame is not an ``H×W×3`` uint8 array, is empty, or is too long for its other side.
            UsageError: no such order, or ``out`` is of another shape or type.
        """
        if order not in CHANNEL_ORDERS:
            raise UsageError(f"channel order {order!r}", expected=f"one of {', '.join(CHANNEL_ORDERS)}")
        if isinstance(frame, YuvPlanes):
            return self._from_planes(frame, out)
        check_frame(frame)
        target = self._target(out)
        with self._lock:
            plan = self._plan(*frame.shape[:2], order != self.preprocessing.channel_order)
            plan.resize(frame, plan.window.padded(target))
        return target

    def _from_planes(self, planes: YuvPlanes, out: Image | None) -> Image:
        target, reverse = self._target(out), self.preprocessing.channel_order == "RGB"
        with self._lock:
            resized = self._resize_planes(planes, reverse, target)
        return target if resized else self(planes.bgr(), out=target)

    def _resize_planes(self, planes: YuvPlanes, reverse: bool, target: Image) -> bool:
        """Fill the input without making colours of the whole frame; return whether that was possible."""
        if not planes.repeats_chroma:
            return False
        if planes.decoder_frame is not None:
            decoded = self._decoder_plan(frame_kind(planes))
            if decoded is not None:
                decoded.resize(planes.decoder_frame, reverse, decoded.window.padded(target))
            return decoded is not None
        planar = self._planar_plan(planes.height, planes.width, planes.chroma_steps)
        return planar is not None and planar.resize(planes, reverse, planar.window.padded(target))

    def _target(self, out: Image | None) -> Image:
        if out is None:
            return np.empty(self._shape, np.uint8)
        if out.shape != self._shape or out.dtype != _UINT8:
            raise UsageError(
                f"out is a {out.dtype} array of shape {out.shape}", expected=f"uint8 of shape {self._shape}"
            )
        return out


@dataclass(frozen=True)
class _Window:
    """The part of the input that frames of one size cover.

    Attributes:
        rows: resize of their rows.
        columns: resize of their columns.
        covered: rows and columns of the input that they cover.
        padding: colour of the rest; None if they cover everything.
    """

    rows: ResizeAxis
    columns: ResizeAxis
    covered: tuple[slice, slice]
    padding: tuple[int, int, int] | None

    def padded(self, out: Image) -> Image:
        """Fill an input with the padding, and return the part that frames cover."""
        if self.padding is not None:
            out[...] = self.padding
        return out[self.covered]


@dataclass(frozen=True)
class _ResizePlan(Generic[Resampling]):
    """How to fill the input from frames of one size: ``resize`` writes the part that they cover."""

    window: _Window
    resize: Resampling


def _make_plan(preprocessing: Preprocessing, height: int, width: int, reverse: bool) -> _ResizePlan[Resize]:
    window = _window(preprocessing, height, width)
    resize = pillow_resize(preprocessing.interpolation, window.rows, window.columns, reverse=reverse)
    return _ResizePlan(window, resize)


def _make_decoder_plan(preprocessing: Preprocessing, kind: FrameKind) -> _ResizePlan[SwscaleResampler] | None:
    """Return the plan for a decoder's frames of one kind; None where swscale does not resize them as Pillow does."""
    window, interpolation = _window(preprocessing, kind.height, kind.width), preprocessing.interpolation
    if not resizes_as_pillow(interpolation, window.rows, window.columns):
        return None
    return _ResizePlan(window, SwscaleResampler(interpolation, window.rows, window.columns, kind))


def _make_planar_plan(
    preprocessing: Preprocessing, height: int, width: int, chroma_steps: tuple[ChromaStep, ChromaStep]
) -> _ResizePlan[PlanarResampler] | None:
    """Return the plan for planes of one size; None where nothing is saved, so that they become colours first."""
    window, interpolation = _window(preprocessing, height, width), preprocessing.interpolation
    shrinks = all(axis.source >= LEAST_SHRINKING * axis.resized for axis in (window.rows, window.columns))
    if interpolation == "nearest" or not shrinks:
        return None
    return _ResizePlan(window, PlanarResampler(interpolation, window.rows, window.columns, chroma_steps))


def _window(preprocessing: Preprocessing, height: int, width: int) -> _Window:
    geometry = preprocessing.geometry(height, width)
    if max(geometry.resized) > RESIZED_SIDE:
        raise FrameSourceError(
            f"a frame of {height}x{width} pixels would be resized to {geometry.resized[0]}x{geometry.resized[1]}",
            expected=f"sides of at most {RESIZED_SIDE} pixels",
            fix="crop the frame",
        )
    (top, left), (input_height, input_width) = geometry.offset, preprocessing.input_size
    rows = _axis(height, geometry.resized[0], top, input_height)
    columns = _axis(width, geometry.resized[1], left, input_width)
    covered = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    covers_all = covered == (slice(0, input_height), slice(0, input_width))
    return _Window(rows, columns, covered, None if covers_all else preprocessing.padding)


def _axis(source: int, resized: int, offset: int, window: int) -> ResizeAxis:
    """Return the part of the resized frame that is visible in a window."""
    return ResizeAxis(source, resized, start=max(offset, 0), stop=min(offset + window, resized))


def check_frame(frame: object) -> None:
    """Check that a frame is a colour image of 8 bits, in under a microsecond.

    Raises:
        FrameSourceError: the frame is not an ``H×W×3`` uint8 array, is empty, or has a side over ``IMAGE_SIDE``.
    """
    if not (
        isinstance(frame, np.ndarray)
        and frame.dtype == _UINT8
        and frame.ndim == 3
        and frame.shape[2] == 3
        and frame.size > 0
        and max(frame.shape) <= IMAGE_SIDE
    ):
        raise _unusable(frame)


def _unusable(frame: object) -> FrameSourceError:
    if frame is None:
        return FrameSourceError(
            "the frame is None", expected=_FRAME, fix="OpenCV gives None when it cannot read: check the camera or path"
        )
    if not isinstance(frame, np.ndarray):
        is_name = isinstance(frame, (str, os.PathLike))
        return FrameSourceError(
            f"the frame is a {type(frame).__name__}",
            expected=_FRAME,
            fix="for files: their folder or a pattern; for several cameras: classifier.streams({name: address})"
            if is_name
            else 'np.asarray(frame); of a Pillow image, with order="RGB"',
        )
    fix = _type_fix(frame) if frame.dtype != _UINT8 else _shape_fix(frame.shape)
    return FrameSourceError(f"the frame is a {frame.dtype} array of shape {frame.shape}", expected=_FRAME, fix=fix)


def _type_fix(frame: NDArray[np.generic]) -> str:
    if frame.dtype.kind == "f":
        return "if its values go from 0 to 1: (frame * 255).round().astype(np.uint8); if to 255, without the factor"
    return "scale its values to 0…255, then frame.astype(np.uint8)"


def _shape_fix(shape: tuple[int, ...]) -> str:
    if len(shape) == 1 and shape[0]:
        return "the bytes of an image file: pass frame.tobytes(); pixels: frame.reshape(height, width, 3)"
    if max(shape, default=0) > IMAGE_SIDE:
        return f"crop the frame: a side has at most {IMAGE_SIDE} pixels"
    if 0 in shape:
        return "the frame is empty: check the camera, or the crop that made it"
    if len(shape) == 2:
        return "for a grey image: np.stack([frame] * 3, axis=2)"
    if len(shape) == 3 and shape[2] == 1:
        return "for a grey image: frame.repeat(3, axis=2)"
    if len(shape) == 3 and shape[2] == 4:
        return 'leave out alpha: frame[..., :3]; of RGBA, as in Pillow, with order="RGB"'
    if len(shape) == 3 and shape[0] == 3:
        return 'put the channels last: frame.transpose(1, 2, 0); of RGB, as in PyTorch, with order="RGB"'
    if len(shape) == 4:
        return "pass the frames of a batch one by one"
    return "convert it to three channels"
