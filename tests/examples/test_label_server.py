"""The example serves the last prediction while the stream runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle

pytest.importorskip("av")
pytest.importorskip("openvino")

import clips

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "label_server.py"
PATIENCE = 30.0


def answer(address: str) -> tuple[int, dict[str, object] | None]:
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_serves_the_last_prediction(tiny_bundle: Bundle, colour_frame: Callable[..., np.ndarray], tmp_path: Path):
    green = colour_frame("green", height=64, width=64)
    clip = clips.write_pictures(tmp_path / "clip.avi", [green] * 30, fps=1.0, height=64, width=64)
    command = [sys.executable, str(EXAMPLE), str(tiny_bundle.path), str(clip), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        address = running.stdout.readline().strip()
        deadline = time.monotonic() + PATIENCE
        status, prediction = answer(address)
        while status != 200 and time.monotonic() < deadline:
            assert (status, prediction) == (503, None)
            status, prediction = answer(address)
        running.terminate()
    assert prediction["label"] == "green"
