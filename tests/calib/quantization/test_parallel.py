"""Images side by side: in order, a few ahead, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from vitedge.calib.quantization.parallel import MOST_THREADS, parallel_map


def test_results_keep_their_order_and_only_a_few_items_are_taken_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    def doubled(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return 2 * number

    results = parallel_map(doubled, items())
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    assert len(taken) <= 5 + MOST_THREADS + 1
    assert list(results) == list(range(10, 100, 2))


def test_an_error_passes_and_no_thread_is_left() -> None:
    def broken(number: int) -> int:
        raise ValueError(f"item {number}")

    with pytest.raises(ValueError, match="item 0"):
        list(parallel_map(broken, range(20)))
    assert not [each for each in threading.enumerate() if each.name.startswith("vitedge-calib")]
