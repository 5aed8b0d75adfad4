"""Small results that a machine remembers between runs, one JSON file each.

The cache only ever saves work: what cannot be read counts as absent, and what cannot be written is not remembered. It
is the user's own, since who can write it decides which engines pass for tested and which plans are run: a folder that
another user owns, or may write into, is neither read nor written.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from functools import cache
from pathlib import Path
from typing import Any

from vitedge.files import is_partial, remove_abandoned, write_whole
from vitedge.safety import escape
from vitedge.safety.files import read_json

logger = logging.getLogger("vitedge")

PRIVATE = 0o700
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder() -> Path:
    """``$VITEDGE_CACHE``, else ``$XDG_CACHE_HOME/vitedge``, else ``~/.cache/vitedge``.

    Raises:
        RuntimeError: none of them is set and the user has no home folder.
    """
    own = os.environ.get("VITEDGE_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "vitedge"


def recall(kind: str, key: str) -> dict[str, Any] | None:
    """What was remembered, or None.

    Args:
        kind: folder within the cache, such as ``self-test``.
        key: file name, such as a hex digest of all that the result depends on.
    """
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        folder = cache_folder()
        if is_private(folder) and is_private(folder / kind):
            value = read_json(folder / kind / f"{key}.json")
            return value if isinstance(value, dict) else None
    return None


def remember(kind: str, key: str, value: dict[str, Any], *, most: int | None = None) -> bool:
    """Remember a JSON object, whole or not at all; ``kind`` and ``key`` as for ``recall``.

    Args:
        kind: folder within the cache.
        key: file name.
        value: what to remember; its numbers are finite.
        most: how many of the kind stay, those written last; None for all.

    Returns:
        Whether it was written.
    """
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        folder = make_private(kind)
        remove_abandoned(folder, is_partial)
        write_whole(folder / f"{key}.json", json.dumps(value, allow_nan=False))
        if most is not None:
            _forget_oldest(folder, most)
        return True
    return False


def make_private(kind: str) -> Path:
    """A folder within the cache, made so that its owner alone may read and write it.

    Raises:
        OSError: it cannot be made, or others may write into it.
        RuntimeError: as ``cache_folder``.
    """
    folder = cache_folder()
    for each in (*reversed(folder.parents), folder, folder / kind):
        if not each.exists():
            each.mkdir(mode=PRIVATE, exist_ok=True)
    for each in (folder, folder / kind):
        if not is_private(each):
            raise PermissionError(f"{each} is not this user's alone")
    return folder / kind


def is_private(folder: Path) -> bool:
    """Whether this user owns a folder and nobody else may write into it; if not, a warning says so once.

    Raises:
        OSError: it does not exist or cannot be looked at.
    """
    status = folder.stat()
    private = status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_MAY_WRITE
    if not private:
        _warn(folder, "another user owns it" if status.st_uid != os.geteuid() else "others may write into it")
    return private


@cache
def _warn(folder: Path, reason: str) -> None:
    logger.warning(
        "the cache %s is not used: %s, and what it remembers would be trusted. fix: remove it, or set VITEDGE_CACHE to "
        "a folder of your own",
        escape.terminal(str(folder)),
        reason,
    )


def _forget_oldest(folder: Path, most: int) -> None:
    written = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in written[most:]:
        path.unlink(missing_ok=True)
