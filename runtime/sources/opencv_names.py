"""Names under which OpenCV opens any file: it crashes on bytes that are not UTF-8, and reads ``%d`` as a pattern."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitedge.errors import FrameSourceError
from vitedge.safety.files import is_unicode

_DESCRIPTORS = Path("/proc/self/fd")


def is_plain(name: str) -> bool:
    """Return whether OpenCV and FFmpeg take a name as it is."""
    return is_unicode(name) and "%" not in name and name.isprintable()


@contextmanager
def opencv_name(path: Path) -> Iterator[str]:
    """Yield a name of an existing file or folder for OpenCV, which is valid within this context.

    Raises:
        FrameSourceError: this system has no other name for a file whose own name OpenCV cannot take.
        OSError: the file cannot be opened.
    """
    name = os.path.abspath(path)  # noqa: PTH100 - so that no name is taken for a protocol
    if is_plain(name):
        yield name
    elif _DESCRIPTORS.is_dir():
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield str(_DESCRIPTORS / str(descriptor))
        finally:
            os.close(descriptor)
    elif is_unicode(name):
        yield name
    else:
        raise FrameSourceError(
            f"OpenCV cannot open {path}: its name is not UTF-8", expected="a name in UTF-8", fix="rename it"
        )
