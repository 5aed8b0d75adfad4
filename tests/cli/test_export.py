"""``vitedge export`` writes, and says what to do with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.cli import EXIT_ERROR, EXIT_USAGE, main


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
