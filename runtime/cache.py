"""Small results that a machine remembers between runs, one JSON file each.

The cache only ever saves work: what cannot be read counts as absent, and what cannot be written is not remembered.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from vitedge.files import write_whole


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
        key: file name, such as a hex digest.
    """
    try:
        value = json.loads((cache_folder() / kind / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def remember(kind: str, key: str, value: dict[str, Any], *, most: int | None = None) -> None:
    """Remember a JSON object, whole or not at all; ``kind`` and ``key`` as for ``recall``.

    Args:
        kind: folder within the cache.
        key: file name.
        value: what to remember.
        most: how many of the kind stay, those written last; None for all.
    """
    with contextlib.suppress(OSError, RuntimeError):
        folder = cache_folder() / kind
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{key}.json", json.dumps(value))
        written = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in written[most:] if most is not None else ():
            path.unlink()
