"""``--quiet``, ``--verbose`` and ``--no-color`` of every verb, and the exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable

import pytest

from vitedge.cli import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    VERBS,
    build_parser,
    main,
    output,
)
from vitedge.cli import targets as some_verb
from vitedge.converters.quiet import quiet
from vitedge.errors import ConversionError, OutputError, UsageError


def parsed(arguments: list[str]) -> argparse.Namespace:
    namespace, _ = build_parser()[0].parse_known_args(arguments)
    return namespace


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[argparse.Namespace], object]], None]:
    def replace(work: Callable[[argparse.Namespace], object]) -> None:
        monkeypatch.setattr(some_verb, "run", lambda arguments: work(arguments) or 0)

    return replace


def talk(arguments: argparse.Namespace) -> None:
    """Report in every way that a verb has."""
    arguments.progress.step("a step")
    arguments.progress.step("warning: of a step")
    output.inform("a remark\n")
    logging.getLogger("vitedge").warning("a logged warning")
    with quiet():
        logging.getLogger("library").info("a logged \x1b[31m record of rtsp://user:hunter22@camera/1")
        print("a print of a library")  # noqa: T201
        warnings.warn("a library warns", UserWarning, stacklevel=1)
    output.note("an error\n")
    output.tell("the result\n")


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_the_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", name]) == 0
    printed = capsys.readouterr().out
    for option in ("-q, --quiet", "-v, --verbose", "--no-color"):
        assert f"  {option} " in printed


@pytest.mark.parametrize("arguments", [["-q", "targets"], ["targets", "-q"], ["--quiet", "targets"]])
def test_the_flags_stand_before_or_behind_the_verb(arguments: list[str]) -> None:
    assert parsed(arguments).quiet
    assert not parsed(arguments).verbose


def test_quiet_or_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["targets", "-q", "-v"])
    assert stopped.value.code == EXIT_USAGE
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.filterwarnings("default:a library warns")
class TestWhatIsTold:
    def test_quiet_leaves_results_and_errors(self, verb, capfd: pytest.CaptureFixture[str]) -> None:
        verb(talk)
        assert main(["targets", "--quiet"]) == 0
        assert capfd.readouterr() == ("the result\n", "an error\n")

    def test_by_default_steps_and_remarks_too(self, verb, capfd: pytest.CaptureFixture[str]) -> None:
        verb(talk)
        assert main(["targets"]) == 0
        told = capfd.readouterr().err
        assert "] a step\n" in told
        assert "a remark\n" in told
        assert "library" not in told

    def test_verbose_adds_times_and_logs_of_libraries(self, verb, capfd: pytest.CaptureFixture[str]) -> None:
        verb(talk)
        assert main(["targets", "--verbose"]) == 0
        out, told = capfd.readouterr()
        assert out == "the result\n"
        assert told.splitlines()[-1].endswith(" s  a step")
        assert "INFO library: a logged \\x1b[31m record" in told
        assert "hunter22" not in told
        assert "a library warns" in told
        assert "a print of a library" not in told

    def test_nothing_is_left_behind(self, verb) -> None:
        before = (logging.root.level, logging.getLogger("vitedge").level, list(logging.root.handlers))
        verb(talk)
        main(["targets", "--verbose", "--no-color"])
        main(["targets", "--quiet"])
        assert (logging.root.level, logging.getLogger("vitedge").level, list(logging.root.handlers)) == before
        output.inform("")
        assert not output._quiet
        assert "NO_COLOR" not in os.environ

    @pytest.mark.parametrize("option", ["--verbose", "--no-color"])
    def test_a_traceback_for_verbose_alone(self, option: str, verb, capsys: pytest.CaptureFixture[str]) -> None:
        def fail(_: argparse.Namespace) -> None:
            try:
                raise ZeroDivisionError("the cause")  # noqa: TRY301
            except ZeroDivisionError as error:
                raise ConversionError("it failed") from error

        verb(fail)
        assert main(["targets", option]) == EXIT_ERROR
        told = capsys.readouterr().err
        assert ("ZeroDivisionError: the cause" in told) == (option == "--verbose")
        assert told.splitlines()[-1] == "error: it failed"


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


@pytest.mark.usefixtures("on_a_terminal")
@pytest.mark.parametrize("option", ["", "--no-color"])
def test_an_error_is_red_on_a_terminal(option: str, verb, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    def fail(_: argparse.Namespace) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        raise ConversionError("it failed")

    verb(fail)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["targets", *([option] if option else [])]) == EXIT_ERROR
    assert ("\033[1;31merror:\033[0m it failed\n" in capsys.readouterr().err) == (not option)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("a wrong word"), EXIT_USAGE),
        (ConversionError("it failed"), EXIT_ERROR),
        (OutputError("the disk is full"), EXIT_ERROR),
        (KeyboardInterrupt(), EXIT_INTERRUPTED),
    ],
)
@pytest.mark.parametrize("option", ["-q", "-v"])
def test_exit_codes(error: BaseException, code: int, option: str, verb) -> None:
    def fail(_: argparse.Namespace) -> None:
        raise error

    verb(fail)
    assert main(["targets", option]) == code


WRONG = {
    "convert": ["no_such_model_at_all", "--target", "cpv", "--precision", "fp32"],
    "build": ["BUNDLE", "--workspace-mb", "0"],
    "eval": ["BUNDLE", "--data", "PHOTOS", "--json", "/no/such/folder/eval.json"],
    "run": ["BUNDLE", "--source", "nosuch://camera"],
    "bench": ["BUNDLE", "--json", "/no/such/folder/bench.json"],
    "inspect": ["BUNDLE", "--require-signature"],
    "sign": [],
    "export": ["BUNDLE", "--for", "tritn"],
    "doctor": ["--json", "/no/such/folder/doctor.json"],
    "targets": ["--json", "/no/such/folder/targets.json"],
    "models": ["no_such_model_at_all"],
    "demo": ["-o", "PHOTOS"],
    "completion": ["bsh"],
}


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("found_by", ["argparse", "vitedge"])
def test_wrong_usage_is_2_whoever_finds_it(
    name: str, found_by: str, tiny_bundle, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"BUNDLE": str(tiny_bundle.path), "PHOTOS": str(tmp_path)}
    wrong = ["--no-such-option"] if found_by == "argparse" else [places.get(word, word) for word in WRONG[name]]
    try:
        code = main([name, *wrong])
    except SystemExit as stopped:
        code = stopped.code
    told = capsys.readouterr().err
    assert code == EXIT_USAGE, told
    assert "error: " in told
