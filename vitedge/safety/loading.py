"""Loading of native libraries without searching the current folder."""

from __future__ import annotations

import contextlib
import multiprocessing.process  # remembers the current folder when it is imported  # noqa: F401
import os
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def away_from_current_folder() -> Iterator[None]:
    """Make ``/`` the current folder while libraries are imported.

    PyTorch for CUDA loads NVIDIA's libcusparseLt, whose search path has an empty entry. The entry stands for the
    current folder, so that a ``libcuda.so.1`` there would run. While other threads run, the folder stays, because they
    may open files by relative paths.
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
