"""The Python blocks of ``docs/embed.md`` run, in their order."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle

cv2 = pytest.importorskip("cv2")

PAGE = Path(__file__).resolve().parent.parent / "docs" / "embed.md"


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_embed(
    tiny_bundle: Bundle,
    colour_frame: Callable[..., np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    shutil.copytree(tiny_bundle.path, tmp_path / "model.bundle")
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, (320, 240))
    for _ in range(12):
        writer.write(colour_frame("blue", height=240, width=320))
    writer.release()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "OFF")
    blocks = python_blocks(PAGE)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    said = capsys.readouterr().out
    assert said.startswith("0 blue ")
    assert "attempt 2: there is no" in said
    assert (tmp_path / "annotated.mp4").stat().st_size > 0
    assert len((tmp_path / "labels.jsonl").read_text().splitlines()) == 12
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("vitedge-reader", "vitedge-worker"))]
