"""Images that calibration and evaluation share: accuracy on them is too optimistic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from vitedge.bundle.bundle import sha256_of
from vitedge.calib.data.dataset import ImageFile


def count_shared_images(calibration: Sequence[ImageFile], evaluation: Sequence[ImageFile]) -> int:
    """Count the evaluation images that calibration also used, by their contents, whatever their names.

    Only files whose size occurs on both sides are read. Two frames are the same if number and video are the same.
    """
    sizes = [{_size(each.path) for each in files} for files in (calibration, evaluation)]
    common = (sizes[0] & sizes[1]) - {-1}
    digest = cache(sha256_of)
    ours, theirs = (
        [(digest(each.path), each.frame) for each in files if _size(each.path) in common]
        for files in (calibration, evaluation)
    )
    known = set(ours)
    return sum(each in known for each in theirs)


def _size(path: Path) -> int:
    """Return the size in bytes; −1 if it cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
