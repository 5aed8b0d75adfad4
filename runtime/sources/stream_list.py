"""``.streams`` files: the addresses of several cameras, a line each.

# the yard
door = rtsp://camera-1/stream?transport=udp
gate = /dev/v4l/by-id/usb-Example_Camera-video-index0
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from vitedge.counts import counted
from vitedge.errors import FrameSourceError, UsageError, VitedgeError
from vitedge.safety.files import read_text
from vitedge.safety.redact import redact_address

SUFFIX = ".streams"
LIST_BYTES = 1 << 20
MOST_STREAMS = 1_000
NAME_LENGTH = 100
NAME_BYTES = 200
"""Length of a name in UTF-8; the 255 bytes of a file name also take a suffix, and the ending of a partial file."""
_LINE = re.compile(r"(?:(?P<name>[^=:/\\?]*?)\s*=\s*)?(?P<address>\S.*)")
"""A name holds no character that begins the query or path of an address, where ``=`` has another meaning."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:|\d+$")
"""A scheme or the number of a camera; anything else is a path."""


def is_stream_list(path: Path) -> bool:
    """Decide whether a path has the suffix of a list of streams."""
    return path.suffix.lower() == SUFFIX


def split_name(text: str) -> tuple[str | None, str]:
    """Split ``NAME = ADDRESS`` into its parts; the name of an address that has none is None."""
    found = _LINE.fullmatch(text)
    return (None, text) if found is None else (found["name"], found["address"])


def check_name(name: object) -> None:
    """Check the name of a camera, which outputs take for the name of a file.

    Raises:
        UsageError: it cannot be printed, or cannot be the name of a visible file.
    """
    if not isinstance(name, str) or not name.strip() or name != name.strip() or not name.isprintable():
        raise UsageError(f"a camera is named {name!r:.80}", expected="a name of printable characters")
    if len(name) > NAME_LENGTH or len(name.encode()) > NAME_BYTES:
        raise UsageError(
            f"a camera is named {name[:40]!r}…", expected=f"at most {NAME_LENGTH} characters, and {NAME_BYTES} bytes"
        )
    if name.startswith(".") or "/" in name or "\\" in name:
        raise UsageError(
            f"a camera is named {name!r:.80}",
            expected="a name of a file: without / and \\, and without a dot at its beginning",
        )


def read_streams(path: str | Path) -> dict[str, str]:
    """Read the addresses of a ``.streams`` file.

    A line is ``ADDRESS`` or ``NAME = ADDRESS``; an empty line and one that begins with ``#`` count for nothing. A
    stream without a name is named by its position, from ``1``. A path is relative to the folder of the file.

    Args:
        path: the file.

    Returns:
        The addresses by their names, in the order of the file.

    Raises:
        FrameSourceError: the file cannot be read, or holds no address.
        UsageError: a line is no address, a name is refused by ``check_name``, or two streams have the same name.
    """
    path = Path(path)
    try:
        text = read_text(path, limit=LIST_BYTES, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FrameSourceError(
            f"{path} cannot be read: {reason}", expected="a text file of addresses, a line each, in UTF-8"
        ) from error
    streams: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if content and not content.startswith("#"):
            _add(streams, content, path, number)
    if not streams:
        raise FrameSourceError(f"{path} holds no address", expected="NAME = ADDRESS, a line each", cause="no_video")
    return streams


def only_stream(path: Path) -> str:
    """Return the address of a ``.streams`` file that has one.

    Raises:
        UsageError: it has several.
        FrameSourceError: it cannot be read, or has none.
    """
    streams = read_streams(path)
    if len(streams) > 1:
        raise UsageError(
            f"{path} lists {counted(len(streams), 'stream')}",
            expected="one, where one source is opened",
            fix="run all of them: classifier.streams(...) in Python, vitedge run --source FILE.streams",
        )
    return next(iter(streams.values()))


def _add(streams: dict[str, str], content: str, path: Path, number: int) -> None:
    found = _LINE.fullmatch(content)
    if found is None or found["name"] == "":
        raise _wrong(path, number, f"is no address: {redact_address(content):.80}")
    name, address = found["name"] or str(len(streams) + 1), found["address"]
    try:
        check_name(name)
    except UsageError as error:
        raise UsageError(f"line {number} of {path}: {error.problem}", expected=error.expected) from error
    if name in streams:
        raise _wrong(path, number, f"has the name {name!r:.80} of an earlier stream")
    if len(streams) == MOST_STREAMS:
        raise _wrong(path, number, f"is stream {MOST_STREAMS + 1}; {MOST_STREAMS} are the most")
    if is_stream_list(Path(address)):
        raise _wrong(path, number, "is another list")
    streams[name] = address if _ADDRESS.match(address) else os.path.join(path.parent, address)  # noqa: PTH118


def _wrong(path: Path, number: int, what: str) -> VitedgeError:
    return UsageError(f"line {number} of {path} {what}", expected="NAME = ADDRESS, each name once")
