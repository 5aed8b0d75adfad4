"""``docs/quick-start.md`` runs as it is printed, with a smaller model and a shorter search."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("openvino")

import photos

from vitedge.calib.quantization import ptq
from vitedge.calib.quantization.search_budget import SMALLEST
from vitedge.cli import main

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "quick-start.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ptq, "budget_for", lambda _: SMALLEST)
    for number, label in enumerate(("daisy", "rose", "tulip")):
        for part in ("calib", "val"):
            folder = tmp_path / "photos" / part / label
            for image in range(4):
                photos.write_photo(folder / f"{image}.png", "red", seed=100 * number + image)
    (saving,) = blocks("python")
    exec(saving.replace("deit_tiny_patch16_224", "test_vit"), {})
    converting, running = blocks("sh")
    for command in converting.splitlines():
        program, *arguments = shlex.split(command)
        assert program == "vitedge"
        assert main([*arguments, *(["--seconds", "0.1"] if arguments[0] == "bench" else [])]) == 0
    assert "p50 ratio" in capsys.readouterr().out
    assert shlex.split(running)[:3] == ["vitedge", "run", "my-int8.bundle"]
