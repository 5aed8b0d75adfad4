"""Times of capture: any camera's clock, delays, jumps and drift, as packets come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitedge.runtime.sources.video.clock import (
    DRIFT,
    FARTHEST_BACK_NS,
    LONGEST_BACKLOG_NS,
    SECOND,
    ArrivalClock,
    Clock,
    DeviceClock,
    TimestampClock,
)

MILLISECOND = SECOND // 1000
START = 1_000 * SECOND


class Camera:
    """Sends a packet each ``interval``; its clock and the network are not ours.

    Args:
        clock: is told of the packets.
        interval: nanoseconds between frames.
        origin: timestamp of the first frame.
        drift: seconds a second by which the camera's clock is fast.
    """

    def __init__(self, clock: Clock, *, interval: int = 33 * MILLISECOND, origin: int = 0, drift: float = 0.0) -> None:
        self.clock = clock
        self.now = START
        self.sent = START
        self.interval = interval
        self._stamp = float(origin)
        self._drift = drift

    def frame(self, delay: int = 0, *, waited: int | None = None) -> tuple[int, int]:
        """Send a frame that takes ``delay`` to arrive; return when it was captured, and when the clock says so."""
        captured, stamp = self.sent, round(self._stamp)
        arrived = max(captured + delay, self.now)
        self.clock.arrived(stamp, arrived, max(arrived - self.now, 0) if waited is None else waited)
        said = self.clock.captured(stamp, arrived).at_ns
        self.now = arrived
        self.sent += self.interval
        self._stamp += self.interval * (1 + self._drift)
        return captured, said

    def jump(self, by: int) -> None:
        """Set the camera's clock."""
        self._stamp += by


delays = st.lists(st.integers(0, 400 * MILLISECOND), min_size=20, max_size=120)


@given(delays, st.integers(-(10**15), 10**15), st.integers(5, 200))
def test_a_frame_is_as_old_as_it_came_later_than_the_quickest(jitter: list[int], origin: int, fps: int) -> None:
    camera = Camera(TimestampClock(), interval=SECOND // fps, origin=origin)
    least, told = None, []
    for delay in jitter:
        captured, said = camera.frame(delay)
        effective = camera.now - captured
        least = effective if least is None else min(least, effective)
        assert said <= camera.now
        told.append((captured + least, said))
    leaked = DRIFT * (camera.now - START)
    assert all(abs(right - said) <= leaked + 1 for right, said in told)


@given(delays, st.integers(1, 3))
def test_of_packets_that_a_parser_holds_back(jitter: list[int], behind: int) -> None:
    """A packet is handed out when the one ``behind`` after it arrives."""
    interval = 40 * MILLISECOND
    clock = TimestampClock(behind=behind)
    arrivals: list[int] = []
    for index, delay in enumerate(jitter):
        arrivals.append(max(START + index * interval + delay, arrivals[-1] if arrivals else 0))
    said = []
    for index in range(len(jitter) - behind):
        at = arrivals[index + behind]
        clock.arrived(index * interval, at, MILLISECOND * 2)
        said.append(clock.captured(index * interval, at).at_ns)
    if len(jitter) <= 2 * behind + 1:
        return
    least = min(arrivals[index] - START - index * interval for index in range(behind, len(jitter) - behind))
    right = START + (len(said) - 1) * interval + least
    assert right <= said[-1] <= right + DRIFT * 60 * SECOND


@pytest.mark.parametrize("drift", [-100e-6, 0.0, 100e-6])
def test_clocks_that_drift_stay_together(drift: float) -> None:
    """A day of a camera whose clock goes wrong by 100 ppm, 8.6 s in all; one packet in five is quick."""
    camera = Camera(TimestampClock(), interval=SECOND, drift=drift)
    worst = 0
    for index in range(86_400):
        captured, said = camera.frame(5 * MILLISECOND if index % 5 else 0)
        if index > 60:
            worst = max(worst, abs(said - captured))
    assert worst <= 6 * MILLISECOND


def test_a_queue_that_grows_makes_frames_older() -> None:
    """Decoding is slower than the camera: nothing is waited for, and each frame is 10 ms later than the last."""
    camera = Camera(TimestampClock())
    for _ in range(100):
        camera.frame(waited=20 * MILLISECOND)
    for index in range(500):
        captured, said = camera.frame(index * 10 * MILLISECOND, waited=0)
    assert abs(captured - said) < 10 * MILLISECOND
    assert camera.now - said > 4 * SECOND
    for _ in range(2000):
        captured, said = camera.frame(5 * SECOND, waited=0)
    assert abs(captured - said) < 10 * MILLISECOND, "a queue that is full for a minute is not forgotten"


@given(st.sampled_from([-7 * SECOND, -3600 * SECOND, 5 * SECOND, 3600 * SECOND, -(2**33) * SECOND // 90_000]))
@settings(deadline=None)
def test_a_clock_that_jumps_is_followed(jump: int) -> None:
    camera = Camera(TimestampClock(), origin=10 * SECOND)
    for _ in range(200):
        camera.frame(4 * MILLISECOND)
    camera.jump(jump)
    for index in range(100):
        captured, said = camera.frame(4 * MILLISECOND)
        assert abs(said - captured) <= 6 * MILLISECOND, index


def test_a_timestamp_from_nowhere_does_no_lasting_harm() -> None:
    camera = Camera(TimestampClock())
    for index in range(100):
        if index == 50:
            camera.jump(3600 * SECOND)
        if index == 51:
            camera.jump(-3600 * SECOND)
        captured, said = camera.frame(3 * MILLISECOND)
        assert abs(said - captured) <= 5 * MILLISECOND


def test_frames_of_a_stalled_network_are_old_and_later_ones_fresh() -> None:
    camera = Camera(TimestampClock())
    for _ in range(100):
        camera.frame()
    resumed = camera.now + 5 * SECOND
    captured, said = camera.frame(resumed - camera.sent)
    assert camera.now - said > 4 * SECOND
    while camera.sent < resumed:
        captured, said = camera.frame(0)
        assert abs(said - captured) <= 5 * MILLISECOND
    captured, said = camera.frame()
    assert abs(said - captured) <= 5 * MILLISECOND


def test_a_camera_whose_clock_stood_still_is_fresh_again_after_some_seconds() -> None:
    camera = Camera(TimestampClock())
    for _ in range(100):
        camera.frame()
    camera.sent += 5 * SECOND
    camera.now = camera.sent
    ages = []
    for _ in range(600):
        _, said = camera.frame(MILLISECOND)
        ages.append(camera.now - said)
    assert ages[0] > 4 * SECOND
    assert ages[-1] < 10 * MILLISECOND


@given(st.lists(st.integers(-FARTHEST_BACK_NS + SECOND, SECOND), min_size=5, max_size=50))
def test_no_frame_is_from_the_future(stamps: list[int]) -> None:
    clock = TimestampClock()
    for index, stamp in enumerate(stamps):
        at = START + index * 30 * MILLISECOND
        clock.arrived(stamp, at, MILLISECOND)
        assert clock.captured(stamp, at).at_ns <= at


def test_without_timestamps_a_frame_is_as_old_as_its_reading() -> None:
    for clock in (ArrivalClock(), TimestampClock()):
        clock.arrived(None, START, 20 * MILLISECOND)
        assert clock.captured(None, START) == type(clock.captured(None, START))(START, "arrival")


class TestSender:
    def told(self, behind_by: int, frames: int = 150) -> Iterator[tuple[int, int, str]]:
        """A camera whose packets take 40 ms at least; its clock says so, and is wrong by ``behind_by``."""
        clock = TimestampClock()
        camera = Camera(clock)
        for index in range(frames):
            if index == 5:
                clock.sender_says(START - behind_by)
            captured, _ = camera.frame(40 * MILLISECOND)
            capture = clock.captured(captured - START, camera.now)
            yield captured, capture.at_ns, capture.basis

    def test_it_tells_the_delay_that_all_packets_share(self) -> None:
        *_, (captured, said, basis) = self.told(0)
        assert basis == "sender"
        assert abs(said - captured) <= 2 * MILLISECOND

    @pytest.mark.parametrize("wrong", [-3600 * SECOND, -SECOND, 2 * SECOND, 3600 * SECOND])
    def test_a_clock_that_is_wrong_is_not_believed(self, wrong: int) -> None:
        *_, (captured, said, basis) = self.told(wrong)
        assert basis == "timestamps"
        assert abs(said - captured - 40 * MILLISECOND) <= 2 * MILLISECOND

    def test_it_stays_in_step_when_clocks_drift(self) -> None:
        clock = TimestampClock()
        camera = Camera(clock, interval=SECOND, drift=100e-6)
        clock.sender_says(START)
        for _ in range(20_000):
            captured, said = camera.frame(40 * MILLISECOND)
        assert abs(said - captured) <= 10 * MILLISECOND


class TestBacklog:
    def flags(self, clock: Clock, waiting: int, live: int, *, interval: int = 33 * MILLISECOND) -> list[bool]:
        """Frames that waited are read within a millisecond each; live ones are waited for."""
        found, at = [], START
        for index in range(waiting + live):
            waited = MILLISECOND // 2 if index < waiting else interval - 2 * MILLISECOND
            at += waited + MILLISECOND
            clock.arrived(index * interval, at, waited)
            found.append(clock.backlog)
        return found

    @pytest.mark.parametrize("waiting", [1, 5, 30, 150])
    def test_frames_that_waited_are_backlog_and_no_others(self, waiting: int) -> None:
        for clock in (TimestampClock(), ArrivalClock()):
            assert self.flags(clock, waiting, 50) == [True] * waiting + [False] * 50

    def test_a_camera_that_is_read_from_its_first_frame_has_none(self) -> None:
        assert not any(self.flags(TimestampClock(), 0, 50))

    @pytest.mark.parametrize("delays", [[0], [60, 40, 20, 0], [60, 0], [0, 60, 0]])
    def test_what_comes_before_the_least_delay_is_known_is_backlog(self, delays: list[int]) -> None:
        """Frames that are read late, and then less late, gain on each other as those of a queue do."""
        clock = TimestampClock(settles_ns=250 * MILLISECOND)
        camera = Camera(clock)
        flags = []
        for place in range(40):
            late = delays[min(place, len(delays) - 1)] * MILLISECOND
            camera.frame(late, waited=0 if late else 20 * MILLISECOND)
            flags.append(clock.backlog)
        settled = flags.index(False)
        assert 7 <= settled <= 10
        assert not any(flags[settled:])

    @given(st.lists(st.integers(0, 120 * MILLISECOND), min_size=30, max_size=90))
    def test_a_camera_with_jitter_loses_no_frame_once_it_is_live(self, jitter: list[int]) -> None:
        clock = TimestampClock()
        camera = Camera(clock)
        camera.frame()
        lost = 0
        for index, delay in enumerate(jitter):
            camera.now += MILLISECOND
            camera.frame(delay)
            lost += clock.backlog and index > 10
        assert lost <= 2

    def test_a_decoder_that_is_slower_than_the_camera_gets_its_frames(self) -> None:
        clock = TimestampClock()
        flags = []
        for index in range(60):
            clock.arrived(index * 33 * MILLISECOND, START + index * 40 * MILLISECOND, 0)
            flags.append(clock.backlog)
        assert not any(flags[20:])

    def test_a_recording_that_is_sent_as_fast_as_it_can_is_handed_out_at_last(self) -> None:
        clock = TimestampClock()
        for index in range(6000):
            clock.arrived(index * 33 * MILLISECOND, START + index * 2 * MILLISECOND, 0)
            if clock.backlog:
                last = index * 2 * MILLISECOND
        assert last <= LONGEST_BACKLOG_NS
        assert not clock.backlog

    def test_a_long_queue_is_emptied_though_the_first_packet_has_no_time(self) -> None:
        """As by RTSP; 30 s that were not read, at twice the speed of the camera."""
        clock = TimestampClock()
        clock.arrived(None, START, 0)
        flags = []
        for index in range(500):
            clock.arrived(index * 33 * MILLISECOND, START + index * 15 * MILLISECOND, 0)
            flags.append(clock.backlog)
        assert all(flags)

    def test_a_pause_of_the_reader_does_not_end_it_for_good(self) -> None:
        """The machine was busy with something else while two of a second's frames were read."""
        clock = TimestampClock()
        flags = []
        at = START
        for index in range(30):
            waited = 12 * MILLISECOND if index == 4 else 0
            at += waited + MILLISECOND
            clock.arrived(index * 33 * MILLISECOND, at, waited)
            flags.append(clock.backlog)
        assert flags[:4] == [True] * 4
        assert flags[6:] == [True] * 24


class TestDevice:
    def test_the_drivers_time_is_the_time_of_capture(self) -> None:
        clock = DeviceClock()
        clock.arrived(START - 12 * MILLISECOND, START, 20 * MILLISECOND)
        capture = clock.captured(START - 12 * MILLISECOND, START)
        assert (capture.at_ns, capture.basis) == (START - 12 * MILLISECOND, "device")
        assert not clock.backlog

    def test_a_frame_from_before_reading_began_is_backlog(self) -> None:
        clock = DeviceClock()
        clock.arrived(START - 2 * SECOND, START, MILLISECOND)
        assert clock.backlog
        clock.arrived(START + 20 * MILLISECOND, START + 30 * MILLISECOND, MILLISECOND)
        assert not clock.backlog

    @pytest.mark.parametrize("shift", [-60 * SECOND, 3600 * SECOND])
    def test_a_driver_with_another_clock(self, shift: int) -> None:
        clock = DeviceClock()
        for index in range(50):
            at = START + index * 33 * MILLISECOND
            clock.arrived(at + shift, at, 30 * MILLISECOND)
            capture = clock.captured(at + shift, at)
        assert capture.basis == "timestamps"
        assert abs(capture.at_ns - at) <= MILLISECOND
