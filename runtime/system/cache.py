"""A cache of small results between runs, one JSON file per result.

The cache only saves work: an unreadable entry counts as absent, and a failed write is no error. It must belong to this
user alone, because its entries decide which engines count as tested and which plans may run. A folder that another user
owns, or may write into, is neither read nor written.
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

from vitedge.files import is_partial, remove_abandoned, write_atomic
from vitedge.safety import escape
from vitedge.safety.files import read_json

logger = logging.getLogger("vitedge")

PRIVATE = 0o700
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder() -> Path:
    """Return ``$VITEDGE_CACHE``, else ``$XDG_CACHE_HOME/vitedge``, else ``~/.cache/vitedge``.

    Raises:
        RuntimeError: neither variable is set and the user has no home folder.
    """
    own = os.environ.get("VITEDGE_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "vitedge"


def get(kind: str, key: str) -> dict[str, Any] | None:
    """Read an entry; None if there is none that can be used.

    Args:
        kind: folder within the cache, such as ``self-test``.
        key: file name, such as a hex digest of everything that the result depends on.
    """
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        folder = cache_folder()
        if is_private(folder) and is_private(folder / kind):
            value = read_json(folder / kind / f"{key}.json")
            return value if isinstance(value, dict) else None
    return None


def put(kind: str, key: str, value: dict[str, Any], *, most: int | None = None) -> bool:
    """Write a JSON object, whole or not at all.

    Args:
        kind: folder within the cache, as for ``get``.
        key: file name, as for ``get``.
        value: the entry; its numbers must be finite.
        most: number of entries of this kind to keep, the newest ones; None keeps all.

    Returns:
        Whether the entry was written.
    """
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        folder = make_private(kind)
        remove_abandoned(folder, is_partial)
        write_atomic(folder / f"{key}.json", json.dumps(value, allow_nan=False))
        if most is not None:
            _remove_oldest(folder, most)
        return True
    return False


def make_private(kind: str) -> Path:
    """Create a folder within the cache that only its owner may read and write, and return it.

    Raises:
        OSError: the folder cannot be created, or others may write into it.
        RuntimeError: as for ``cache_folder``.
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
    """Check that this user owns a folder and nobody else may write into it; if not, warn once.

    Raises:
        OSError: the folder does not exist or its mode cannot be read.
    """
    status = folder.stat()
    private = status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_MAY_WRITE
    if not private:
        _warn(folder, "another user owns it" if status.st_uid != os.geteuid() else "others may write into it")
    return private


@cache
def _warn(folder: Path, reason: str) -> None:
    logger.warning(
        "the cache %s is not used: %s, and its entries would be trusted. fix: remove it, or set VITEDGE_CACHE to "
        "a folder of your own",
        escape.terminal(str(folder)),
        reason,
    )


def _remove_oldest(folder: Path, most: int) -> None:
    written = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in written[most:]:
        path.unlink(missing_ok=True)
