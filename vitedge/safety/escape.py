"""Strangers' text, written into other languages: one function each. Control characters never pass.

Labels, names and paths come from checkpoints, bundles and folders. Every place that writes them into one of these
languages goes through its function here.
"""

from __future__ import annotations

import html as _html
import json as _json
import re

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_CONTROLS_BUT_BREAKS = re.compile(_CONTROLS.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def terminal(text: str) -> str:
    r"""Replace what moves the cursor, colours, hides or reorders text by its escape, such as ``\x1b``."""
    return _CONTROLS.sub(_code, text)


def terminal_lines(text: str) -> str:
    """``terminal`` for text of several lines, whose line breaks and tabs stay."""
    return _CONTROLS_BUT_BREAKS.sub(_code, text)


def _code(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def html(text: str) -> str:
    """Text of an HTML element, or of an attribute in double or single quotes."""
    return _html.escape(terminal_lines(text), quote=True)


def json(value: object) -> str:
    """One line of JSON, in ASCII."""
    return _json.dumps(value, ensure_ascii=True, allow_nan=False)


def ini(text: str) -> str:
    """The value of a key of an INI file (GLib's key file): one line, no comment, no section."""
    return re.sub(r"[;#\[\]=\\]", "_", terminal(text)).strip()


def pbtxt(text: str) -> str:
    """The inside of a double-quoted string of protobuf's text format."""
    return "".join(_pbtxt_character(character) for character in text)


def _pbtxt_character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if _CONTROLS.match(character):
        return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "backslashreplace"))
    return character


def prometheus(text: str) -> str:
    """The inside of a double-quoted label value of Prometheus' text format."""
    return terminal(text).replace("\\", "\\\\").replace('"', '\\"')
