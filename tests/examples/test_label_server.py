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

cv2 = pytest.importorskip("cv2")
pytest.importorskip("openvino")

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
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 1.0, (64, 64))
    for _ in range(30):
        writer.write(colour_frame("green", height=64, width=64))
    writer.release()
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
