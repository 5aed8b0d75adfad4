"""``vitedge export`` writes, and says what to do with it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from vitedge import progress
from vitedge.bundle.bundle import Bundle
from vitedge.cli import EXIT_ERROR, EXIT_USAGE, main
from vitedge.converters.integrations import export as integrations
from vitedge.converters.integrations.export import Export
from vitedge.progress import Terminal


def test_a_repository(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "repository"
    assert main(["export", str(tiny_bundle.path), "--for", "triton", "-o", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(output)
    assert "tritonserver" in lines[1]
    assert (output / "dominant_colour" / "config.pbtxt").is_file()


def test_an_unknown_tool(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tiny_bundle.path), "--for", "tritn", "-o", str(tmp_path / "out")]) == EXIT_USAGE
    assert "did you mean triton?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_tool_has_to_be_named(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", str(tiny_bundle.path)])
    assert caught.value.code == EXIT_USAGE
    assert "--for" in capsys.readouterr().err


def test_what_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--for", "triton", "-o", str(tmp_path / "out")]) == EXIT_ERROR
    assert "is not a bundle" in capsys.readouterr().err


def test_long_work_says_that_it_goes_on(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = threading.Event()
    remind = Terminal.remind
    monkeypatch.setattr(progress, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(Terminal, "remind", lambda self: (remind(self), said.set()))
    monkeypatch.setattr(integrations, "export", lambda *_, **__: Export(Path("out"), ("a note",) * said.wait(60)))
    assert main(["export", str(tiny_bundle.path), "--for", "triton"]) == 0
    captured = capsys.readouterr()
    assert f"still exporting {tiny_bundle.path}\n" in captured.err
    assert captured.out == "out\n  a note\n"


def test_an_old_export_is_replaced_if_asked_for(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(tiny_bundle.path), "--for", "triton", "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert main(arguments) == EXIT_USAGE
    assert "replace it with --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    (tmp_path / "out" / "mine").touch()
    assert main([*arguments, "--overwrite"]) == EXIT_USAGE
    assert "would be lost: mine" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine").exists()
