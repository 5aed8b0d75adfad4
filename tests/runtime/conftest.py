"""What tests of streams share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_thread_survives() -> Iterator[None]:
    """Nothing of a stream is left after the test."""
    from streams import PATIENCE, our_threads

    yield
    if our_threads():
        gc.collect()
    for thread in our_threads():
        thread.join(PATIENCE)
    assert our_threads() == []


@pytest.fixture
def reader():
    """A classifier that reads a frame's number."""
    from streams import NumberReader

    return NumberReader()
