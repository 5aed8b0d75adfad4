"""Progress on terminals and in files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import pytest

from vitedge import progress
from vitedge.progress import Counters, Item, Silent, Terminal


class Screen(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


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


def test_work_goes_on_where_its_progress_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Screen):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    terminal = Terminal(Full())
    terminal.step("quantizing")
    assert list(terminal.track("abc", total=3, unit="letters")) == ["a", "b", "c"]


def test_a_terminal_counts_and_leaves_a_clean_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    screen = Screen()
    assert list(Terminal(screen).track("abc", total=3, unit="letters")) == ["a", "b", "c"]
    assert "2/3 letters" in screen.getvalue()
    assert "s left" in screen.getvalue()
    assert screen.getvalue().endswith("\r\033[K")


def test_the_line_is_cleaned_when_the_work_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    screen = Screen()
    tracked = Terminal(screen).track("abc", total=3, unit="letters")
    next(tracked)
    with pytest.raises(KeyboardInterrupt):
        tracked.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert screen.getvalue().endswith("\r\033[K")


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
