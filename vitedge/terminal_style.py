"""Colours on terminals: whether a stream gets any, and the few that are used.

``NO_COLOR`` (no-color.org) goes before ``FORCE_COLOR`` (force-color.org), both before ``TERM=dumb``. A terminal without
control sequences gets plain lines.
"""

from __future__ import annotations

import os
import re
from typing import Literal, TextIO, cast

Style = Literal["error", "warning", "hint", "time"]

_CODES: dict[Style, str] = {"error": "1;31", "warning": "33", "hint": "36", "time": "2"}
_STAMP = re.compile(r"\[ *\d+\.\d s\] ")
_WORD = re.compile(r"(?P<error>error:)|(?P<warning>(?:warning|note):)|(?P<hint>  (?:expected|fix):)")


def is_live(stream: TextIO) -> bool:
    """Return whether lines of a stream can be redrawn: it is a terminal that knows control sequences."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_color(stream: TextIO) -> bool:
    """Return whether text on a stream is coloured."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_live(stream)


def mark(text: str, stream: TextIO) -> str:
    """Colour what each line begins with, such as ``error:`` or ``  fix:``, if the stream gets colours."""
    if not has_color(stream):
        return text
    return "".join(_marked(line) for line in text.splitlines(keepends=True))


def _marked(line: str) -> str:
    stamp = _STAMP.match(line)
    if stamp is not None:
        return f"{_styled(stamp[0], 'time')}{_marked(line[stamp.end() :])}"
    word = _WORD.match(line)
    if word is None:
        return line
    return f"{_styled(word[0], cast('Style', word.lastgroup))}{line[word.end() :]}"


def _styled(text: str, style: Style) -> str:
    return f"\033[{_CODES[style]}m{text}\033[0m"
