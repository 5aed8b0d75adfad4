"""Clips whose frames carry their number as a row of black and white blocks, which survives compression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

BITS = 8
FPS = 25.0
ENCODERS = {
    "MJPG": "mjpeg",
    "mp4v": "mpeg4",
    "avc1": "libx264",
    "MPG1": "mpeg1video",
    "MPG2": "mpeg2video",
    "VP80": "libvpx",
    "FLV1": "flv",
    "WMV2": "wmv2",
    "I420": "rawvideo",
}
"""The encoder for each code of a video format."""


def numbered_frame(number: int, *, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """An ``height×width×3`` grey-blue frame with ``number`` in binary across its lower half."""
    frame = np.full((height, width, 3), (160, 110, 100), dtype=np.uint8)
    block = width // BITS
    for bit in range(BITS):
        frame[height // 2 :, bit * block : (bit + 1) * block] = 255 if number >> bit & 1 else 0
    return frame


def numbered_frames(count: int, *, height: int = 96, width: int = 128) -> list[NDArray[np.uint8]]:
    """The first ``count`` numbered frames."""
    return [numbered_frame(number, height=height, width=width) for number in range(count)]


def number_of(image: NDArray[np.uint8]) -> int:
    """The number that ``numbered_frame`` wrote."""
    height, block = image.shape[0], image.shape[1] // BITS
    row = image[height * 3 // 4]
    return sum(int(row[bit * block + block // 2].mean() > 127) << bit for bit in range(BITS))


def write_clip(
    path: Path, frames: int, *, fps: float = FPS, codec: str = "MJPG", height: int = 96, width: int = 128
) -> Path:
    """Write numbered frames as a video; MJPG in an ``.avi`` is readable up to where it is cut off."""
    pictures = (numbered_frame(number, height=height, width=width) for number in range(frames))
    return write_pictures(path, pictures, fps=fps, codec=codec, height=height, width=width)


def write_pictures(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    *,
    fps: float = FPS,
    codec: str = "MJPG",
    height: int = 96,
    width: int = 128,
) -> Path:
    """Write BGR pictures as a video of a constant rate; those of another size are scaled."""
    with av.open(path, "w") as container:
        stream = container.add_stream(ENCODERS[codec], rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if codec == "MJPG":
            stream.pix_fmt = "yuvj420p"
            stream.codec_context.qmin = stream.codec_context.qmax = 3
        container.start_encoding()
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="bgr24")))
        container.mux(stream.encode(None))
    return path


def read_clip(path: Path) -> list[NDArray[np.uint8]]:
    """Every frame of a video, ``H×W×3`` BGR, read the plain way, in one thread: with slices FFmpeg tears VP8."""
    with av.open(path) as container:
        container.streams.video[0].thread_type = "NONE"
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def times_of(path: Path) -> list[float]:
    """Presentation time of each frame of a video, in seconds."""
    with av.open(path) as container:
        return [frame.time for frame in container.decode(video=0)]


def with_matrix(path: Path, matrix: bytes) -> Path:
    """Replace the matrix of an MP4's track, which says how the video is shown: nine big-endian fixed-point numbers."""
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd") + 4
    place = header + (52 if content[header] else 40)
    content[place : place + 36] = matrix
    path.write_bytes(content)
    return path


def with_durations(path: Path, seconds: Sequence[float]) -> Path:
    """Give each frame of an MP4 that ``write_clip`` wrote its own duration, so that its frame rate varies."""
    content = path.read_bytes()
    assert content.index(b"mdat") < content.index(b"moov"), "the offsets of the frames would move"
    header = content.index(b"mdhd") + 4
    timescale = int.from_bytes(content[header + 12 : header + 16], "big")
    entries = b"".join((1).to_bytes(4, "big") + round(each * timescale).to_bytes(4, "big") for each in seconds)
    times = bytes(4) + len(seconds).to_bytes(4, "big") + entries
    place = content.index(b"stts")
    grown = len(times) + 8 - int.from_bytes(content[place - 4 : place], "big")
    changed = bytearray(content.replace(b"edts", b"free"))
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        at = changed.index(name) - 4
        changed[at : at + 4] = (int.from_bytes(changed[at : at + 4], "big") + grown).to_bytes(4, "big")
    changed[place + 4 : place + 4 + len(times) - grown] = times
    path.write_bytes(changed)
    return path


def encode(
    path: Path,
    pictures: Iterable[Any],
    codec: str,
    pix_fmt: str,
    *,
    size: tuple[int, int] = (128, 96),
    rate: int = 25,
    tags: dict[str, int] | None = None,
    options: dict[str, str] | None = None,
    audio_seconds: float = 0,
) -> Path:
    """Write ``H×W×3`` BGR pictures, or ``VideoFrame``s, as a video; with silence if it is asked for."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        sound = container.add_stream("aac", rate=8000) if audio_seconds else None
        for picture in pictures:
            frame = picture if isinstance(picture, av.VideoFrame) else av.VideoFrame.from_ndarray(picture, "bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for at in range(0, int(audio_seconds * 8000), 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 8000, at
            container.mux(sound.encode(silence))
        if sound is not None:
            container.mux(sound.encode(None))
    return path


def playlist(entry: str) -> bytes:
    """A playlist of HLS that names one file or address."""
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{entry}\n#EXT-X-ENDLIST\n".encode()
