"""A machine without a compiler, or any other program: nothing needs one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import photos
import pytest

pytest.importorskip("timm")
pytest.importorskip("openvino")


def test_conversion_and_inference_start_no_program(tmp_path: Path) -> None:
    for number in range(4):
        photos.write_photo(tmp_path / "photos" / f"{number}.png", "red", seed=number)
    (tmp_path / "empty").mkdir()
    conversion = "convert test_vit --random-weights --target cpu --precision int8 --calib photos -o a.bundle"
    for command in (conversion, "run a.bundle --source photos"):
        done = subprocess.run(
            [sys.executable, "-m", "vitedge", *command.split()],
            cwd=tmp_path,
            env={**os.environ, "PATH": str(tmp_path / "empty"), "CC": "none", "CXX": "none"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
