"""The page of the benchmark of streams: ratios of a round, missed targets, and ways that were not measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(scope="module")
def page(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.runtime_page")


def costs(age_ms: float, *, hidden_ms: tuple[float, ...] = (1.0,), predictions: int = 150) -> Any:
    return SimpleNamespace(
        ages_ms=[age_ms], hidden_ms=hidden_ms, predictions=predictions, seconds=5.0, cpu_seconds=1.5, megabytes=400.0
    )


@pytest.fixture
def measured(page: Any) -> Any:
    """One that meets every target; its file is read by two ways."""
    camera = {"vitedge": [costs(30.0), costs(40.0)], "loop": [costs(50.0, hidden_ms=())] * 2}
    file = {
        "vitedge": [costs(0.0, predictions=400), costs(0.0, predictions=600)],
        "loop": [costs(0.0, predictions=200), costs(0.0, predictions=200)],
    }
    cameras = [page.CameraRound(190.0, 200.0, 195.0, 1.5, 9.0)]
    why = {"optimum": "--peers was not given"}
    return page.Measured(camera, {"vitedge": camera["vitedge"]}, camera, file, [0.1], [0.15], cameras, [0.4], why)


def test_the_tables_show_medians_with_their_range_and_ratios_of_a_round(page: Any, measured: Any) -> None:
    text = page.page_text(measured, "here, today")
    assert text.startswith("here, today\n")
    assert "| vitedge | 35 (30-40) | 35 (30-40) | 1.0 (1.0-1.0) | 30.0 (30.0-30.0) | 10.0 (10.0-10.0) |" in text
    assert "| 50 (50-50) | 50 (50-50) | states no age |" in text
    assert "| 40.0 (40.0-40.0) | 2.50 (2.00-3.00) x | 7.5 (7.5-7.5) |" in text
    assert "optimum-intel pipeline, ViT-Tiny: not measured, --peers was not given." in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spare", {"vitedge": [costs(70.0)]}),
        ("spare", {"vitedge": [costs(30.0, hidden_ms=(-16.0,))]}),
        ("stops", [0.1, 0.4]),
        ("own_ms", [0.3]),
        ("planes", [0.6]),
    ],
)
def test_a_missed_target_is_noticed(page: Any, measured: Any, name: str, value: Any) -> None:
    assert all(each.is_met for each in measured.targets())
    missed = replace(measured, **{name: value})
    assert not all(each.is_met for each in missed.targets())
    assert "| **no** |" in page.targets_table(missed.targets())
