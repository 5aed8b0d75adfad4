"""How many threads this process has, those of libraries among them."""

from __future__ import annotations

import threading
from pathlib import Path


def native_threads() -> int:
    """Number of threads; only Python's own where the system does not tell."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()
