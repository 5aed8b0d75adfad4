r"""Strangers' text, written into other languages: one function each. Control characters never pass.

Labels, names, paths and the messages of other libraries come from checkpoints, bundles, folders and networks. Every
place that writes them into one of these languages goes through its function here.
"""

from __future__ import annotations

import html as _html
import json as _json
import re
import shlex
from collections.abc import Iterable

from vitedge.safety.limits import MESSAGE_CHARACTERS

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # hides, reorders or breaks lines
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
    "\ud800-\udfff]"  # halves of surrogate pairs: bytes of file names that are not UTF-8
)
"""Joiners (U+200C, U+200D) are not among them: Persian words and emoji are made with them."""
_SURROGATES = re.compile("[\ud800-\udfff]")
_NO_FILE_NAME = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_FILE_NAMES = ("utf-8", "surrogateescape")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def terminal(text: str) -> str:
    r"""One line: what moves the cursor, colours, hides or reorders text becomes its escape, such as ``\x1b``."""
    return _CONTROLS.sub(_code, text)


def terminal_lines(lines: Iterable[str]) -> str:
    """Lines of a terminal, each escaped by ``terminal`` and ended by a line break."""
    return "".join(f"{terminal(line)}\n" for line in lines)


def message(text: str) -> str:
    """The text of an error: ``terminal``, except that it may have more lines, which are indented below the first.

    No text can forge the line that follows it, such as another ``fix:``, or fill the screen.
    """
    cut = text if len(text) <= MESSAGE_CHARACTERS else f"{text[: MESSAGE_CHARACTERS - 1]}…"
    return "\n    ".join(filter(None, (terminal(line.strip()) for line in cut.splitlines())))


def _code(match: re.Match[str]) -> str:
    character = match[0]
    number = ord(character)
    if character in _NAMED:
        return _NAMED[character]
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def html(text: str) -> str:
    """Text of an HTML or SVG element, or of an attribute in quotes; its line breaks stay, for ``<pre>``."""
    return _html.escape("\n".join(map(terminal, text.split("\n"))), quote=True)


def json(value: object, *, indent: int | None = None) -> str:
    """JSON in ASCII, which every locale can print, without the line break at its end.

    JSON knows no NaN and no infinity: they become null. Bytes of a file name that are not UTF-8 become their escape, as
    on a terminal; readers refuse halves of surrogate pairs.
    """
    return _json.dumps(_plain(value), ensure_ascii=True, allow_nan=False, indent=indent).replace("\x7f", "\\u007f")


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        return _SURROGATES.sub(_code, value)
    if isinstance(value, float) and value - value != 0.0:
        return None
    return value


def ini(text: str) -> str:
    r"""The value of a key of GLib's key files, which DeepStream reads; or a comment in one.

    A semicolon would make a list of it, and becomes a comma; white space at the ends goes.
    """
    return terminal(text).replace("\\", "\\\\").replace(";", ",").strip()


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


def shell(text: str) -> str:
    """One word of a command line that people copy into a shell."""
    if terminal(text) == text:
        return shlex.quote(text)
    return "$'" + "".join(_shell_byte(byte) for byte in _NO_FILE_NAME.sub(_code, text).encode(*_FILE_NAMES)) + "'"


def _shell_byte(byte: int) -> str:
    """As bash, zsh and ksh read it between ``$'`` and ``'``."""
    character = chr(byte)
    return character if character.isascii() and character.isprintable() and character not in "'\\" else f"\\{byte:03o}"
