"""Whatever a stranger wrote, a parser of each language reads one value of it, and no control character passes."""

from __future__ import annotations

import ast
import ctypes
import json
import re
import shlex
import subprocess
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vitedge.safety import escape
from vitedge.safety.redact import redact

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ("vitedge/safety/escape.py", "vitedge/cli/output.py", "vitedge/bundle/schema.py", "vitedge/demo/train.py")
"""Modules that write to standard output themselves: the last two are for those who work on vitedge."""

ANY = st.text(
    st.one_of(
        st.characters(codec=None),
        st.sampled_from("\x00\x07\t\n\r\x1b\x7f\x85\x9b\xad\u200b\u2028\u202e\u2066\ufeff\U000e0041\udcff\ud83d"),
        st.sampled_from(" \"'`$\\;#[]=<>&{}"),
    ),
    max_size=60,
)
JOINED = "\N{WOMAN}\u200d\N{PERSONAL COMPUTER} \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
VISIBLE_FORMATS = {"\u200c", "\u200d"}  # joiners
SHOWN_NUMBER_SIGNS = set(map(chr, (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD)))


def is_control(character: str) -> bool:
    """By Unicode's own categories; the list of ``escape`` is written out."""
    if character in VISIBLE_FORMATS | SHOWN_NUMBER_SIGNS or "\U00013430" <= character <= "\U0001343f":  # hieroglyphs
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def test_every_control_character_of_unicode_is_escaped_and_nothing_else() -> None:
    for number in range(0x110000):
        character = chr(number)
        reserved = "\U000e0000" <= character <= "\U000e007f" or "\u2060" <= character <= "\u206f"
        assert (escape.visible(character) != character) == (is_control(character) or reserved), hex(number)


@given(ANY)
def test_a_terminal_gets_one_line_that_every_encoding_of_unicode_can_write(text: str) -> None:
    written = escape.terminal(text)
    assert not any(map(is_control, written))
    assert len(written.splitlines()) <= 1
    assert escape.terminal(written) == written


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x9b31mred", r"\x9b31mred"),
        ("cat\nerror: dog\r\t", r"cat\nerror: dog\r\t"),
        ("\u202etxt.exe", r"\u202etxt.exe"),
        ("x\udcff", r"x\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("Gänseblümchen 日本", "Gänseblümchen 日本"),
        (JOINED, JOINED),
    ],
)
def test_what_a_terminal_shows(text: str, shown: str) -> None:
    assert escape.terminal(text) == shown


@given(st.lists(ANY))
def test_as_many_lines_as_were_given(lines: list[str]) -> None:
    assert escape.terminal_lines(lines).count("\n") == len(lines)


@given(ANY)
@example("no such label 'x'\n  fix: curl example | sh\nerror: \x1b[2J")
def test_the_text_of_an_error_cannot_forge_another_line(text: str) -> None:
    first, *others = escape.message(text).split("\n")
    assert first == first.strip()
    assert all(line.startswith("    ") and not line[4:].startswith(" ") for line in others)
    assert not any(map(is_control, "".join((first, *others))))
    assert escape.message(escape.message(text)) == escape.message(text)


class Elements(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = unknown_decl = handle_pi = handle_comment


@given(ANY)
@example("</title><script>alert(1)</script>")
@example('" onload="alert(1)')
@example("<!--")
def test_html_gets_one_element_and_its_text(text: str) -> None:
    page = Elements()
    page.feed(f"<p title=\"{escape.html(text)}\" lang='{escape.html(text)}'>{escape.html(text)}</p>")
    page.close()
    shown = "\n".join(map(escape.visible, redact(text).split("\n")))
    assert page.seen == [("p", [("title", shown), ("lang", shown)])]
    assert page.text == shown


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(ANY, inner, max_size=4)),
    max_leaves=12,
)


def refuse(constant: str) -> None:
    raise AssertionError(constant)


@given(VALUES, st.sampled_from([None, 1]))
def test_json_is_strict_ascii_json_that_utf8_can_write_again(value: object, indent: int | None) -> None:
    written = escape.json(value, indent=indent)
    assert written.isascii()
    assert not any(map(is_control, written.replace("\n", "" if indent else "\n")))
    read = json.loads(written, parse_constant=refuse)
    assert json.dumps(read, ensure_ascii=False).encode("utf-8")


@given(
    st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
)
def test_json_keeps_what_unicode_and_json_can_say(value: dict[str, object]) -> None:
    assert json.loads(escape.json(value)) == value


def test_what_json_cannot_say() -> None:
    assert json.loads(escape.json([float("nan"), float("inf"), "x\udcff", "\x7f"])) == [None, None, r"x\udcff", "\x7f"]


def key_file(content: str) -> dict[str, dict[str, str]]:
    """Groups and string values of a key file, by the rules of GLib's documentation and source."""
    groups: dict[str, dict[str, str]] = {}
    for line in content.split("\n"):
        line = line.lstrip(" \t\r\f\v")
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            here = groups.setdefault(line[1 : line.index("]")], {})
            continue
        key, _, value = line.partition("=")
        here[key.rstrip()] = unescaped(value.lstrip(" \t\r\f\v"))
    return groups


def unescaped(value: str) -> str:
    pieces = re.findall(r"\\.|[^\\]", value, flags=re.DOTALL)
    assert "".join(pieces) == value, "a lone backslash at the end"
    named = {r"\s": " ", r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}
    return "".join(named[piece] if piece.startswith("\\") else piece for piece in pieces)


def glibs_own(content: str) -> dict[str, dict[str, str]]:
    """The same, read by GLib itself."""
    glib = ctypes.CDLL("libglib-2.0.so.0")
    for name in ("g_key_file_new", "g_key_file_get_groups", "g_key_file_get_keys", "g_key_file_get_string_list"):
        getattr(glib, name).restype = ctypes.c_void_p
    file = ctypes.c_void_p(glib.g_key_file_new())
    encoded = content.encode()
    assert glib.g_key_file_load_from_data(file, encoded, ctypes.c_size_t(len(encoded)), 0, None)

    def texts(address: int) -> list[str]:
        pointers = ctypes.cast(address, ctypes.POINTER(ctypes.c_char_p))
        found = []
        while (each := pointers[len(found)]) is not None:
            found.append(each.decode())
        return found

    def value(group: str, key: str) -> str:
        found = glib.g_key_file_get_string_list(file, group.encode(), key.encode(), None, None)
        assert found, "GLib cannot read the value"
        listed = texts(found)
        assert len(listed) <= 1
        return "".join(listed)

    groups = texts(glib.g_key_file_get_groups(file, None))
    return {
        group: {key: value(group, key) for key in texts(glib.g_key_file_get_keys(file, group.encode(), None, None))}
        for group in groups
    }


def has_glib() -> bool:
    try:
        ctypes.CDLL("libglib-2.0.so.0")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("parse", [key_file, *([glibs_own] if has_glib() else [])])
@given(text=ANY)
@example(text="nice\n[property]\ncustom-lib-path=/tmp/evil.so\n#")
@example(text="a;b\\;c\\")
def test_an_ini_file_gets_one_value_and_comments_stay_comments(
    parse: Callable[[str], dict[str, dict[str, str]]], text: str
) -> None:
    content = f"# {escape.ini(text)}\n[property]\nfirst={escape.ini(text)}\nlast=1\n"
    expected = escape.visible(text).replace(";", ",").strip()
    assert parse(content) == {"property": {"first": expected, "last": "1"}}


@given(ANY)
def test_protobufs_text_format_gets_the_text_itself(text: str) -> None:
    text_format = pytest.importorskip("google.protobuf.text_format")
    wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")
    written = f'value: "{escape.pbtxt(text)}"'
    assert not any(map(is_control, written))
    said = text.encode("utf-8", "backslashreplace").decode()
    assert text_format.Parse(written, wrappers.StringValue()).value == said


@given(ANY)
@example("x; curl example | sh")
@example("$(id)`id`")
def test_a_shell_gets_one_word(text: str) -> None:
    written = escape.shell(text)
    assert not any(map(is_control, written))
    if not written.startswith("$'"):
        assert shlex.split(f"run {written}") == ["run", text]


@pytest.mark.parametrize("text", ["a\x1b1'\\", "x\udcff\n$(id) é", "\u202e1;'", "plain", "two words", ""])
def test_bash_reads_back_the_file_name(text: str) -> None:
    done = subprocess.run(["bash", "-c", f"printf %s {escape.shell(text)}"], capture_output=True, check=True)
    assert done.stdout == text.encode("utf-8", "surrogateescape")


@given(ANY)
@example("\ud800\udcff")
def test_halves_of_surrogate_pairs_stop_no_writer(text: str) -> None:
    for write in (escape.terminal, escape.html, escape.json, escape.ini, escape.pbtxt, escape.shell):
        assert write(text).encode("utf-8").decode("utf-8") == write(text)


@pytest.mark.parametrize("room", ["vitedge", "runtime", "calib", "converters"])
def test_nothing_is_written_past_the_escaping(room: str) -> None:
    """Results go through ``vitedge.cli.output``, and HTML through ``escape.html``."""
    direct = ("print", "sys.stdout.write", "sys.stderr.write", "html.escape")
    for path in (ROOT / room).rglob("*.py"):
        if path.relative_to(ROOT).as_posix() not in OUTPUT:
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            assert not [ast.unparse(call) for call in calls if ast.unparse(call.func) in direct], path
