"""``docs/cameras.md`` and ``docs/raspberry-pi.md``: their Python runs, and they name what the code has."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.errors import Cause
from vitedge.runtime.sources.open import NETWORK_SCHEMES, OPENERS
from vitedge.runtime.sources.options import CameraOptions, NetworkOptions, PictureOptions
from vitedge.runtime.sources.video.v4l2 import FORMATS

pytest.importorskip("av")

DOCS = Path(__file__).resolve().parent.parent / "docs"
CAMERAS = (DOCS / "cameras.md").read_text(encoding="utf-8")
RASPBERRY_PI = (DOCS / "raspberry-pi.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.timeout(120)


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


def test_the_cameras_page_runs(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("gst-launch-1.0") is None:
        pytest.skip("needs gst-launch-1.0: apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base")
    shutil.copytree(tiny_bundle.path, tmp_path / "model.bundle")
    (tmp_path / "yard.streams").write_text("a = test://?fps=50&size=64x64\nb = test://?fps=50&size=64x64\n")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(python_blocks(CAMERAS)):
        exec(compile(block, f"cameras.md, block {number}", "exec"), names)
    said = capsys.readouterr().out.splitlines()
    assert "False 30.0 (360, 640, 3)" in said
    numbered = [line.split() for line in said if line.endswith(" ms")]
    frames, drawn = ([int(line[column]) for line in numbered] for column in (0, 1))
    assert frames == sorted(set(frames))
    ahead = [number - frame for number, frame in zip(drawn, frames, strict=True)]
    assert ahead == sorted(ahead)  # frames that nobody read in time
    assert ahead[0] >= 0


def test_the_raspberry_pi_page_runs_with_a_fake_picamera2(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "deit.bundle")
    monkeypatch.chdir(tmp_path)
    camera = SimpleNamespace(
        configure=lambda _: None,
        create_video_configuration=dict,
        start=lambda: None,
        stop=lambda: None,
        capture_array=lambda: np.full((720, 1280, 3), (200, 20, 20), dtype=np.uint8),
    )
    monkeypatch.setitem(sys.modules, "picamera2", SimpleNamespace(Picamera2=lambda: camera))
    names: dict[str, object] = {}
    for number, block in enumerate(python_blocks(RASPBERRY_PI)):
        exec(compile(block, f"raspberry-pi.md, block {number}", "exec"), names)
    assert capsys.readouterr().out.startswith("blue ")


def test_every_cause_has_a_row() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| .* \| .* \|$", CAMERAS, flags=re.MULTILINE)) >= set(get_args(Cause))


def test_every_option_has_a_row() -> None:
    rows = " ".join(re.findall(r"^\| (`.*?) \|", CAMERAS, flags=re.MULTILINE))
    named = set(re.findall(r"`(\w+)`", rows))
    for kind in (NetworkOptions, CameraOptions, PictureOptions):
        assert {field.name for field in fields(kind)} <= named


def test_every_scheme_and_format_is_named() -> None:
    for scheme in (*NETWORK_SCHEMES, *OPENERS):
        assert f"{scheme}://" in CAMERAS
    shown = {next(name for name, known in FORMATS.items() if known == each) for each in FORMATS.values()}
    assert all(f"`{name}`" in CAMERAS for name in shown)


def test_what_was_not_run_is_said() -> None:
    assert "has been run on the device yet" in CAMERAS
    assert "has been run on a Raspberry Pi yet" in RASPBERRY_PI
