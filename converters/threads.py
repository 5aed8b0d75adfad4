"""The number of threads that PyTorch, NumPy and all of vitedge's own computing take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vitedge.extras import require
from vitedge.threads import allowing


@contextmanager
def computing_in(threads: int | None) -> Iterator[None]:
    """Have engines, workers, NumPy and PyTorch compute in so many threads within the context; None changes nothing.

    Raises:
        MissingExtraError: threadpoolctl is not installed.
    """
    if threads is None:
        yield
        return
    import torch

    threadpoolctl = require("threadpoolctl", extra="convert", purpose="threads=")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with allowing(threads), threadpoolctl.threadpool_limits(limits=threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
