"""The benchmark of long streams fails when it did not run, and then leaves its page alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")

PAGE = "before\n<!-- soak -->\nfigures\n<!-- /soak -->\nafter\n"


@pytest.fixture(scope="module")
def soak(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("soak")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE, encoding="utf-8")
    return path


@pytest.fixture
def run(soak: Any, page: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``run("--frames", "0")`` returns the exit status."""

    def call(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["soak.py", *arguments, "--page", str(page)])
        return int(soak.main())

    return call


@pytest.mark.parametrize(
    ("frames", "problem"), [("0", "nothing to run"), ("1", "--frames 1 is too few"), ("-1", "--frames -1 is too few")]
)
def test_no_run_is_an_error(
    frames: str, problem: str, run: Callable[..., int], page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--frames", frames, "--minutes", "0") == 1
    assert problem in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == PAGE


def test_a_camera_that_is_asked_for_and_cannot_run_is_an_error(
    soak: Any, run: Callable[..., int], page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak, "missing_packages", lambda: "GStreamer lacks x264enc")
    assert run("--frames", "400", "--minutes", "1") == 1
    assert "no RTSP server: GStreamer lacks x264enc" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == PAGE


def test_a_run_is_written(
    soak: Any, run: Callable[..., int], page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak, "missing_packages", lambda: pytest.fail("no camera was asked for"))
    monkeypatch.setattr(soak, "is_flat", lambda _: True)  # so short a run has no warm-up
    assert run("--frames", "200", "--minutes", "0") == 0
    assert "| `every`, a file | 100 | 100 | 0 | exact |" in page.read_text(encoding="utf-8")
