from __future__ import annotations

import pytest

from vitedge.runtime.stream.cameras.saturation import BUSY_SHARE, EASED_SHARE, WINDOW_SECONDS, Saturation


def work(saturation: Saturation, begun: float, seconds: float, *, fps: float, took: float) -> list[float]:
    """Work for some seconds, and return the times at which the answer changed."""
    times = (begun + number / fps for number in range(1, int(seconds * fps) + 1))
    return [now for now in times if saturation.worked(took, now)]


def test_an_engine_with_time_to_spare_stays_alone() -> None:
    saturation = Saturation(0.0)
    assert work(saturation, 0.0, 60.0, fps=100, took=(BUSY_SHARE - 0.05) / 100) == []
    assert not saturation.saturated


def test_a_busy_engine_gets_workers_after_the_window() -> None:
    saturation = Saturation(10.0)
    assert work(saturation, 10.0, 10.0, fps=100, took=0.0095) == [pytest.approx(10.0 + WINDOW_SECONDS)]
    assert saturation.saturated


def test_a_slow_application_is_no_reason_for_workers() -> None:
    saturation = Saturation(0.0)
    assert work(saturation, 0.0, 30.0, fps=10, took=0.02) == []


def test_workers_stay_while_they_are_needed_whatever_they_take_for_a_frame() -> None:
    saturation = Saturation(0.0)
    work(saturation, 0.0, 3.0, fps=95, took=0.01)
    assert work(saturation, 3.0, 60.0, fps=150, took=0.02) == []
    assert work(saturation, 63.0, 60.0, fps=(EASED_SHARE + 0.05) / 0.01, took=0.013) == []
    assert saturation.saturated


def test_the_engine_is_alone_again_when_it_would_have_time_to_spare() -> None:
    saturation = Saturation(0.0)
    work(saturation, 0.0, 3.0, fps=95, took=0.01)
    changes = work(saturation, 3.0, 30.0, fps=30, took=0.02)
    assert len(changes) == 1
    assert not saturation.saturated
    assert work(saturation, 33.0, 30.0, fps=30, took=0.01) == []


def test_a_load_between_the_bounds_changes_nothing_any_more() -> None:
    saturation = Saturation(0.0)
    work(saturation, 0.0, 3.0, fps=95, took=0.01)
    between = (BUSY_SHARE + EASED_SHARE) / 2 / 0.01
    assert work(saturation, 3.0, 60.0, fps=between, took=0.02) == []


def test_what_was_forgotten_does_not_count() -> None:
    saturation = Saturation(0.0)
    work(saturation, 0.0, 3.0, fps=95, took=0.01)
    assert work(saturation, 3.0, 0.8, fps=10, took=0.01) == []
    saturation.forget(3.8)
    assert work(saturation, 3.8, WINDOW_SECONDS + 1.0, fps=95, took=0.02) == []


def test_a_pause_is_not_taken_for_work() -> None:
    saturation = Saturation(0.0)
    work(saturation, 0.0, 1.0, fps=95, took=0.01)
    assert work(saturation, 100.0, 0.1, fps=95, took=0.01) == []
    assert not saturation.saturated
