from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vitedge.cli import EXIT_INTERRUPTED, EXIT_USAGE, VERBS, build_parser, main
from vitedge.cli import targets as some_verb
from vitedge.errors import UsageError
from vitedge.version import VERSION


def printed_by(arguments: list[str], capsys: pytest.CaptureFixture[str], *, code: int) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_help_lists_every_verb_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    printed = printed_by(["--help"], capsys, code=0)
    for verb in VERBS:
        assert f"\n    {verb} " in printed
    assert "examples:" in printed


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = printed_by([verb, "--help"], capsys, code=0)
    assert "examples:" in printed
    assert f"  vitedge {verb}" in printed


@pytest.mark.parametrize("verb", ["--help", *VERBS])
def test_help_fits_a_terminal_but_for_commands(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = printed_by([verb, "--help"], capsys, code=0).splitlines()
    assert [line for line in lines if len(line) > 80 and not line.startswith("  vitedge ")] == []


def test_help_fills_its_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    printed = printed_by(["convert", "--help"], capsys, code=0)
    assert "this machine, and keeps the fastest" in printed
    monkeypatch.setenv("COLUMNS", "60")
    words = " ".join(printed_by(["convert", "--help"], capsys, code=0).split())
    assert not re.search(r" --[a-z]+- ", words), "an option is broken"


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_is_named_with_what_to_do(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = printed_by([verb, "--no-such-option"], capsys, code=EXIT_USAGE)
    assert f"usage: vitedge {verb}" in printed
    assert "fix: " in printed or "required" in printed


def test_a_mistyped_option_is_suggested_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean --json?" in printed_by(["doctor", "--jsn"], capsys, code=EXIT_USAGE)
    assert "did you mean --json?" in printed_by(["doctor", "--js"], capsys, code=EXIT_USAGE)
    assert "did you mean --calib?" in printed_by(["convert", "--calibration", "a"], capsys, code=EXIT_USAGE)


def test_a_mistyped_verb_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    printed = printed_by(["convrt"], capsys, code=EXIT_USAGE)
    assert "convrt" in printed
    assert "did you mean convert?" in printed


def test_a_mistyped_choice_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    printed = printed_by(["bench", "a.bundle", "--engine", "opnvino"], capsys, code=EXIT_USAGE)
    assert "did you mean openvino?" in printed


@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_help_without_a_verb_is_the_help_of_the_program(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked_for = printed_by(["--help"], capsys, code=0)
    assert main(arguments) == 0
    assert capsys.readouterr().out == asked_for


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked_for = printed_by([verb, "--help"], capsys, code=0)
    assert main(["help", verb]) == 0
    assert capsys.readouterr().out == asked_for


def test_help_of_a_mistyped_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean targets?" in printed_by(["help", "tagets"], capsys, code=EXIT_USAGE)


def test_an_option_needs_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unrecognized arguments: --bogus" in printed_by(["--bogus"], capsys, code=EXIT_USAGE)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed_by(["--version"], capsys, code=0) == f"vitedge {VERSION}\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("no such thing", expected="a thing", fix="make one"), EXIT_USAGE, "error: no such thing\n"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted"),
    ],
)
def test_errors_become_messages_and_exit_codes(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(arguments: object) -> int:
        raise error

    monkeypatch.setattr(some_verb, "run", failing)
    assert main(["targets"]) == code
    assert message in capsys.readouterr().err


def test_an_error_that_nobody_foresaw_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(arguments: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(some_verb, "run", failing)
    with pytest.raises(ZeroDivisionError):
        main(["targets"])


def test_a_reader_that_leaves_is_not_an_error_message() -> None:
    command = f"{sys.executable} -m vitedge --help | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert result.stdout.startswith("usage: vitedge")
    assert "Traceback" not in result.stderr


def test_python_dash_m() -> None:
    result = subprocess.run([sys.executable, "-m", "vitedge", "targets"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "\ncpu " in result.stdout


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        (["--source", "-clip.mp4"], "-clip.mp4"),
        (["--source=-clip.mp4"], "-clip.mp4"),
        (["--source", "--clip.mp4"], "--clip.mp4"),
        (["--source", "-"], "-"),
        (["--source", "a.mp4"], "a.mp4"),
    ],
)
def test_a_name_may_begin_with_a_dash(
    given: list[str], parsed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "--clip.mp4").touch()
    parser, _ = build_parser()
    namespace = parser.parse_args(["run", "a.bundle", *given, "--jsonl", "-", "--max-frames", "3"])
    assert (namespace.bundle, namespace.source, namespace.jsonl, namespace.max_frames) == (
        "a.bundle",
        [parsed],
        "-",
        3,
    )


@pytest.mark.parametrize("following", [["--policy", "latest"], ["--polcy"], ["-h"], []])
def test_an_option_is_no_value_of_the_one_before(following: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "a.bundle", "--source", *following])
    assert "argument --source: expected one argument" in capsys.readouterr().err


HANGING = """
import os, sys
from vitedge import cli
from vitedge.runtime.system.owned import start_daemon

start_daemon("vitedge-reader", os.read, os.pipe()[0], 1)
sys.argv = ["vitedge", "targets"]
sys.modules["atexit"].register(print, "the interpreter ends")
cli.program()
"""


def test_a_thread_that_hangs_in_a_library_ends_with_the_process():
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\ncpu " in done.stdout
    assert "the interpreter ends" not in done.stdout
