"""Native libraries, loaded where the current folder offers none."""

from __future__ import annotations

import contextlib
import multiprocessing.process  # remembers the current folder when it is imported  # noqa: F401
import os
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def away_from_current_folder() -> Iterator[None]:
    """Make ``/`` the current folder while libraries are imported.

    The search path of NVIDIA's libcusparseLt, which PyTorch for CUDA loads, has an empty entry, which stands for the
    current folder: a ``libcuda.so.1`` in it would run. Nothing is done where other threads run: they may open files.
    """
    if threading.active_count() > 1:
        yield
        return
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir("/")
        yield
    finally:
        os.fchdir(before)
        os.close(before)
