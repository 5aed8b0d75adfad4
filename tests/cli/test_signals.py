"""Ctrl-C, SIGTERM and SIGHUP: outputs stay whole, and the exit code says which it was."""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.cli import EXIT_INTERRUPTED
from vitedge.cli.signals import SAME_SECONDS, Stop, stoppable

pytest.importorskip("av")
pytest.importorskip("openvino")

import clips
from predictions import prediction
from run_command import PATIENCE, command

pytestmark = pytest.mark.timeout(300)

LONG = 500
SIGNALS = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: 0, signal.SIGHUP: 129}
"""Exit codes."""


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory, colour_frame: Callable[..., np.ndarray]) -> Path:
    """``LONG`` frames, which no processor is done with before it is interrupted."""
    pictures = [colour_frame("red", height=240, width=320)] * LONG
    return clips.write_pictures(tmp_path_factory.mktemp("clips") / "long.avi", pictures, height=240, width=320)


@pytest.mark.parametrize("twice", [False, True], ids=["once", "to the group as well"])
@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_leaves_whole_outputs(
    number: signal.Signals, twice: bool, tiny_bundle: Bundle, long_clip: Path, tmp_path: Path
):
    lines = tmp_path / "out.jsonl"
    with subprocess.Popen(
        command(
            tiny_bundle, "--source", long_clip, "--policy", "every", "--save", tmp_path / "x.mp4", "--jsonl", lines
        ),
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not (lines.exists() and lines.read_text().count("\n") > 3):
            time.sleep(0.01)
        for _ in range(2 if twice else 1):
            running.send_signal(number)
        said = running.stderr.read()
        assert running.wait(PATIENCE) == SIGNALS[number]
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert 3 < len(written) < LONG
    assert "Traceback" not in said
    assert said.startswith(f"{len(written)} predictions")
    assert len(clips.read_clip(tmp_path / "x.mp4")) == len(written)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_reader_that_does_not_read_holds_up_no_signal(number: signal.Signals, tiny_bundle: Bundle, tmp_path: Path):
    arguments = command(tiny_bundle, "--source", "test://?size=64x64", "--topk", 3, "--jsonl", "-")
    with subprocess.Popen(
        [*arguments, "--save", str(tmp_path / "x.mp4"), "--policy", "every"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pipesize=4096,
    ) as running:
        pipe = running.stdout.fileno()
        waiting, before = unread(pipe), -1
        while not waiting or waiting != before:  # the pipe is full
            time.sleep(0.5)
            waiting, before = unread(pipe), waiting
        running.send_signal(number)
        said = running.stderr.read()
        assert running.wait(PATIENCE) == SIGNALS[number]
        lines = running.stdout.read().splitlines()
    assert "Traceback" not in said
    assert "predictions" in said
    assert len(clips.read_clip(tmp_path / "x.mp4")) == len(lines)


def unread(pipe: int) -> int:
    """Bytes that wait in a pipe."""
    waiting = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, waiting)
    return waiting[0]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_a_camera_does_not_answer(number: signal.Signals, tiny_bundle: Bundle):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/1?open_timeout=600"
        arguments = command(tiny_bundle, "--source", address)
        with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as running, silent.accept()[0]:
            running.send_signal(number)
            said = running.stderr.read()
            assert running.wait(PATIENCE) == SIGNALS[number]
    assert said == "interrupted before the first prediction\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_while_the_model_loads(number: signal.Signals, tiny_bundle: Bundle, clip: Path):
    script = (
        "import os, sys, vitedge.runtime.load as loading\n"
        f"loading.load = lambda *_, **__: os.kill(os.getpid(), {int(number)})\n"
        "from vitedge.cli import main\n"
        f"sys.exit(main(['run', {str(tiny_bundle.path)!r}, '--source', {str(clip)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == SIGNALS[number]
    assert done.stderr == "interrupted before the first prediction\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(number: signal.Signals, tiny_bundle: Bundle, tmp_path: Path):
    script = (
        "import sys, time, vitedge.cli.run as verb\n"
        "def hang(*_):\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(600)\n"
        "    finally:\n"
        "        print('finishing', flush=True); time.sleep(600)\n"
        "verb._stream = hang\n"
        "from vitedge.cli import main\n"
        f"sys.exit(main(['run', {str(tiny_bundle.path)!r}, '--source', '0']))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(number)
        assert running.stdout.readline() == "finishing\n"
        time.sleep(2 * SAME_SECONDS)
        running.send_signal(number)
        assert running.wait(PATIENCE) == -number


def test_an_ignored_signal_stays_ignored(tiny_bundle: Bundle, clip: Path):
    shell = "trap '' HUP; exec \"$@\""
    with subprocess.Popen(
        ["sh", "-c", shell, "sh", *command(tiny_bundle, "--source", clip, "--jsonl", "-", "--policy", "latest")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        running.stdout.readline()
        running.send_signal(signal.SIGHUP)
        running.communicate(timeout=PATIENCE)
        assert running.returncode == 0


def test_an_interrupt_that_a_library_swallows_ends_the_next_prediction():
    stop = Stop()
    stop.write(prediction(0))
    with pytest.raises(KeyboardInterrupt):
        stop.handle(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        stop.write(prediction(0))
    assert stop.exit_code == 0


@pytest.mark.alone
def test_a_signal_ends_the_predictions_and_interrupts_no_output():
    ended, handler = [], signal.getsignal(signal.SIGALRM)
    with stoppable() as stop:
        with stop.ends(lambda: ended.append(True)):
            os.kill(os.getpid(), signal.SIGTERM)
            assert ended == [True]
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
        assert not stop.overdue
    assert signal.getsignal(signal.SIGALRM) is handler
