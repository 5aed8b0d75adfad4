"""Every command of the pages and of the help, with one word wrong."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitedge.cli import EXIT_ERROR, EXIT_USAGE, VERBS, build_parser, main
from vitedge.errors import ConversionError

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
SHELL = re.compile(r"\s(?:\||>|2>|&&|;|#|\\$|\d?>&|\s{3,})")
CHOSEN = ("--target", "--precision", "--activation", "--for", "--engine", "--policy")
"""Options whose values are few words."""


def help_of(verb: str) -> str:
    epilog: str = importlib.import_module(f"vitedge.cli.{verb}").EPILOG
    return epilog


def documented() -> Iterator[list[str]]:
    """Yield the words of each command, up to the first operator of the shell."""
    lines = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    lines += [line for verb in VERBS for line in help_of(verb).splitlines()]
    for line in lines:
        found = re.match(r"\s*(?:\$ )?vitedge (.+)", line)
        if found is None or "…" in line or "[" in line:
            continue
        try:
            words = shlex.split(SHELL.split(found[1])[0])
        except ValueError:  # a quotation that ends on another line
            continue
        if words and words[0] in VERBS:
            yield words


def mistyped(word: str) -> str:
    """Double a letter in the middle."""
    middle = (len(word) + 1) // 2
    return f"{word[:middle]}{word[middle - 1]}{word[middle:]}"


def cases(verb: str) -> Iterator[tuple[list[str], str, bool]]:
    """Yield commands with one word wrong, that word, and whether it is one of few; each kind of word once."""
    seen: set[str] = set()
    for words in documented():
        if words[0] != verb:
            continue
        for place, word in enumerate(words):
            before = words[place - 1] if place else ""
            if place and re.fullmatch(r"-\w", word):
                continue
            is_one_of_few = not place or word.startswith("--") or before in CHOSEN
            kind = word if word.startswith("--") else f"{before} {word}" if is_one_of_few else before
            if kind not in seen:
                seen.add(kind)
                wrong = mistyped(word)
                yield [*words[:place], wrong, *words[place + 1 :]], wrong, is_one_of_few


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where each command would begin its work, it fails."""

    def work(*_: object, **__: object) -> None:
        raise ConversionError("the work begins")

    monkeypatch.setattr("vitedge.converters.convert.import_packages", lambda _: None)
    monkeypatch.setattr("vitedge.converters.pipeline.run", work)
    monkeypatch.setattr("vitedge.demo.demo.run_demo", work)
    monkeypatch.chdir(tmp_path)
    for words in documented():
        for word in words:
            if word.endswith((".onnx", ".pt2")):  # without these files, nothing else is looked at
                (tmp_path / word).touch()


def test_there_are_commands_of_every_verb() -> None:
    assert {words[0] for words in documented()} == set(VERBS)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("verb", VERBS)
def test_one_wrong_word_is_one_error_that_names_it(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, wrong, is_one_of_few in cases(verb):
        try:
            code: object = main(words)
        except SystemExit as stopped:
            code = stopped.code
        told = capsys.readouterr().err
        where = f"{shlex.join(words)}\n{told}"
        assert "Traceback" not in told, where
        if is_one_of_few:
            assert code == EXIT_USAGE, where
            assert wrong.partition("=")[0] in told, where
        else:
            assert code in (0, EXIT_ERROR, EXIT_USAGE), where
            assert told.count("error: ") == (code != 0), where


def test_each_option_of_a_page_exists() -> None:
    parser, _ = build_parser()
    verbs = next(each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    for words in documented():
        known = verbs[words[0]]._option_string_actions
        assert [word for word in words if word.startswith("--") and word.partition("=")[0] not in known] == [], words
