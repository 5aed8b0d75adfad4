"""What tests of streams share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_thread_survives() -> Iterator[None]:
    """Nothing of a stream is left after the test."""
    from streams import PATIENCE, our_threads

    of_others = set(our_threads())  # a test that failed may have left them
    yield
    if set(our_threads()) - of_others:
        gc.collect()
    left = [each for each in our_threads() if each not in of_others]
    for thread in left:
        thread.join(PATIENCE)
    assert [each for each in left if each.is_alive()] == []


@pytest.fixture
def reader():
    """A classifier that reads a frame's number."""
    from streams import NumberReader

    return NumberReader()
