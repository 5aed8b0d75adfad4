"""Images that calibration and evaluation share: accuracy on them is too optimistic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from vitedge.bundle.bundle import sha256_of
from vitedge.calib.data.dataset import ImageFile


def count_shared_images(calibration: Sequence[ImageFile], evaluation: Sequence[ImageFile]) -> int:
    """Count the evaluation images that calibration also used; see ``shared_images``."""
    return len(shared_images(calibration, evaluation))


def shared_images(calibration: Sequence[ImageFile], others: Sequence[ImageFile]) -> list[ImageFile]:
    """List the other images that calibration also used, by their contents, whatever their names.

    Only files whose size occurs on both sides are read. Two frames are the same if number and video are the same.
    """
    sizes = [{_size(each.path) for each in files} for files in (calibration, others)]
    common = (sizes[0] & sizes[1]) - {-1}
    digest = cache(sha256_of)
    known = {(digest(each.path), each.frame) for each in calibration if _size(each.path) in common}
    candidates = [each for each in others if _size(each.path) in common]
    return [each for each in candidates if (digest(each.path), each.frame) in known]


def _size(path: Path) -> int:
    """Return the size in bytes; −1 if it cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
