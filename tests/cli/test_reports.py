"""``--json`` means the same for every verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitedge.bundle.bundle import MANIFEST, Bundle
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


def test_two_reports_do_not_replace_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.json"
    arguments = ["bench", str(tmp_path / "any.bundle"), "--json", str(file), "--html", f"{tmp_path}/./a.json"]
    assert main(arguments) == EXIT_USAGE
    assert "--json and --html name the same file" in capsys.readouterr().err
    assert not file.exists()


def test_a_report_does_not_replace_what_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text("{}\n")
    arguments = ["eval", str(tmp_path / "any.bundle"), "--data", str(labels), "--html", str(labels)]
    assert main(arguments) == EXIT_USAGE
    assert "--html would replace what is read" in capsys.readouterr().err
    assert labels.read_text() == "{}\n"


def test_no_report_goes_into_a_bundle(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = (tiny_bundle.path / MANIFEST).read_bytes()
    for name in (MANIFEST, "new.json"):
        assert main(["inspect", str(tiny_bundle.path), "--json", str(tiny_bundle.path / name)]) == EXIT_USAGE
        assert "lies in the bundle" in capsys.readouterr().err
    assert (tiny_bundle.path / MANIFEST).read_bytes() == manifest
    assert not (tiny_bundle.path / "new.json").exists()
