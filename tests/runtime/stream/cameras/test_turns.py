"""No writer starves, and none exceeds its rate."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.runtime.stream.cameras.turns import Turns

NAMES = ("door", "yard", "gate", "roof")
TURN = "turn"


def turns_of(*names: str, rate: float | None = None) -> Turns[int]:
    return Turns(dict.fromkeys(names, rate))


def next_of(turns: Turns[int]) -> tuple[str, int] | None:
    """Take the next turn, as the queue does."""
    taken = next(turns.waiting(), None)
    if taken is not None:
        turns.take(taken[0])
    return taken


def offer(turns: Turns[int], name: str, value: int) -> None:
    if turns.replace(name, value) is None:
        turns.put(name, value, 0.0)


class TestFairness:
    @given(st.lists(st.sampled_from([*NAMES, TURN, TURN]), max_size=200))
    def test_a_waiting_writer_sees_at_most_one_turn_of_each_other(self, events: list[str]):
        turns = turns_of(*NAMES)
        seen: dict[str, list[str]] = {}
        for value, event in enumerate(events):
            if event != TURN:
                offer(turns, event, value)
                seen.setdefault(event, [])
                continue
            taken = next_of(turns)
            assert (taken is None) == (not seen)
            if taken is not None:
                del seen[taken[0]]
            for others in seen.values():
                others.append(taken[0])
                assert len(others) == len(set(others)) <= len(NAMES) - 1

    @given(st.lists(st.sampled_from([*NAMES, TURN]), max_size=200))
    def test_the_writer_who_has_waited_longest_is_next(self, events: list[str]):
        turns = turns_of(*NAMES)
        last = {name: place - len(NAMES) for place, name in enumerate(NAMES)}
        waiting: set[str] = set()
        for now, event in enumerate(events):
            if event != TURN:
                offer(turns, event, now)
                waiting.add(event)
            elif waiting:
                expected = min(waiting, key=lambda name: last[name])
                taken = next_of(turns)
                assert taken is not None
                assert taken[0] == expected
                last[expected] = now
                waiting.remove(expected)

    def test_a_writer_of_many_values_gets_every_second_turn(self):
        turns = turns_of("fast", "slow")
        order = []
        for value in range(100):
            for _ in range(10):
                offer(turns, "fast", value)
            offer(turns, "slow", value)
            order.append(next_of(turns)[0])
        assert order.count("fast") == order.count("slow") == 50

    def test_the_newest_value_is_taken(self):
        turns = turns_of("door")
        for value in range(3):
            offer(turns, "door", value)
        assert (next_of(turns), next_of(turns)) == (("door", 2), None)

    def test_a_dropped_value_costs_no_place(self):
        turns = turns_of("door", "yard")
        offer(turns, "door", 0)
        turns.drop("door")
        assert len(turns) == 0
        offer(turns, "yard", 1)
        offer(turns, "door", 2)
        assert next_of(turns) == ("door", 2)


def accepted(arrivals: list[float], rate: float) -> list[float]:
    """Times at which a writer's values are let in, if they are taken at once."""
    turns: Turns[int] = turns_of("door", rate=rate)
    times = []
    for now in arrivals:
        if turns.is_due("door", now):
            turns.put("door", 0, now)
            turns.take("door")
            times.append(now)
    return times


class TestRate:
    @given(st.lists(st.floats(0.001, 0.5), max_size=300), st.sampled_from([1.0, 4.0, 10.0, 25.0]))
    def test_no_span_of_time_has_more_values_than_it_allows(self, gaps: list[float], rate: float):
        times = accepted(list(accumulate(gaps, initial=100.0)), rate)
        for first, begun in enumerate(times):
            for count, ended in enumerate(times[first:], start=1):
                assert count <= (ended - begun) * rate + 2 + 1e-6

    @pytest.mark.parametrize(("fps", "expected"), [(10.5, 10), (11, 10), (15, 10), (30, 10), (9, 9), (60, 10)])
    def test_a_steady_writer_reaches_its_rate(self, fps: float, expected: float):
        times = accepted([number / fps for number in range(int(60 * fps))], 10.0)
        assert len(times) == pytest.approx(60 * expected, rel=0.01)

    def test_time_that_passed_without_values_is_not_made_up_for(self):
        times = accepted([0.0, *(10.0 + number / 100 for number in range(100))], 10.0)
        assert len([time for time in times if time >= 10.0]) in (10, 11)

    def test_no_limit_lets_all_in(self):
        turns: Turns[int] = turns_of("door")
        assert turns.is_due("door", float("-inf"))
        turns.put("door", 0, 5.0)
        assert turns.early("door", 5.0) == 0.0

    def test_a_writer_that_waits_learns_for_how_long(self):
        turns: Turns[int] = turns_of("door", rate=4.0)
        assert turns.early("door", 100.0) == 0.0
        turns.put("door", 0, 100.0)
        assert turns.is_waiting("door")
        assert turns.early("door", 100.1) == pytest.approx(0.15)
