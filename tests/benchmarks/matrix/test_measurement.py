"""Ratios of times are what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def measurement(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.matrix.measurement")


@pytest.fixture(scope="module")
def page(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.matrix.page")


def test_times_that_were_refused_are_not_printed(measurement: Any, page: Any, row: Any) -> None:
    assert measurement.speed((), ()) == {}
    untimed = replace(row.conversions["fp32"], p50_ms=0.0, speedup=0.0, speedup_range=(0.0, 0.0))
    assert page.faster(untimed) == ""


def test_the_speedup_is_the_median_of_the_ratios_of_each_round(measurement: Any) -> None:
    found = measurement.speed([1.0, 2.0, 4.0], [2.0, 2.0, 16.0])
    assert found == {"p50_ms": 2.0, "speedup": 2.0, "speedup_range": (1.0, 4.0)}


def test_a_row_with_nothing_to_time_stays_as_it_is(measurement: Any, row: Any, tmp_path: Path) -> None:
    for found in (replace(row, comparison=None), replace(row, comparison=replace(row.comparison, refused="why"))):
        assert measurement.timed_row(found, tmp_path) is found
