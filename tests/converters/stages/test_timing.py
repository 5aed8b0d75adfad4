"""Whether int8 pays: what is measured against fp16, what is said of it, and when nothing is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vitedge.converters.stages import timing
from vitedge.converters.stages.timing import against_fp16
from vitedge.errors import EngineError
from vitedge.progress import Silent
from vitedge.runtime.bench.ratio import Ratio
from vitedge.runtime.bench.timing import Samples
from vitedge.testing import FAKE_INFO

FRAMES = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)
REFERENCE = np.array([[1.0, -2.0], [3.0, -1.0], [2.0, 4.0]], dtype=np.float32)
INT8_LOGITS = REFERENCE * np.float32(1.1)
"""20 dB."""


class Steps(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def step(self, message: str) -> None:
        self.said.append(message)


class RowEngine:
    """An engine that gives a row of logits for each of ``FRAMES``."""

    info = FAKE_INFO

    def __init__(self, logits: Any) -> None:
        self.frame = np.zeros((2, 2, 3), dtype=np.uint8)
        self.closed = False
        self._logits = logits

    def run(self) -> Any:
        (row,) = (number for number, frame in enumerate(FRAMES) if np.array_equal(frame, self.frame))
        return self._logits[row]

    def close(self) -> None:
        self.closed = True


def draft(fp16: Any, **changes: Any) -> Any:
    def open_fp16_engine(_: Any) -> Any:
        if isinstance(fp16, Exception):
            raise fp16
        return fp16

    fields = {
        "backend": SimpleNamespace(open_fp16_engine=open_fp16_engine),
        "precision": "int8",
        "choice": None,
        "full": SimpleNamespace(graph=None),
        "gate": SimpleNamespace(frames=FRAMES),
    }
    return SimpleNamespace(**{**fields, **changes})


def measure(monkeypatch: pytest.MonkeyPatch, fp16: Any, *ratio: float, **changes: Any) -> tuple[Any, list[str]]:
    low, p50, high = ratio or (0.7, 0.71, 0.72)
    monkeypatch.setattr(timing, "time_in_turns", lambda *_: Ratio(p50, low, high, 0.95, (p50,) * 9))
    steps, int8 = Steps(), RowEngine(INT8_LOGITS)
    return against_fp16(int8, INT8_LOGITS, REFERENCE, draft(fp16, **changes), steps), steps.said


def test_int8_that_is_slower_than_fp16_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    fp16 = RowEngine(REFERENCE * np.float32(1.01))
    record, (doing, said) = measure(monkeypatch, fp16, 1.25, 1.28, 1.31)
    assert doing == "timing int8 against fp16"
    assert said == (
        "warning: int8 does not pay on this machine: it takes 1.28 times as long as fp16 (95 % interval 1.25 to 1.31), "
        "and its logits are 20.0 dB less accurate. Convert with precision='fp16'"
    )
    assert (record.time_ratio, record.low, record.high, record.turns, record.images) == (1.28, 1.25, 1.31, 9, 3)
    assert record.sqnr_db == pytest.approx(20, abs=0.01)
    assert record.fp16_sqnr_db == pytest.approx(40, abs=0.01)
    assert fp16.closed


@pytest.mark.parametrize(
    ("ratio", "warned"),
    [((0.7, 0.71, 0.72), False), ((0.84, 0.88, 0.9), False), ((0.86, 0.88, 0.9), True), ((1.0, 1.0, 1.0), True)],
)
def test_a_warning_is_given_where_too_little_gain_is_certain(
    monkeypatch: pytest.MonkeyPatch, ratio: tuple[float, ...], warned: bool
) -> None:
    record, said = measure(monkeypatch, RowEngine(REFERENCE), *ratio)
    assert record.pays is not warned
    assert said[-1].startswith("warning: int8 does not pay on this machine" if warned else "int8 on this machine takes")


@pytest.mark.parametrize(
    ("fp16_factor", "warned", "accuracy"),
    [
        (1.12, True, "its logits are 1.6 dB more accurate"),
        (1.2, False, "its logits are 6.0 dB more accurate"),
        (np.inf, False, "the logits of fp16 are not finite"),
    ],
)
def test_an_fp16_that_computes_worse_is_no_alternative(
    monkeypatch: pytest.MonkeyPatch, fp16_factor: float, warned: bool, accuracy: str
) -> None:
    record, said = measure(monkeypatch, RowEngine(REFERENCE * np.float32(fp16_factor)), 1.2, 1.2, 1.2)
    assert record.pays is not warned
    assert accuracy in said[-1]


def test_nothing_is_said_of_times_that_other_programs_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    fp16 = RowEngine(REFERENCE)
    record, said = measure(monkeypatch, fp16, 0.9, 1.3, 1.9)
    assert record is None
    assert fp16.closed
    assert said[-1].startswith("note: whether int8 is faster than fp16 here is not known")


@pytest.mark.parametrize("changes", [{"precision": "fp16"}, {"precision": "fp8"}, {"choice": "made by auto"}])
def test_other_precisions_and_auto_are_not_timed(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    assert measure(monkeypatch, AssertionError("opened"), **changes) == (None, [])


def test_where_this_machine_does_not_stand_for_the_device_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure(monkeypatch, None) == (None, [])


def test_an_fp16_that_does_not_compile_leaves_the_bundle_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    record, said = measure(monkeypatch, EngineError("no memory left"))
    assert record is None
    assert said == ["warning: int8 is not timed against fp16: no memory left"]


def turns(monkeypatch: pytest.MonkeyPatch, milliseconds: dict[Any, Any], seconds_a_turn: float) -> Ratio:
    """Time two engines whose turns have given times."""
    times, nothing = {engine: iter(each) for engine, each in milliseconds.items()}, np.zeros(1)
    now = [0.0]

    def turn(engine: Any) -> Samples:
        now[0] += seconds_a_turn / 2
        return Samples(nothing.astype(np.int64), np.array([next(times[engine]) * 1e6]), nothing, nothing, nothing)

    monkeypatch.setattr(timing, "_turn", turn)
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return timing.time_in_turns(*milliseconds)


def test_turns_end_when_the_ratio_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = turns(monkeypatch, {"int8": [3.0] * 1000, "fp16": [2.0] * 1000}, seconds_a_turn=0.001)
    assert (ratio.p50, ratio.low, ratio.high, len(ratio.rounds)) == (1.5, 1.5, 1.5, timing.LEAST_TURNS)


def test_turns_that_differ_go_on_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    uneven = {"int8": [3.0, 4.0] * 500, "fp16": [2.0] * 1000}
    assert len(turns(monkeypatch, uneven, seconds_a_turn=0.125).rounds) == timing.SECONDS / 0.125
    assert len(turns(monkeypatch, uneven, seconds_a_turn=60).rounds) == timing.LEAST_TURNS


def test_both_engines_run_in_every_turn_and_before_it() -> None:
    int8, fp16 = (SimpleNamespace(runs=0) for _ in range(2))

    def counted(engine: Any) -> Any:
        def run() -> None:
            engine.runs += 1

        engine.run = run
        return engine

    ratio = timing.time_in_turns(counted(int8), counted(fp16))
    assert len(ratio.rounds) >= timing.LEAST_TURNS
    assert min(int8.runs, fp16.runs) >= 2 * len(ratio.rounds)
