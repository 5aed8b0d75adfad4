"""Images computed side by side in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from vitedge.runtime.system.machine import usable_cpus

MOST_THREADS = 8
"""As many images are held at once, whatever their number."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Give the results for all items in their order; a few more than those taken are computed ahead, never all."""
    threads = min(MOST_THREADS, usable_cpus())
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
