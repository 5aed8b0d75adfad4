"""Images computed side by side in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

from vitedge.extras import require
from vitedge.runtime.system.machine import usable_cpus
from vitedge.threads import allowed_threads

MOST_THREADS = 8
"""As many images are held at once, whatever their number."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Give the results for all items in their order; a few more than those taken are computed ahead, never all."""
    threads = thread_count()
    with ThreadPoolExecutor(threads, thread_name_prefix="vitedge-calib") as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for each in pending:
                each.cancel()


def thread_count() -> int:
    """Count the threads that ``parallel_map`` computes in."""
    return min(MOST_THREADS, allowed_threads() or usable_cpus())


def single_threaded_products() -> AbstractContextManager[object]:
    """Have NumPy compute each matrix product in one thread, within the context.

    ``parallel_map`` keeps all cores at work already. Threads of BLAS beside them wait for each other in busy loops.

    Raises:
        MissingExtraError: threadpoolctl is not installed.
    """
    threadpoolctl = require("threadpoolctl", extra="convert", purpose="calibration")
    limits: AbstractContextManager[object] = threadpoolctl.threadpool_limits(limits=1, user_api="blas")
    return limits
