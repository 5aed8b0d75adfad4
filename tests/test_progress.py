"""Progress on terminals and in files."""

from __future__ import annotations

import io
import itertools
import logging
import sys
import threading
from collections.abc import Iterable, Iterator

import pytest

from vitedge import progress, progress_bars
from vitedge.progress import CHECK_SECONDS, REPORT_SECONDS, Counters, Guarded, Item, Silent, Terminal, reporting


class Screen(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture(params=[progress_bars.RichBars, progress_bars.RedrawnLine])
def bars(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rich, as on a host, and without, as on a device."""
    monkeypatch.setattr(progress, "open_bars", request.param)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)


CLEAR = ("\r\033[K", "\r\033[2K\033[?25h\r")


def test_silent_hands_the_items_on() -> None:
    silent = Silent()
    silent.step("work")
    assert list(silent.track(iter("abc"), total=3, unit="letters")) == ["a", "b", "c"]


def test_a_file_gets_a_line_a_step_and_no_counter() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.step("quantizing")
    assert list(terminal.track(range(5), total=5, unit="images")) == [0, 1, 2, 3, 4]
    assert stream.getvalue().endswith("quantizing\n")
    assert stream.getvalue().count("\n") == 1
    assert "\r" not in stream.getvalue()


def test_a_step_is_one_line_whatever_it_names() -> None:
    stream = io.StringIO()
    Terminal(stream).step("reading \x1b[2Jphoto\n.png")
    assert stream.getvalue().endswith(" reading \\x1b[2Jphoto\\n.png\n")


@pytest.mark.usefixtures("bars")
def test_work_goes_on_where_its_progress_cannot_be_written() -> None:
    class Full(Screen):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    terminal = Terminal(Full())
    terminal.step("quantizing")
    assert list(terminal.track("abc", total=3, unit="letters")) == ["a", "b", "c"]


@pytest.mark.usefixtures("bars")
def test_a_terminal_counts_and_leaves_a_clean_line() -> None:
    screen = Screen()
    assert list(Terminal(screen).track("abc", total=3, unit="letters")) == ["a", "b", "c"]
    assert "2/3 letters" in screen.getvalue()
    assert "s left" in screen.getvalue()
    assert screen.getvalue().endswith(CLEAR)


@pytest.mark.usefixtures("bars")
def test_the_line_is_cleaned_when_the_work_raises() -> None:
    screen = Screen()
    tracked = Terminal(screen).track("abc", total=3, unit="letters")
    next(tracked)
    with pytest.raises(KeyboardInterrupt):
        tracked.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert screen.getvalue().endswith(CLEAR)


def test_a_line_within_a_step_stands_above_the_bar(bars: None) -> None:
    screen = Screen()
    terminal = Terminal(screen)
    terminal.step("reading")
    for item in terminal.track("ab", total=2, unit="letters"):
        terminal.step(f"note: {item}")
    lines = screen.getvalue().splitlines()
    assert any(line.endswith("] note: b") for line in lines)
    assert "\033[?25l" not in screen.getvalue().rpartition("\033[?25h")[2], "the cursor stays hidden"


def test_without_rich_a_terminal_redraws_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert isinstance(progress_bars.open_bars(Screen()), progress_bars.RedrawnLine)


def test_a_terminal_that_knows_no_control_sequences_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    screen = Screen()
    terminal = Terminal(screen)
    terminal.step("reading")
    list(terminal.track("abc", total=3, unit="letters"))
    assert "\033" not in screen.getvalue()
    assert "\r" not in screen.getvalue()


def test_the_step_goes_on_after_a_note() -> None:
    stream, clock = io.StringIO(), Clock()
    terminal = Terminal(stream, clock=clock)
    terminal.step("calibrating")
    terminal.step("warning: few images")
    clock.now = 60.0
    terminal.remind()
    assert stream.getvalue().splitlines()[-1] == "[  60.0 s] still calibrating"


def test_the_time_of_each_step() -> None:
    clock = Clock()
    terminal = Terminal(io.StringIO(), clock=clock)
    terminal.step("one")
    clock.now = 2.0
    terminal.step("note: within one")
    clock.now = 3.0
    terminal.step("two")
    clock.now = 7.0
    assert terminal.times() == (("one", 3.0), ("two", 4.0))


def test_counters_of_work_that_tells_its_steps() -> None:
    seen: list[str] = []

    class Recorded(Silent):
        def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
            seen.append(f"{unit} of {total}")
            try:
                for item in items:
                    seen.append(unit)
                    yield item
            finally:
                seen.append(f"end of {unit}")

    with Counters(Recorded()) as counters:
        counters.begin(1, total=2, unit="outer")
        counters.advance(1)
        counters.begin(2, total=1, unit="inner")
        counters.advance(2)
        counters.begin(2, total=3, unit="again")
        counters.advance(2)
        counters.advance("unknown")
        counters.end("unknown")
    assert seen == [
        "outer of 2", "outer", "inner of 1", "inner", "end of inner", "again of 3", "again", "end of again",
        "end of outer",
    ]  # fmt: skip


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def counted(clock: Clock, items: int, seconds: float) -> Iterator[int]:
    """Items that each take so long."""
    for item in range(items):
        yield item
        clock.now += seconds


class TestWithoutATerminal:
    def test_the_step_comes_at_once_and_a_line_now_and_then(self) -> None:
        stream, clock = io.StringIO(), Clock()
        terminal = Terminal(stream, clock=clock)
        terminal.step("quantizing")
        assert stream.getvalue() == "[   0.0 s] quantizing\n"
        list(terminal.track(counted(clock, 100, 1.0), total=100, unit="images"))
        assert stream.getvalue().splitlines()[1:] == [
            "[  25.0 s] still quantizing: 25/100 images, 75 s left",
            "[  50.0 s] still quantizing: 50/100 images, 50 s left",
            "[  75.0 s] still quantizing: 75/100 images, 25 s left",
        ]

    def test_no_silence_is_longer_than_half_a_minute_in_one_piece_of_work(self) -> None:
        stream, clock = io.StringIO(), Clock()
        terminal = Terminal(stream, clock=clock)
        terminal.remind()
        terminal.step("compiling")
        for _ in range(100):
            clock.now += CHECK_SECONDS
            terminal.remind()
        moments = [float(line[1:8]) for line in stream.getvalue().splitlines()]
        assert max(late - early for early, late in itertools.pairwise(moments)) <= 30.0
        assert stream.getvalue().splitlines()[-1] == "[ 500.0 s] still compiling"
        assert CHECK_SECONDS + REPORT_SECONDS <= 30.0

    @pytest.mark.parametrize("kind", [io.StringIO, Screen])
    def test_a_step_that_is_usually_short_is_named_if_it_is_not(self, kind: type[io.StringIO]) -> None:
        stream, clock = kind(), Clock()
        terminal = Terminal(stream, clock=clock)
        terminal.prepare("loading tiny.bundle")
        assert stream.getvalue() == ""
        for clock.now in (5.0, 10.0):
            terminal.remind()
        assert stream.getvalue() == "[   5.0 s] still loading tiny.bundle\n"
        terminal.step("building")
        terminal.prepare("loading another")
        clock.now = 60.0
        terminal.remind()
        assert ("still building" in stream.getvalue()) == (kind is io.StringIO)
        assert "another" not in stream.getvalue()

    def test_a_new_step_says_nothing_of_the_one_before(self) -> None:
        stream, clock = io.StringIO(), Clock()
        terminal = Terminal(stream, clock=clock)
        terminal.step("one")
        next(iter(terminal.track("ab", total=2, unit="letters")))
        terminal.step("two")
        clock.now = 60.0
        terminal.remind()
        assert stream.getvalue().splitlines()[-1] == "[  60.0 s] still two"

    @pytest.mark.timeout(30)
    def test_reporting_reminds_until_it_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reminded = threading.Event()
        monkeypatch.setattr(progress, "CHECK_SECONDS", 0.0)
        monkeypatch.setattr(Terminal, "remind", lambda _: reminded.set())
        with reporting(Terminal(io.StringIO())):
            assert reminded.wait(20)
        assert not [thread for thread in threading.enumerate() if thread.name == "vitedge-progress"]

    def test_reporting_leaves_others_alone(self) -> None:
        with reporting(Silent()):
            assert not [thread for thread in threading.enumerate() if thread.name == "vitedge-progress"]


def test_a_terminal_needs_no_reminder() -> None:
    screen, clock = Screen(), Clock()
    terminal = Terminal(screen, clock=clock)
    terminal.step("compiling")
    clock.now = 99.0
    terminal.remind()
    assert screen.getvalue().count("\n") == 1


class Broken(Silent):
    """A bar that fails at every call."""

    def __init__(self) -> None:
        self.calls = 0

    def step(self, text: str) -> None:
        self.calls += 1
        raise ValueError("no such bar")

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
        self.calls += 1
        raise ValueError("no such bar")


class TestGuarded:
    def test_the_work_goes_on_without_a_broken_progress(self, caplog: pytest.LogCaptureFixture) -> None:
        broken = Broken()
        guarded = Guarded(broken)
        with caplog.at_level(logging.WARNING, "vitedge"):
            guarded.step("one")
            guarded.step("two")
            assert list(guarded.track("abc", total=3, unit="letters")) == ["a", "b", "c"]
        assert broken.calls == 2
        assert set(caplog.messages) == {"the progress cannot be shown any more; the work goes on"}

    def test_what_the_work_raises_is_raised(self) -> None:
        def items() -> Iterator[int]:
            yield 1
            raise OSError("the disk")

        with pytest.raises(OSError, match="the disk"):
            list(Guarded(Silent()).track(items(), total=2, unit="files"))

    def test_an_interrupt_passes(self) -> None:
        class Interrupted(Silent):
            def step(self, text: str) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Guarded(Interrupted()).step("one")


@pytest.mark.timeout(60)
def test_counters_may_be_called_from_any_thread() -> None:
    """As TensorRT calls its progress monitor; generators would refuse two threads at once."""
    failed: list[str] = []

    class Recorded(Silent):
        def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
            for number, item in enumerate(items):
                sum(range(200))
                if number >= 0:
                    yield item

    def work(counters: Counters) -> None:
        try:
            for number in range(300):
                counters.begin(number % 3, total=9, unit="steps")
                for _ in range(5):
                    counters.advance(number % 3)
                counters.end(number % 3)
        except Exception as error:  # noqa: BLE001
            failed.append(repr(error))

    with Counters(Recorded()) as counters:
        threads = [threading.Thread(target=work, args=(counters,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not counters._guard._failed
    assert failed == []
