"""Benchmarks, on a clock that does what it is told: no test here depends on how fast the machine is."""

from __future__ import annotations

import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import check_layout
from hypothesis import given
from hypothesis import strategies as st

from vitedge.bundle.bundle import Bundle
from vitedge.errors import BundleError, UsageError
from vitedge.prediction import StageTimes
from vitedge.report.bench import to_html
from vitedge.runtime.bench import measure as bench_module
from vitedge.runtime.bench import timing as timing_module
from vitedge.runtime.bench.cold_start import ColdStart, cold_start
from vitedge.runtime.bench.measure import BenchReport, Measurement, bench, random_frames
from vitedge.runtime.bench.ratio import median_interval_rank, paired_ratio
from vitedge.runtime.bench.text import latency_ms, to_json, to_text
from vitedge.runtime.bench.timing import Samples, WarmUp, concatenate, settled, time_calls, time_turn, warm_up
from vitedge.runtime.system.machine import MachineState
from vitedge.testing import FAKE_INFO

MS = 1_000_000


class Bench:
    """A clock, and calls that take as long on it as they are told."""

    def __init__(self) -> None:
        self.now = 5 * MS

    def clock(self) -> int:
        return self.now

    def call(self, milliseconds: Iterable[float]) -> Callable[[], StageTimes]:
        durations: Iterator[float] = iter(milliseconds)

        def call() -> StageTimes:
            duration = next(durations)
            self.now += round(duration * MS)
            return StageTimes(preprocess=0.25 * duration, infer=0.7 * duration, postprocess=0.05 * duration)

        return call

    def seconds(self) -> Iterator[float]:
        """What the clock shows, whenever it is asked."""
        while True:
            yield self.now / 1e9

    def samples(self, *milliseconds: float) -> Samples:
        return time_calls(self.call(milliseconds), seconds=0, at_least=len(milliseconds), clock=self.clock)


@pytest.fixture
def timed() -> Bench:
    return Bench()


def measurement(samples: Samples, *, settled: bool = True, cold: ColdStart | None = None) -> Measurement:
    return Measurement("some.bundle", "some_model", FAKE_INFO, WarmUp(30, settled), samples, cold)


def report(*samples: Samples, **changes: Any) -> BenchReport:
    measured = [measurement(each) for each in samples]
    other = measured[1] if len(measured) > 1 else None
    ratio = paired_ratio([samples[0]] * 8, [samples[1]] * 8) if other else None
    machine = MachineState(governors="unavailable", load_average=0.25, cpus=2)
    return BenchReport(measured[0], other, ratio, (720, 1280), None, machine)


class TestCollect:
    def test_it_calls_until_the_time_is_over(self, timed: Bench) -> None:
        samples = time_calls(timed.call(itertools.repeat(10)), seconds=1.0, clock=timed.clock)
        assert len(samples) == 100
        assert samples.total.tolist() == [10 * MS] * 100
        assert np.diff(samples.begun).tolist() == [10 * MS] * 99

    def test_it_calls_often_enough_however_long_that_takes(self, timed: Bench) -> None:
        samples = time_calls(timed.call(itertools.repeat(5000)), seconds=1.0, at_least=7, clock=timed.clock)
        assert len(samples) == 7

    def test_it_keeps_every_nanosecond_and_every_stage(self, timed: Bench) -> None:
        samples = timed.samples(1.234567, 2.000001, 900.0)
        assert samples.total.tolist() == [1_234_567, 2_000_001, 900_000_000]
        assert samples.infer.tolist() == [0.7 * 1.234567, 0.7 * 2.000001, 0.7 * 900.0]

    def test_an_error_of_the_call_ends_it(self, timed: Bench) -> None:
        with pytest.raises(KeyError):
            time_calls(lambda: {}["no"], seconds=1, clock=timed.clock)  # type: ignore[return-value]


class TestWarmUp:
    def test_it_ends_when_three_windows_agree(self, timed: Bench) -> None:
        warmed = warm_up(timed.call(itertools.repeat(10)), limit=60, clock=timed.clock)
        assert warmed == WarmUp(iterations=150, settled=True)

    def test_it_outlasts_slow_first_calls(self, timed: Bench) -> None:
        falling = itertools.chain((100 - 0.3 * count for count in range(300)), itertools.repeat(10))
        warmed = warm_up(timed.call(falling), limit=60, clock=timed.clock)
        assert warmed.settled
        assert warmed.iterations > 300

    def test_it_gives_up_at_the_limit_and_says_so(self, timed: Bench) -> None:
        """Windows of half a second that alternate between 10 and 20 ms never agree."""
        restless = itertools.cycle([10.0] * 50 + [20.0] * 25)
        begun = timed.now
        warmed = warm_up(timed.call(restless), limit=5, clock=timed.clock)
        assert not warmed.settled
        assert 5e9 <= timed.now - begun <= 6e9

    def test_short_limits_get_short_windows(self, timed: Bench) -> None:
        warmed = warm_up(timed.call(itertools.repeat(1)), limit=0.6, clock=timed.clock)
        assert warmed == WarmUp(iterations=300, settled=True)

    @pytest.mark.parametrize(
        ("medians", "expected"),
        [
            ([], False),
            ([1, 1], False),
            ([1, 1, 1], True),
            ([1, 1.019, 1], True),
            ([1, 1.021, 1], False),
            ([2, 1, 1], False),
            ([9, 2, 1, 1.01, 1], True),
        ],
    )
    def test_settled_looks_at_the_last_three_windows(self, medians: list[float], expected: bool) -> None:
        assert settled(medians) is expected


class TestFigures:
    def test_percentiles_come_from_raw_times_and_nothing_is_clipped(self, timed: Bench) -> None:
        figures = latency_ms(timed.samples(*[1.0000004] * 98, 50.0, 100.0))
        assert figures["p50"] == figures["min"] == 1.0
        assert figures["p99"] == pytest.approx(50.5)
        assert figures["mean"] == pytest.approx((98 + 150) / 100)

    @given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=50))
    def test_percentiles_are_in_order(self, milliseconds: list[float]) -> None:
        figures = latency_ms(Bench().samples(*milliseconds))
        assert figures["min"] <= figures["p50"] <= figures["p90"] <= figures["p99"]
        assert figures["min"] <= figures["mean"] * (1 + 1e-12)  # the sum of equal times rounds

    def test_throughput_counts_n_calls_over_the_time_of_n_calls(self, timed: Bench) -> None:
        assert measurement(timed.samples(*[20.0] * 5)).throughput_fps == 50.0

    def test_drift_compares_the_ends(self, timed: Bench) -> None:
        assert timed.samples(*[10.0] * 30, *[5.0] * 30, *[11.0] * 30).drift == pytest.approx(0.1)
        assert timed.samples(1.0, 9.0).drift == 0.0

    @pytest.mark.parametrize(
        ("times", "settled", "stable"),
        [([10.0] * 9, True, True), ([10.0] * 9, False, False), ([10.0] * 6 + [12.0] * 3, True, False)],
    )
    def test_stable_means_settled_and_without_drift(
        self, timed: Bench, times: list[float], settled: bool, stable: bool
    ) -> None:
        assert measurement(timed.samples(*times), settled=settled).stable is stable

    def test_joined_rounds_keep_every_call_in_order(self, timed: Bench) -> None:
        together = concatenate([timed.samples(1.0, 2.0), timed.samples(3.0)])
        assert together.total.tolist() == [MS, 2 * MS, 3 * MS]
        assert np.all(np.diff(together.begun) > 0)


class TestRatio:
    def take_turns(self, timed: Bench, *costs: Callable[[float], float]) -> list[list[Samples]]:
        """Twenty rounds of a tenth of a second each; a cost may depend on the seconds that have passed."""
        calls = [timed.call(map(cost, timed.seconds())) for cost in costs]
        rounds: list[list[Samples]] = [[] for _ in costs]
        for _ in range(20):
            for call, samples in zip(calls, rounds, strict=True):
                samples.append(time_turn(call, seconds=0.1, settling=3, clock=timed.clock))
        return rounds

    def test_a_bundle_against_itself_is_1(self, timed: Bench) -> None:
        ratio = paired_ratio(*self.take_turns(timed, lambda _: 2.0, lambda _: 2.0))
        assert (ratio.p50, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
        assert len(ratio.rounds) == 20

    def test_twice_as_slow_is_2(self, timed: Bench) -> None:
        assert paired_ratio(*self.take_turns(timed, lambda _: 4.0, lambda _: 2.0)).p50 == 2.0

    def test_a_machine_that_slows_down_by_half_does_not_hide_or_make_a_difference(self, timed: Bench) -> None:
        def drifting(seconds: float) -> float:
            return 2.0 + 0.25 * seconds

        same = paired_ratio(*self.take_turns(timed, drifting, drifting))
        assert same.p50 == pytest.approx(1.0, abs=0.015)
        slower = paired_ratio(*self.take_turns(timed, lambda now: 1.1 * drifting(now), drifting))
        assert slower.p50 == pytest.approx(1.1, abs=0.02)

    def test_calls_right_after_the_change_are_not_counted(self, timed: Bench) -> None:
        """The first three of each turn are ten times slower; none of them may be among the samples."""
        samples = time_turn(timed.call([20.0] * 3 + [2.0] * 100), seconds=0.02, settling=3, clock=timed.clock)
        assert samples.total.tolist() == [2 * MS] * 10

    def test_the_interval_of_the_median_is_the_published_one(self) -> None:
        """Tables of the sign-test interval: ranks 2 of 9, 6 of 20 and 10 of 30 (Hollander and Wolfe, 1999)."""
        for count, rank, confidence in ((9, 2, 0.9609), (20, 6, 0.9586), (30, 10, 0.9572)):
            found, really = median_interval_rank(count)
            assert found == rank
            assert really == pytest.approx(confidence, abs=1e-4)

    @given(st.integers(1, 200))
    def test_the_interval_covers_what_it_says_and_no_rank_more_would(self, count: int) -> None:
        rank, confidence = median_interval_rank(count)
        outside = sum(math.comb(count, below) for below in range(rank)) * 0.5**count
        assert confidence == pytest.approx(max(0.0, 1 - 2 * outside))
        assert 1 <= rank <= (count + 1) // 2
        assert confidence >= 0.95 or rank == 1
        one_more = outside + math.comb(count, rank) * 0.5**count
        assert 1 - 2 * one_more < 0.95 or rank == (count + 1) // 2

    def test_the_interval_holds_the_true_median_as_often_as_it_says(self) -> None:
        generator = np.random.default_rng(1)
        rank, confidence = median_interval_rank(20)
        drawn = np.sort(generator.lognormal(0.0, 1.0, (20_000, 20)), axis=1)
        held = np.mean((drawn[:, rank - 1] <= 1.0) & (drawn[:, -rank] >= 1.0))
        assert held == pytest.approx(confidence, abs=0.006)


class TestReport:
    KEYS = (
        "version", "latency_ms", "stages_ms", "throughput_fps", "iterations", "warmup_iterations", "stable", "device",
        "effective_precision", "cold_start_ms",
    )  # fmt: skip

    def test_the_json_has_the_keys_that_scripts_rely_on(self, timed: Bench) -> None:
        document = json.loads(json.dumps(to_json(report(timed.samples(*[2.0] * 20))), allow_nan=False))
        assert set(self.KEYS) <= set(document)
        assert set(document["latency_ms"]) == {"mean", "p50", "p90", "p99", "min"}
        assert set(document["stages_ms"]) == {"preprocess", "infer", "postprocess"}
        assert all(set(stage) == {"p50", "p99"} for stage in document["stages_ms"].values())
        assert document["iterations"] == 20
        assert document["throughput_fps"] == 500.0
        assert document["frame_size"] == {"width": 1280, "height": 720}
        assert "against" not in document

    def test_a_comparison_holds_both_and_their_ratio(self, timed: Bench) -> None:
        document = to_json(report(timed.samples(*[4.0] * 20), timed.samples(*[2.0] * 20)))
        assert document["latency_ms"]["p50"] == 4.0
        assert document["against"]["latency_ms"]["p50"] == 2.0
        assert document["ratio"]["p50"] == 2.0
        assert document["ratio"]["interval"] == [2.0, 2.0]
        assert len(document["ratio"]["rounds"]) == 8

    def test_a_cold_start_that_was_not_measured_is_null_and_never_0(self, timed: Bench) -> None:
        document = to_json(report(timed.samples(2.0)))
        assert document["cold_start_ms"] is None
        assert "cold start unavailable" in to_text(report(timed.samples(2.0)))

    def test_the_table_shows_the_percentiles_of_every_stage(self, timed: Bench) -> None:
        text = to_text(report(timed.samples(*[2.0] * 20)))
        rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("  ")}
        assert rows["latency"] == ["2.000"] * 5
        assert rows["preprocess"] == ["0.500"] * 5
        assert rows["infer"] == ["1.400"] * 5
        assert "governor unavailable" in text
        assert "stable" in text

    def test_the_table_says_why_it_was_not_stable(self, timed: Bench) -> None:
        drifting = report(timed.samples(*[10.0] * 6, *[12.0] * 3))
        assert "NOT stable: drift +20.0 %" in to_text(drifting)


class TestPage:
    def page(self, timed: Bench) -> str:
        tail = [2.0, 2.1, 2.2] * 40 + [90.0]
        return to_html(report(timed.samples(*tail), timed.samples(*[3.0, 3.1] * 40)))

    def test_it_is_well_formed_and_loads_nothing(self, timed: Bench) -> None:
        page = self.page(timed)
        body = re.search(r"<body>.*</body>", page, re.DOTALL)
        assert body
        ET.fromstring(body[0])
        assert not re.search(r'https?:|src=|href="(?!#)|@import|url\(', page)

    @pytest.mark.timeout(200)
    def test_a_browser_shows_it_on_wide_and_narrow_windows(self, timed: Bench, tmp_path: Path) -> None:
        (tmp_path / "page.html").write_text(self.page(timed), encoding="utf-8")
        check_layout(tmp_path / "page.html")

    def test_it_has_three_plots_of_both_bundles_and_no_number_that_is_none(self, timed: Bench) -> None:
        page = self.page(timed)
        plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
        assert len(plots) == 3
        assert all("series0" in plot and "series1" in plot for plot in plots)
        assert "nan" not in "".join(plots)
        assert "inf" not in "".join(plots)

    def test_the_tail_is_on_the_page(self, timed: Bench) -> None:
        """The one call of 90 ms among 121 has its dot, and all dots lie within the plot."""
        page = self.page(timed)
        dots = re.search(r'class="dot series0" d="([^"]+)"', page)
        assert dots
        heights = [float(y) for y in re.findall(r"M[\d.]+ (-?[\d.]+)h", dots[1])]
        assert len(heights) == 121
        assert min(heights) < 36
        assert sorted(heights)[1] > 150
        assert max(heights) < 260

    def test_names_are_escaped(self, timed: Bench) -> None:
        wicked = measurement(timed.samples(*[1.0, 2.0] * 5))
        object.__setattr__(wicked, "bundle", "<script>alert(1)</script>")
        page = to_html(BenchReport(wicked, None, None, (2, 2), None, MachineState("unavailable", 1.0, 1)))
        assert "<script" not in page

    def test_equal_times_still_make_a_page(self, timed: Bench) -> None:
        assert "nan" not in to_html(report(timed.samples(*[2.0] * 10)))
        assert "nan" not in to_html(report(timed.samples(2.0)))

    def test_many_calls_are_thinned_but_the_slow_ones_stay(self, timed: Bench) -> None:
        times = np.full(20_000, 1.0)
        times[[17, 9_999, 15_001]] = 50.0
        page = to_html(report(timed.samples(*times)))
        assert "evenly spaced" in page
        heights = [float(y) for y in re.findall(r"M[\d.]+ (-?[\d.]+)h", page)]
        assert sum(height < 36 for height in heights) == 3


class TestBench:
    """The real thing, briefly: what it says is checked, how fast it is is not."""

    @pytest.fixture(autouse=True)
    def brief(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(timing_module, "ROUNDS", 6)

    def test_one_bundle(self, tiny_bundle: Bundle) -> None:
        found = bench(tiny_bundle.path, seconds=0.05, frame_size=(40, 60), threads=1)
        figures = to_json(found)
        assert figures["model"] == "dominant_colour"
        assert figures["engine"] == "openvino"
        assert figures["effective_precision"] == "fp32"
        assert figures["latency_ms"]["min"] > 0
        assert figures["iterations"] >= 18
        assert figures["warmup_iterations"] > 0
        assert figures["threads"] == 1
        stages = figures["stages_ms"]
        assert sum(stages[name]["p50"] for name in stages) <= 1.5 * figures["latency_ms"]["p50"]
        assert found.measurement.cold_start is not None
        assert found.measurement.cold_start.load_ms > 0

    def test_two_bundles_take_turns(self, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bench_module, "cold_start", lambda *_, **__: None)
        found = bench(
            tiny_bundle.path, against=tiny_bundle.path, seconds=0.05, frame_size=(32, 32), engine="onnxruntime"
        )
        assert found.against is not None
        assert found.ratio is not None
        assert len(found.ratio.rounds) == 6
        assert found.against.info.name == "onnxruntime"
        ours, theirs = (each.samples.begun for each in (found.measurement, found.against))
        owners = np.concatenate([np.zeros(len(ours)), np.ones(len(theirs))])[np.argsort(np.concatenate([ours, theirs]))]
        assert np.count_nonzero(np.diff(owners)) == 11

    @pytest.mark.parametrize(("bundles", "settling"), [(1, 0), (2, 3)])
    def test_only_a_change_of_bundle_needs_settling(
        self, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, bundles: int, settling: int
    ) -> None:
        asked: list[int] = []

        def watched(call: Callable[[], StageTimes], *, seconds: float, settling: int) -> Samples:
            asked.append(settling)
            return time_turn(call, seconds=seconds, settling=settling)

        monkeypatch.setattr(bench_module, "cold_start", lambda *_, **__: None)
        monkeypatch.setattr(timing_module, "time_turn", watched)
        against = tiny_bundle.path if bundles == 2 else None
        bench(tiny_bundle.path, against=against, seconds=0.01, frame_size=(32, 32))
        assert asked == [settling] * 6 * bundles

    @pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
    def test_a_time_that_cannot_be_is_refused(self, tiny_bundle: Bundle, seconds: float) -> None:
        with pytest.raises(UsageError, match="seconds is"):
            bench(tiny_bundle.path, seconds=seconds)

    @pytest.mark.parametrize("frame_size", [(99_999, 99_999), (10_000, 10_001), (0, 32), (32, -1)])
    def test_a_frame_that_no_picture_could_have_is_refused(
        self, tiny_bundle: Bundle, frame_size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bench_module, "random_frames", lambda *_: pytest.fail("it made frames"))
        with pytest.raises(UsageError, match=f"the frame size is {frame_size[1]}x{frame_size[0]}"):
            bench(tiny_bundle.path, seconds=0.01, frame_size=frame_size)

    def test_a_missing_second_bundle_is_an_error_before_the_first_one_loads(
        self, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bench_module, "load", lambda *_, **__: pytest.fail("it loaded"))
        with pytest.raises(BundleError, match="is not a bundle"):
            bench(tiny_bundle.path, against=tmp_path / "none", seconds=0.01)

    def test_a_cold_start_that_fails_is_none(self, tmp_path: Path) -> None:
        assert cold_start(tmp_path / "none", (10, 10)) is None

    def test_frames_are_of_the_size_asked_for_and_differ(self) -> None:
        frames = random_frames(20, 30)
        assert all((frame.shape, frame.dtype) == ((20, 30, 3), np.uint8) for frame in frames)
        assert not np.array_equal(frames[0], frames[1])
        assert np.array_equal(frames[0], random_frames(20, 30)[0])
