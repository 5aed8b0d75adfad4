"""Rounds of a busy machine do not count; ratios are taken round by round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def timing(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.timing")


def test_rounds_of_a_busy_machine_are_thrown_away_counted_and_repeated(timing: Any) -> None:
    loads = iter([1.0, 1.0, 1.0, 9.0, 9.0, 1.0, 1.0, 1.0])
    times = iter(range(100))
    pauses: list[float] = []
    found = timing.in_quiet_turns(
        {"one": lambda: None},
        lambda call: float(next(times)),
        rounds=2,
        most_load=3.0,
        load=lambda: next(loads),
        wait=pauses.append,
    )
    assert found == timing.QuietTurns({"one": [2.0, 5.0]}, 2)  # after two of warm-up; the second and third were busy
    assert len(pauses) == 2


def test_a_machine_that_stays_busy_is_an_error(timing: Any) -> None:
    with pytest.raises(timing.BusyMachineError, match=r"7 rounds had a load above 3\.0") as raised:
        timing.in_quiet_turns(
            {"one": lambda: None}, lambda call: 1.0, rounds=2, most_load=3.0, load=lambda: 4.0, wait=lambda _: None
        )
    assert raised.value.discarded == 7


def test_medians_and_ratios_that_disagree_are_noticed(timing: Any) -> None:
    assert timing.contradiction([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == ""
    assert timing.contradiction([], [1.0]) == ""
    assert timing.contradiction([1.0, 5.0, 9.0], [1.0, 8.0, 4.0]) == (
        "the medians give a ratio of 1.25, the rounds one of 1.00"
    )


def test_ratios_are_compared_round_by_round(timing: Any) -> None:
    others = np.linspace(1.0, 100.0, 101)
    median, middle, low, high = timing.compared(list(2 * others), list(others))
    assert (median, middle, low, high) == pytest.approx((2 * np.median(others), 2.0, 2.0, 2.0))
