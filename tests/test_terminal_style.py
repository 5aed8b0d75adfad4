"""Which streams get colours, and what is coloured."""

from __future__ import annotations

import io

import pytest

from vitedge.terminal_style import has_color, mark


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(
    ("variables", "stream", "expected"),
    [
        ({}, Screen(), True),
        ({}, io.StringIO(), False),
        ({"NO_COLOR": "1"}, Screen(), False),
        ({"NO_COLOR": ""}, Screen(), True),
        ({"TERM": "dumb"}, Screen(), False),
        ({"FORCE_COLOR": "1"}, io.StringIO(), True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, Screen(), True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, Screen(), False),
    ],
)
def test_who_gets_colours(
    variables: dict[str, str], stream: io.StringIO, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_color(stream) is expected


def test_words_at_the_beginning_of_a_line_are_coloured() -> None:
    assert mark("error: no error: here\n  fix: none\n", Screen()) == (
        "\033[1;31merror:\033[0m no error: here\n\033[36m  fix:\033[0m none\n"
    )
    assert mark("[   1.0 s] warning: few", Screen()) == "\033[2m[   1.0 s] \033[0m\033[33mwarning:\033[0m few"
    assert mark("plain: text\n", Screen()) == "plain: text\n"
    assert mark("error: text\n", io.StringIO()) == "error: text\n"
