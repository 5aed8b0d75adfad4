"""A clip that cameras send: coded pictures in a file, with an index beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class CodedPicture:
    """A coded picture.

    Attributes:
        number: number in the picture, which is its place in the order of presentation.
        key: whether decoding can begin with it.
        data: the bytes: Annex B for H.264 and H.265, or a JPEG.
    """

    number: int
    key: bool
    data: bytes


@dataclass(frozen=True)
class EncodedClip:
    """A clip in a file.

    Attributes:
        path: the file.
        codec: ``h264``, ``hevc`` or ``mjpeg``.
        fps: frames per second.
        frames: number of pictures.
    """

    path: Path
    codec: str
    fps: float
    frames: int

    def pictures(self) -> list[CodedPicture]:
        """Read the coded pictures, in the order in which they are decoded."""
        entries, data = json.loads(_index(self.path).read_text("ascii"))["pictures"], self.path.read_bytes()
        return [CodedPicture(number, key, data[begin:end]) for number, key, begin, end in entries]


def _index(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def open_clip(path: Path) -> EncodedClip:
    """Open a clip."""
    return EncodedClip(path, **json.loads(_index(path).read_text("ascii"))["clip"])


def write_clip(path: Path, codec: str, fps: float, pictures: Iterable[CodedPicture]) -> EncodedClip:
    """Write coded pictures into a new clip."""
    entries, begin = [], 0
    with path.open("wb") as file:
        for each in pictures:
            file.write(each.data)
            entries.append((each.number, each.key, begin, begin + len(each.data)))
            begin += len(each.data)
    clip = EncodedClip(path, codec, fps, len(entries))
    described = {name: value for name, value in asdict(clip).items() if name != "path"}
    _index(path).write_text(json.dumps({"clip": described, "pictures": entries}), "ascii")
    return clip
