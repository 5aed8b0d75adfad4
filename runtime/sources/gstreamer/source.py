"""``gst:PIPELINE`` and ``csi://0``: frames of a GStreamer pipeline, which runs in a child process.

The child writes raw frames with their timestamps, as Matroska, into a pipe that PyAV reads. No Python bindings of
GStreamer are needed.
"""

from __future__ import annotations

import atexit
import errno
import re
import shlex
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from vitedge.counts import counted
from vitedge.errors import FrameSourceError, UsageError, VitedgeError
from vitedge.extras import require
from vitedge.runtime.sources.gstreamer.csi import MOST_SENSORS, csi_elements
from vitedge.runtime.sources.gstreamer.errors import pipeline_error
from vitedge.runtime.sources.gstreamer.process import PipelineProcess
from vitedge.runtime.sources.options import CameraOptions, SourceOptions
from vitedge.runtime.sources.video.causes import errors_of_pyav, fail
from vitedge.runtime.sources.video.clock import TimestampClock
from vitedge.runtime.sources.video.decoder import Decoded
from vitedge.runtime.sources.video.packets import ContainerPackets
from vitedge.safety.redact import redact_address

ENDING = "videoconvert ! video/x-raw,format=I420 ! matroskamux streamable=true ! fdsink fd={descriptor} sync=false"
"""Appended to every pipeline. ``matroskamux`` keeps the timestamps of raw frames, which few containers do."""
READ_BYTES = 1 << 20
EXIT_SECONDS = 0.5
"""Seconds for all children together at the end of the interpreter, after which the kernel kills them."""
END_SECONDS = 1.0
"""Seconds that a child has to say why it ended, after its last frame."""
NAME_CHARACTERS = 120
HD_ROWS = 577
"""From this height on GStreamer means BT.709 by YUV that states no colorimetry."""
_COLORIMETRY = re.compile(r"colorimetry=\(string\)(?P<named>[\w.-]+)?(?::(?P<matrix>\d+))?")
_NAMED_MATRIX = {"bt709": 1, "bt601": 5, "bt2020": 9, "bt2020-10": 9, "bt2100-pq": 9, "bt2100-hlg": 9}
_NUMBERED_MATRIX = {"3": 1, "4": 5, "5": 7, "6": 9}
"""FFmpeg's numbers of matrices, by GStreamer's names and numbers."""
_FULL_RANGE = 2


class PipelineFrames(Decoded):
    """Frames of a pipeline, which the source owns.

    Args:
        process: the pipeline.
        container: the container that reads from it.
        name: name in messages, without secrets.
        live: whether frames that nobody reads are lost.
        options: timeouts, and whether frames keep planes.
    """

    def __init__(
        self, process: PipelineProcess, container: Any, name: str, *, live: bool, options: SourceOptions
    ) -> None:
        self._process = process
        super().__init__(
            ContainerPackets(_PipelineContainer(container, process), name, live=live),
            options=options,
            clock=TimestampClock(),
            failed=lambda _, delivered: _reading_error(process, name, delivered),
        )
        _pipelines.add(self)

    def close(self) -> None:
        """End the pipeline."""
        self._process.stop()
        super().close()

    def wait(self, timeout: float) -> None:
        """Wait until the child has ended, which has given its camera back by then."""
        self._process.wait(timeout)


_pipelines: weakref.WeakSet[PipelineFrames] = weakref.WeakSet()


def _end_all() -> None:
    """Run when the interpreter exits: close what was left open, and let children give their cameras back."""
    ours = [each for each in _pipelines if not each._inherited]
    for each in ours:
        each._close_abandoned()
    deadline = time.monotonic() + EXIT_SECONDS
    for each in ours:
        each.wait(max(0.0, deadline - time.monotonic()))


atexit.register(_end_all)


class _PipelineContainer:
    """A PyAV container that ends its pipeline, and raises when the pipeline failed instead of ending."""

    def __init__(self, container: Any, process: PipelineProcess) -> None:
        self._container = container
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def demux(self, *streams: Any) -> Iterator[Any]:
        """Yield the packets.

        Raises:
            BrokenPipeError: the pipeline failed, or sent no frame in time.
        """
        for packet in self._container.demux(*streams):
            if packet.size:  # raw frames leave nothing in the decoder that an empty packet would fetch
                yield _without_padding(packet)
        if self._process.interruption is not None:
            raise self._process.interruption
        if self._process.stopped:
            return
        self._process.wait(0 if self._process.timed_out else END_SECONDS)
        if self._process.timed_out or self._process.exit_code not in (0, None):
            raise BrokenPipeError(errno.EPIPE, "the pipeline failed")

    def close(self) -> None:
        """Close the container, then the pipe."""
        self._container.close()
        self._process.close()


def _without_padding(packet: Any) -> Any:
    """Return a packet whose rows follow each other, as FFmpeg takes them; GStreamer pads rows to four bytes."""
    from av import Packet

    width, height = packet.stream.codec_context.width, packet.stream.codec_context.height
    columns, rows = -(-width // 2), -(-height // 2)
    planes = (height, 2 * rows, width), (rows, rows, columns), (rows, rows, columns)
    padded = sum(stored * _padded(length) for _, stored, length in planes)
    if packet.size != padded or padded == width * height + 2 * rows * columns:
        return packet
    content, place, kept = np.frombuffer(packet, dtype=np.uint8), 0, []
    for shown, stored, length in planes:
        end = place + stored * _padded(length)
        kept.append(content[place:end].reshape(stored, -1)[:shown, :length].tobytes())
        place = end
    tight = Packet(b"".join(kept))
    tight.stream, tight.time_base = packet.stream, packet.time_base
    tight.pts, tight.dts, tight.duration = packet.pts, packet.dts, packet.duration
    return tight


def _set_colours(context: Any, caps: str) -> None:
    """Tell the decoder which YUV a pipeline gives, which Matroska does not carry.

    Args:
        context: PyAV's codec context.
        caps: GStreamer's description of the frames.
    """
    found = _COLORIMETRY.search(caps)
    if found is None:
        matrix = 1 if context.height >= HD_ROWS else 5
    elif found["matrix"] is None:
        matrix = _NAMED_MATRIX.get(found["named"], 5)
    else:
        matrix = _NUMBERED_MATRIX.get(found["matrix"], 5)
    context.colorspace = matrix
    if found is not None and found["matrix"] is not None and found["named"] == "1":
        context.color_range = _FULL_RANGE


def _padded(length: int) -> int:
    return -(-length // 4) * 4


def open_pipeline(pipeline: str, options: SourceOptions | None = None) -> PipelineFrames:
    """Open a GStreamer pipeline, written as for ``gst-launch-1.0`` and without a sink. No shell sees it.

    Raises:
        FrameSourceError: GStreamer, an element, the camera or the file is missing, or no frame comes.
        UsageError: GStreamer cannot parse the pipeline.
        MissingExtraError: PyAV is not installed.
    """
    elements = parse_pipeline(pipeline)
    name = f"gst:{redact_address(pipeline)}"
    shown = name if len(name) <= NAME_CHARACTERS else f"{name[: NAME_CHARACTERS - 1]}…"
    return _open(elements, shown, options or SourceOptions(), live=None)


def open_csi(sensor: str, options: CameraOptions) -> PipelineFrames:
    """Open a camera on the ribbon cable of a Jetson or a Raspberry Pi.

    Args:
        sensor: number of the camera; empty for the first.
        options: size and rate.

    Raises:
        FrameSourceError: this machine has no such camera, or it does not start.
        UsageError: the number or an option is wrong.
        MissingExtraError: PyAV is not installed.
    """
    number = sensor or "0"
    if not (number.isascii() and number.isdecimal() and len(number) < 3 and int(number) < MOST_SENSORS):
        raise UsageError(
            f"the camera is csi://{redact_address(sensor)}", expected=f"csi://0 to csi://{MOST_SENSORS - 1}"
        )
    return _open(csi_elements(int(number), options), f"csi://{int(number)}", options, live=True)


def parse_pipeline(pipeline: str) -> list[str]:
    """Split a pipeline into arguments, as a shell would split it.

    Raises:
        UsageError: it is empty, has an open quotation mark, begins with an option, or ends in a sink.
    """
    try:
        elements = shlex.split(pipeline)
    except ValueError as error:
        raise _wrong(f"a quotation mark is not closed ({error})") from None
    if not elements:
        raise _wrong("it is empty")
    if elements[0].startswith("-"):
        raise _wrong(f"it begins with {elements[0]!r:.40}, an option of gst-launch-1.0")
    last = len(elements) - elements[::-1].index("!") if "!" in elements else 0
    if last < len(elements) and elements[last].endswith("sink"):
        raise _wrong(f"it ends in the sink {elements[last]!r:.40}: vitedge adds its own")
    return elements


def _wrong(why: str) -> UsageError:
    return UsageError(
        f"the pipeline cannot be used: {why}",
        expected="elements as gst-launch-1.0 takes them, such as gst:v4l2src device=/dev/video0 ! videoconvert",
    )


def _open(elements: list[str], name: str, options: SourceOptions, *, live: bool | None) -> PipelineFrames:
    av = require("av", extra="camera", purpose="reading a GStreamer pipeline")
    begun = time.monotonic()
    process = PipelineProcess(elements, ENDING, timeout=options.open_timeout)
    try:
        container = av.open(
            process,
            format="matroska",
            container_options={"analyzeduration": "0", "probesize": "32"},
            buffer_size=READ_BYTES,
            metadata_errors="replace",
        )
        is_live = process.is_live(max(0.0, begun + options.open_timeout - time.monotonic())) if live is None else live
    except errors_of_pyav():
        if process.interruption is not None:
            process.close()
            raise process.interruption from None
        error = _opening_error(process, name, options)
        process.close()
        fail(error)
    except BaseException:
        process.close()
        raise
    process.timeout = options.read_timeout
    try:
        if container.streams.video:
            _set_colours(container.streams.video[0].codec_context, process.caps(END_SECONDS))
        return PipelineFrames(process, container, name, live=is_live, options=options)
    except BaseException:
        process.close()
        raise


def _opening_error(process: PipelineProcess, name: str, options: SourceOptions) -> VitedgeError:
    if process.timed_out:
        return _timed_out(name, options.open_timeout, 0)
    process.wait(END_SECONDS)
    if process.problem is not None:
        return FrameSourceError(
            f"gst-launch-1.0 cannot be started for {name}: {process.problem.strerror}",
            expected="a program that this user may run",
            fix="gst-launch-1.0 --version",
            cause="permission" if isinstance(process.problem, PermissionError) else None,
        )
    return pipeline_error(name, process.messages, process.exit_code, 0)


def _reading_error(process: PipelineProcess, name: str, delivered: int) -> FrameSourceError:
    if process.timed_out:
        return _timed_out(name, process.timeout, delivered)
    found = pipeline_error(name, process.messages, process.exit_code, delivered)
    if isinstance(found, FrameSourceError):
        return found
    return FrameSourceError(found.problem, expected=found.expected, fix=found.fix)


def _timed_out(name: str, seconds: float, delivered: int) -> FrameSourceError:
    after = f" after {counted(delivered, 'frame')}" if delivered else ""
    alone = "run it by itself: gst-launch-1.0 -v PIPELINE ! fakesink silent=false"
    return FrameSourceError(
        f"{name} gave no frame for {seconds:g} s{after}",
        expected="a pipeline whose camera delivers",
        fix=alone if delivered else f"{alone}; the first run of GStreamer looks at all plugins, which takes long",
        cause="timeout",
    )
