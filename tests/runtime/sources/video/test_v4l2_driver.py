"""FFmpeg's own code for V4L2 against a driver that ``tests/support/fake_v4l2.c`` plays, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(sys.platform != "linux", reason="V4L2 is of Linux")]

DRIVER = Path(__file__).resolve().parents[3] / "support" / "fake_v4l2.c"

PROGRAM = """
import itertools, json, sys, time
from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.open import open_source

told = {"frames": [], "error": None}
try:
    with open_source(sys.argv[1]) as source:
        told |= {"fps": source.fps, "live": source.live}
        time.sleep(float(sys.argv[3]))
        for frame in itertools.islice(source, int(sys.argv[2])):
            told["frames"].append(
                {
                    "basis": frame.age_basis,
                    "ns": frame.captured_ns,
                    "age": (time.monotonic_ns() - frame.captured_ns) / 1e6,
                    "backlog": frame.backlog,
                    "shape": frame.image.shape,
                    "pixel": frame.image[-1, -1].tolist(),
                }
            )
        told["notices"] = source.notices
except FrameSourceError as error:
    told["error"] = [error.cause, error.problem, error.fix]
print(json.dumps(told))
"""


KEEPING = """
import itertools, json, sys
import numpy as np
from vitedge.runtime.sources.open import open_source

source = open_source(sys.argv[1])
frames = iter(source)
kept = [next(frames) for _ in range(int(sys.argv[2]))]
source.close()
print(json.dumps([int(frame.image[-1, -1].max()) for frame in kept]))
del kept
frames.close()
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("driver") / "fake_v4l2.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-w", "-o", library, DRIVER, "-ldl"], check=True)
    return library


@pytest.fixture
def watch(driver: Path, tmp_path: Path) -> Callable[..., Any]:
    """``watch(query, frames=10, …)``: what a program saw of a camera."""
    device, picture = tmp_path / "video0", tmp_path / "picture.jpg"
    device.touch()
    Image.new("RGB", (640, 480), (10, 200, 30)).save(picture, quality=95)

    def watched(
        query: str = "",
        *,
        frames: int = 10,
        formats: str = "MJPG,YUYV",
        script: str = "",
        wait: float = 0.0,
        program: str = PROGRAM,
    ) -> Any:
        environment = {
            **os.environ,
            "LD_PRELOAD": str(driver),
            "FAKE_V4L2": str(device),
            "FAKE_V4L2_FORMATS": formats,
            "FAKE_V4L2_JPEG": str(picture),
            "FAKE_V4L2_SCRIPT": script,
        }
        command = [sys.executable, "-c", program, f"v4l2://{device}{query}", str(frames), str(wait)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return watched


def test_mjpg_is_chosen_and_the_driver_tells_the_age(watch):
    seen = watch(frames=15)
    assert (seen["fps"], seen["live"], seen["notices"], seen["error"]) == (30.0, True, [], None)
    assert {frame["basis"] for frame in seen["frames"]} == {"device"}
    assert {tuple(frame["shape"]) for frame in seen["frames"]} == {(480, 640, 3)}
    assert max(abs(got - sent) for got, sent in zip(seen["frames"][0]["pixel"], (30, 200, 10), strict=True)) < 4
    times = [frame["ns"] for frame in seen["frames"]]
    intervals = [(after - before) / (1e9 / 30) for before, after in pairwise(times)]
    assert all(each == pytest.approx(round(each), abs=0.001) and round(each) >= 1 for each in intervals)
    assert all(frame["age"] >= 0 for frame in seen["frames"])


@pytest.mark.parametrize("formats", ["YU12", "MJPG"])
def test_frames_outlive_the_camera(formats: str, watch):
    """FFmpeg's packets lie in memory of the driver, which goes when the camera is closed."""
    assert len(watch("?planes=true", frames=6, formats=formats, program=KEEPING)) == 6


def test_what_waited_in_the_driver_is_old_and_says_so(watch):
    seen = watch(frames=8, wait=1.0)
    waited = [frame for frame in seen["frames"] if frame["backlog"]]
    assert 3 <= len(waited) <= 5
    assert all(frame["age"] > 500 for frame in waited)
    assert seen["frames"][: len(waited)] == waited


def test_a_camera_without_mjpg_sends_yuyv(watch):
    seen = watch(formats="YUYV")
    assert seen["notices"] == []
    assert len(seen["frames"]) == 10
    assert all(128 <= each <= 131 for each in seen["frames"][0]["pixel"])  # luma 128


def test_what_the_camera_changes_is_noted(watch):
    seen = watch("?size=300x200&fps=50&fourcc=H264", formats="YUYV")
    assert [notice.split(" sends ")[1] for notice in seen["notices"]] == [
        "YUYV, not H264; it offers YUYV",
        "320x240 pixels, not 300x200",
        "30 frames per second, not 50",
    ]
    assert {tuple(frame["shape"]) for frame in seen["frames"]} == {(240, 320, 3)}


def test_a_rate_that_it_takes(watch):
    seen = watch("?fps=15")
    assert (seen["fps"], seen["notices"]) == (15.0, [])


def test_a_rate_that_its_driver_refuses(watch):
    seen = watch("?fps=15", script="norate")
    assert seen["fps"] == 30.0
    assert len(seen["frames"]) == 10


@pytest.mark.parametrize(
    ("script", "formats", "cause", "words"),
    [
        ("busy", "MJPG,YUYV", "device_busy", "is in use by"),
        ("nobandwidth", "MJPG,YUYV", "device_busy", "no bandwidth left"),
        ("", "XYZ1,XYZ2", "codec", "reads: XYZ1, XYZ2"),
        ("unplug=20", "MJPG,YUYV", "unplugged", "was unplugged after"),
        ("silent", "YUYV", "timeout", "sent no frame for 0.5 s"),
        ("silent", "MJPG", "timeout", "sent no frame"),
    ],
)
def test_errors_of_drivers(script: str, formats: str, cause: str, words: str, watch):
    seen = watch("?open_timeout=1&read_timeout=0.5", frames=1000, formats=formats, script=script)
    assert seen["error"] is not None
    assert seen["error"][0] == cause
    assert words in seen["error"][1]
    assert seen["error"][2]


@pytest.mark.parametrize("fourcc", ["MJPG", "YUYV"])
def test_damaged_frames_are_skipped_and_counted(fourcc: str, watch):
    seen = watch(f"?fourcc={fourcc}", frames=12, script="damaged=3")
    assert len(seen["frames"]) == 12
    assert "came damaged from the driver" in seen["notices"][-1]


def test_a_driver_of_the_wall_clock_is_not_believed(watch):
    seen = watch(script="realtime")
    assert {frame["basis"] for frame in seen["frames"]} <= {"timestamps", "arrival"}
    assert all(0 <= frame["age"] < 10_000 for frame in seen["frames"])
