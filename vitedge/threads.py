"""The number of threads that the caller of a verb allows for computing, where the verb computes in many places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ALLOWED: ContextVar[int | None] = ContextVar("vitedge_allowed_threads", default=None)


def allowed_threads() -> int | None:
    """Return the number of threads that the caller allows; None if the caller leaves it to the libraries."""
    return _ALLOWED.get()


@contextmanager
def allowing(threads: int | None) -> Iterator[None]:
    """Allow a number of threads to what this thread computes within the context; None leaves it to the libraries."""
    token = _ALLOWED.set(threads)
    try:
        yield
    finally:
        _ALLOWED.reset(token)
