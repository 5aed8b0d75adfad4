"""The example tells arrivals and departures from flicker, and runs on a real bundle."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import vitedge
from vitedge.bundle.bundle import Bundle

pytest.importorskip("av")
pytest.importorskip("openvino")

import clips

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "watch_for.py"


@pytest.fixture(scope="module")
def watch_for() -> ModuleType:
    spec = importlib.util.spec_from_file_location("watch_for", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seen(label: str, score: float, moment: float) -> vitedge.Prediction:
    """A prediction of that second by the monotonic clock; the wall clock runs backwards."""
    score_of = (vitedge.ClassScore(label, 0, score),)
    times = vitedge.StageTimes(1, 1, 1)
    return vitedge.Prediction(score_of, 0, -moment, 1.0, times, captured_ns=round(moment * 1e9))


def changes(presence, sightings: list[tuple[str, float]]) -> list[int]:
    """Numbers of the frames, ten a second, at which it changed its mind."""
    moments = enumerate(sightings)
    return [number for number, (label, score) in moments if presence.update(seen(label, score, number / 10))]


def test_flicker_changes_nothing(watch_for: ModuleType):
    presence = watch_for.Presence("cat", score=0.5, seconds=0.3)
    assert changes(presence, [("cat", 0.9), ("dog", 0.9), ("cat", 0.9), ("cat", 0.4), ("cat", 0.9)]) == []


def test_what_lasts_is_told_once(watch_for: ModuleType):
    presence = watch_for.Presence("cat", score=0.5, seconds=0.3)
    there, gone = [("cat", 0.9)] * 8, [("dog", 0.9)] * 8
    assert changes(presence, there + gone) == [3, 11]
    assert not presence.there


def test_runs(tiny_bundle: Bundle, colour_frame: Callable[..., np.ndarray], tmp_path: Path):
    colours = np.repeat(["red", "blue", "red"], 25)
    pictures = (colour_frame(colour, height=64, width=64) for colour in colours)
    clip = clips.write_pictures(tmp_path / "clip.avi", pictures, fps=20.0, height=64, width=64)
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tiny_bundle.path), str(clip), "blue", "--seconds", "0.2"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()] == ["blue came", "blue went"]


@pytest.mark.parametrize("arguments", [("nowhere.mp4", "blue"), ("nowhere.mp4", "violet")])
def test_what_is_wrong_is_said(arguments: tuple[str, ...], tiny_bundle: Bundle):
    command = [sys.executable, str(EXAMPLE), str(tiny_bundle.path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
