"""``--json`` means the same for every verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitedge.cli import EXIT_USAGE, main

LISTING = ("doctor", "targets", "models")
"""Verbs whose result is a text, or JSON in its place."""


@pytest.mark.parametrize("verb", LISTING)
@pytest.mark.parametrize("option", [["--json"], ["--json", "-"], ["--json=-"]])
def test_without_a_file_json_goes_to_standard_output(
    verb: str, option: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([verb, *option]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", LISTING)
def test_with_a_file_it_goes_there(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "made.json"
    assert main([verb, "--json", str(file)]) == 0
    assert json.loads(file.read_text("utf-8"))["version"] == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "--json", "swin"],
        ["eval", "a.bundle", "--data", "a", "--json", "b"],
        ["targets", "--json", "/dev/full"],
    ],
)
def test_a_name_that_is_none_of_a_json_file_is_refused(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == EXIT_USAGE
    assert "is no name of a JSON file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_device_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tmp_path / "link.json"
    link.symlink_to("/dev/null")
    assert main(["targets", "--json", str(link)]) == EXIT_USAGE
    assert "is a device or a FIFO" in capsys.readouterr().err


def test_a_folder_that_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json", str(tmp_path / "none" / "a.json")]) == EXIT_USAGE
    assert "mkdir -p" in capsys.readouterr().err
