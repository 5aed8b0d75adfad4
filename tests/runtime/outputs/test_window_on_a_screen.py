"""``vitedge run --show`` opens a real window: OpenCV's, on a screen of Xvfb, which this reads."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vitedge.bundle.bundle import Bundle

pytest.importorskip("av")
pytest.importorskip("PIL.Image")

ROOT = Path(__file__).resolve().parents[3]
SCREEN = (240, 320)
PICTURE = (90, 160)
COLOURS = 50
"""The test picture has more."""
SECONDS = 60.0
XWD_FIELDS = 25
"""Numbers of 32 bits at the beginning of a screen's file: the header of the X window dump format, version 7."""

pytestmark = pytest.mark.timeout(180)


def opencv_with_windows() -> Path:
    """The folder of the OpenCV that ``make references`` fetches; the environment has one without windows."""
    wheel = re.search(r"\bopencv-python==[\d.]+", (ROOT / "Makefile").read_text("utf-8"))
    assert wheel is not None
    folder = ROOT / "build" / "references" / wheel[0]
    if not folder.is_dir():
        pytest.skip(f"no OpenCV in {folder}: make references")
    return folder


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[tuple[str, Callable[[], NDArray[np.uint8]]]]:
    """Name of a display, and a function that reads its ``H×W×4`` pixels."""
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("no X server without a screen: apt-get install xvfb libgl1 libsm6")
    reading, writing = os.pipe()
    height, width = SCREEN
    command = [server, "-displayfd", str(writing), "-nolisten", "tcp", "-br", "-fbdir", tmp_path]
    child = subprocess.Popen(
        [*command, "-screen", "0", f"{width}x{height}x24"], pass_fds=[writing], stderr=subprocess.DEVNULL
    )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        number = pipe.readline().strip()
    try:
        yield f":{number}", lambda: read_screen(tmp_path / "Xvfb_screen0")
    finally:
        child.terminate()
        child.wait()


def read_screen(file: Path) -> NDArray[np.uint8]:
    content = file.read_bytes()
    header = np.frombuffer(content, ">u4", XWD_FIELDS)
    offset = int(header[0] + 12 * header[19])  # behind the colour map
    height, row = int(header[5]), int(header[12])
    pixels = np.frombuffer(content, np.uint8, height * row, offset)
    return pixels.reshape(height, row // 4, 4)


def colours(pixels: NDArray[np.uint8]) -> int:
    return len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0))


def test_it_shows_the_frames_until_it_is_told_to_stop(
    tiny_bundle: Bundle, tmp_path: Path, screen: tuple[str, Callable[[], NDArray[np.uint8]]]
) -> None:
    display, pixels = screen
    height, width = PICTURE
    command = [sys.executable, "-m", "vitedge", "run", tiny_bundle.path, "--show"]
    child = subprocess.Popen(
        [*command, "--source", f"test://?fps=20&size={width}x{height}"],
        env={**os.environ, "DISPLAY": display, "PYTHONPATH": str(opencv_with_windows())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + SECONDS
        shown = pixels()
        while child.poll() is None and time.monotonic() < deadline and colours(shown[:height, :width]) < COLOURS:
            time.sleep(0.1)
            shown = pixels()
    finally:
        child.send_signal(signal.SIGINT)
        said, _ = child.communicate(timeout=SECONDS)
    assert "predictions, " in said
    assert child.returncode == 130
    assert colours(shown[:height, :width]) >= COLOURS
