"""Encodes numbered pictures into the clips that cameras send."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from camera_servers.burnt_numbers import burn
from camera_servers.encoded_clip import CodedPicture, EncodedClip, write_clip

Picture = NDArray[np.uint8]

_X264 = "sliced-threads=0:sync-lookahead=0"
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "x264-params": _X264}),
    "h264b": ("libx264", {"preset": "veryfast", "x264-params": f"{_X264}:bframes=2:b-adapt=0:rc-lookahead=4"}),
    "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:bframes=0:pools=1:frame-threads=1"}),
    "mjpeg": ("mjpeg", {"huffman": "default"}),
}
"""PyAV's encoder and its options, by the kind of a clip; ``h264b`` has B-frames."""


def moving_pictures(count: int, width: int = 320, height: int = 192) -> Iterator[Picture]:
    """Draw pictures in which coloured stripes and a texture move to the left."""
    rows, columns = np.mgrid[:height, : 2 * width]
    waves = 127 + 70 * np.sin(columns * np.pi / width * 2 * round(width / 100)) * np.cos(rows / 11)
    texture = np.random.default_rng(0).integers(-20, 21, (height, width, 3))
    wide = np.clip(waves[..., None] + np.tile(texture, (1, 2, 1)), 0, 255).astype(np.uint8)
    for number in range(count):
        begin = 3 * number % width
        yield np.ascontiguousarray(wide[:, begin : begin + width])


def encode(
    path: Path,
    pictures: Iterable[Picture],
    kind: str = "h264",
    *,
    first: int = 0,
    fps: int = 30,
    gop: int = 15,
    bit_rate: int = 0,
) -> EncodedClip:
    """Encode ``H×W×3`` uint8 BGR pictures of one size into a clip.

    Args:
        path: the file to write.
        pictures: the pictures; their numbers are burnt into them.
        kind: one of ``ENCODERS``.
        first: number of the first picture.
        fps: frames per second.
        gop: pictures from one key frame to the next.
        bit_rate: bits per second; 0 leaves them to the encoder.
    """
    encoder = _encoder(kind, fps, gop, bit_rate)
    packets = _packets(encoder, pictures, first)
    coded = (CodedPicture(packet.pts, packet.is_keyframe, bytes(packet)) for packet in packets)
    return write_clip(path, kind.removesuffix("b"), fps, coded)


def _encoder(kind: str, fps: int, gop: int, bit_rate: int) -> Any:
    name, options = ENCODERS[kind]
    encoder = av.CodecContext.create(name, "w")
    encoder.time_base, encoder.framerate = Fraction(1, fps), Fraction(fps)
    encoder.pix_fmt = "yuvj420p" if kind == "mjpeg" else "yuv420p"
    encoder.gop_size, encoder.thread_count, encoder.options = gop, 1, options
    if bit_rate:
        encoder.bit_rate = bit_rate
    return encoder


def _packets(encoder: Any, pictures: Iterable[Picture], first: int) -> Iterator[Any]:
    for number, picture in enumerate(pictures, first):
        burn(picture, number)
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format=encoder.pix_fmt)
        frame.pts, frame.time_base = number, encoder.time_base
        if not encoder.is_open:
            encoder.width, encoder.height = frame.width, frame.height
        yield from encoder.encode(frame)
    yield from encoder.encode(None)


def transport_stream(clip: EncodedClip, path: Path) -> EncodedClip:
    """Wrap a clip's pictures into MPEG-TS, so that they can be sent one after the other."""
    return write_clip(path, "mpegts", clip.fps, _wrapped(clip))


def _wrapped(clip: EncodedClip) -> Iterator[CodedPicture]:
    """Yield the TS packets of each picture; timestamps are decoding times, and B-frames get later ones to show."""
    pictures = clip.pictures()
    first = min(each.number for each in pictures)
    late = max(place + first - each.number for place, each in enumerate(pictures))
    file, begin = io.BytesIO(), 0
    options = {"flush_packets": "1", "mpegts_flags": "resend_headers"}
    with av.open(file, "w", format="mpegts", options=options) as container:
        stream = container.add_stream(ENCODERS[clip.codec][0], rate=round(clip.fps))
        for place, each in enumerate(pictures):
            packet = av.Packet(each.data)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, round(clip.fps)), each.key
            packet.dts, packet.pts = place, each.number - first + late
            container.mux(packet)
            yield CodedPicture(each.number, each.key, file.getvalue()[begin:])
            begin = file.tell()
