"""Short forms of ``benchmarks/soak.py`` and ``benchmarks/chaos.py``, and proofs that both see what they look for."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from endurance.campaign import campaign
from endurance.chaos import ACTIONS, BOUNDARIES, CONSUMERS, ENDINGS, Boundaries, ChaosSource, Run, drawn
from endurance.soak import soak, soak_frames

from vitedge.runtime.stream.stats import Ledger
from vitedge.testing import FakeSource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

FRAMES = 6000
RUNS = 50
MOST_GROWTH_MB = 5.0
NOTHING = replace(
    drawn(0),
    source="frames",
    live=False,
    passed_open=False,
    frames=20,
    policy="every",
    max_age_ms=None,
    reconnect=None,
    actions=dict.fromkeys(BOUNDARIES, ("nothing", 0)),
    consumer="closes",
    predictions=3,
    ending="nothing",
)
"""A plan in which nothing goes wrong."""


def drawn_with(ending: str) -> int:
    """The first seed of an ending."""
    return next(seed for seed in count() if drawn(seed).ending == ending)


class TestSoak:
    @pytest.mark.parametrize("live", [False, True])
    def test_a_stream_of_many_frames_stays_flat_and_counts_all(self, live: bool) -> None:
        soaked = soak_frames(FRAMES, live=live, samples=10)
        assert soaked.stats.captured == FRAMES
        assert soaked.is_exact
        assert soaked.counted <= FRAMES
        assert soaked.growth_mb < MOST_GROWTH_MB
        assert max(soaked.left) <= 0

    def test_memory_that_grows_is_seen(self) -> None:
        kept: list[np.ndarray] = []

        def frame(index: int) -> np.ndarray | None:
            kept.append(np.ones((100, 1000), dtype=np.uint8))
            return np.zeros((32, 32, 3), dtype=np.uint8) if index < 300 else None

        source = FakeSource(frame, live=False)
        soaked = soak(source, samples=10, sample_due=lambda counted, _: counted // 30)
        assert soaked.growth_mb > MOST_GROWTH_MB

    def test_a_thread_that_is_left_is_seen(self) -> None:
        over = threading.Event()
        threads: list[threading.Thread] = []

        def frame(index: int) -> np.ndarray | None:
            if index == 200:
                threads.append(threading.Thread(target=over.wait))
                threads[0].start()
            return np.zeros((32, 32, 3), dtype=np.uint8) if index < 300 else None

        soaked = soak(FakeSource(frame, live=False), samples=10, sample_due=lambda counted, _: counted // 30)
        over.set()
        threads[0].join()
        assert soaked.left[0] == 1

    def test_a_frame_that_is_not_counted_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        capture = Ledger.capture
        counted = iter([False, *[True] * FRAMES])
        monkeypatch.setattr(Ledger, "capture", lambda ledger: capture(ledger) if next(counted) else 1)
        assert not soak_frames(100, live=False, samples=10).is_exact

    def test_drops_that_are_not_counted_are_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Ledger, "drop", lambda ledger, cause: None)
        assert not soak_frames(1000, live=True, samples=10).is_exact


class TestChaos:
    def test_whatever_goes_wrong_a_stream_ends_clean(self) -> None:
        results = list(campaign(0, RUNS))
        assert len(results) == RUNS
        assert not [str(each) for each in results if each.problems]

    def test_a_source_that_stays_open_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ChaosSource, "close", lambda source: None)
        run = Run(NOTHING)
        run.go()
        assert run.problems == ["of 1 sources some are open"]

    def test_an_unexpected_error_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Boundaries, "reach", lambda boundaries, boundary: 1 // (boundary != "consumer"))
        run = Run(replace(NOTHING, consumer="reads on"))
        run.go()
        assert run.problems == ["ZeroDivisionError: integer division or modulo by zero"]

    def test_a_process_that_does_not_end_is_seen(self) -> None:
        (result,) = campaign(drawn_with("exit"), 1, seconds=0.0)
        assert result.problems[0] == "it took longer than 0 s"

    def test_everything_is_drawn(self) -> None:
        plans = [drawn(seed) for seed in range(500)]
        assert {each.consumer for each in plans} == set(CONSUMERS)
        assert {each.ending for each in plans} == set(ENDINGS)
        for boundary in BOUNDARIES:
            assert {each.actions[boundary][0] for each in plans} == set(ACTIONS)
        assert str(drawn(7)) == str(drawn(7))
