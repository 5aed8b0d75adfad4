r"""Escaping of untrusted text, with one function for each output language. Control characters never pass.

Texts for people (terminal, errors, HTML) are also freed of passwords and tokens by ``vitedge.safety.redact``.

Labels, names, paths and messages of libraries come from checkpoints, bundles, folders and networks. Code that writes
them to a terminal, HTML, JSON and so on calls the function of that language.
"""

from __future__ import annotations

import html as _html
import json as _json
import re
import shlex
from collections.abc import Iterable

from vitedge.safety.limits import MESSAGE_CHARACTERS
from vitedge.safety.redact import redact

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # hides, reorders or breaks lines
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
    "\ud800-\udfff]"  # halves of surrogate pairs: bytes of file names that are not UTF-8
)
"""Joiners (U+200C, U+200D) are missing on purpose: Persian words and emoji need them."""
_SURROGATES = re.compile("[\ud800-\udfff]")
_NO_FILE_NAME = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_FILE_NAMES = ("utf-8", "surrogateescape")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def terminal(text: str) -> str:
    r"""Escape one line for a terminal: characters that move the cursor, colour, hide or reorder text, as ``\x1b``.

    Secrets in addresses are masked.
    """
    return visible(redact(text))


def visible(text: str) -> str:
    r"""Show control characters of one line as escapes such as ``\x1b``; every other character stays."""
    return _CONTROLS.sub(_code, text)


def terminal_lines(lines: Iterable[str]) -> str:
    """Escape each line by ``terminal``, and end each with a line break."""
    return "".join(f"{terminal(line)}\n" for line in lines)


def message(text: str) -> str:
    """Escape the text of an error, which may have several lines; they are indented below the first.

    Therefore no text can forge a following line, such as another ``fix:``. Text over ``MESSAGE_CHARACTERS`` is cut off.
    Secrets in addresses are masked.
    """
    text = redact(text[: 2 * MESSAGE_CHARACTERS])
    cut = text if len(text) <= MESSAGE_CHARACTERS else f"{text[: MESSAGE_CHARACTERS - 1]}…"
    return "\n    ".join(filter(None, (visible(line.strip()) for line in cut.splitlines())))


def _code(match: re.Match[str]) -> str:
    character = match[0]
    number = ord(character)
    if character in _NAMED:
        return _NAMED[character]
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def html(text: str) -> str:
    """Escape text for an HTML or SVG element or a quoted attribute; line breaks stay, for ``<pre>``."""
    return _html.escape("\n".join(map(visible, redact(text).split("\n"))), quote=True)


def json(value: object, *, indent: int | None = None) -> str:
    """Write a value as JSON in ASCII, which every locale can print, without a final line break.

    NaN and infinity become null, because JSON has neither. Bytes of a file name that are not UTF-8 are escaped as on a
    terminal, because readers refuse halves of surrogate pairs.
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
    r"""Escape a value or a comment of a GLib key file, which DeepStream reads.

    A semicolon becomes a comma, because it would turn the value into a list. White space at the ends is removed.
    """
    return visible(text).replace("\\", "\\\\").replace(";", ",").strip()


def pbtxt(text: str) -> str:
    """Escape the inside of a double-quoted string of protobuf's text format."""
    return "".join(_pbtxt_character(character) for character in text)


def _pbtxt_character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if _CONTROLS.match(character):
        return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "backslashreplace"))
    return character


def shell(text: str) -> str:
    """Quote one word of a command line that people copy into a shell."""
    if visible(text) == text:
        return shlex.quote(text)
    return "$'" + "".join(_shell_byte(byte) for byte in _NO_FILE_NAME.sub(_code, text).encode(*_FILE_NAMES)) + "'"


def _shell_byte(byte: int) -> str:
    """Write a byte as bash, zsh and ksh read it between ``$'`` and ``'``."""
    character = chr(byte)
    return character if character.isascii() and character.isprintable() and character not in "'\\" else f"\\{byte:03o}"
