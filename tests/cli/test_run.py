"""``vitedge run`` as people and scripts use it: outputs, summary, exit codes, pipes and Ctrl-C."""

from __future__ import annotations

import array
import collections
import dataclasses
import fcntl
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.cli import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, main, tally
from vitedge.cli.signals import SAME_SECONDS, Stop, stoppable
from vitedge.cli.tally import NOTES_A_MINUTE, StateNotes, StatusLine, StatusLog, Tally
from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.runtime.stream.states import StateChange
from vitedge.runtime.stream.stats import StreamStats

pytest.importorskip("av")
pytest.importorskip("openvino")

import clips
import photos

pytestmark = pytest.mark.timeout(300)

COLOURS = ("red", "green", "blue")
PATIENCE = 60.0
LONG = 500


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, colour_frame: Callable[..., np.ndarray]) -> Path:
    """Ten frames each of red, green and blue, then twenty more of blue."""
    colours = np.repeat([*COLOURS, "blue", "blue"], 10)
    pictures = (colour_frame(colour, height=240, width=320) for colour in colours)
    return clips.write_pictures(tmp_path_factory.mktemp("clips") / "colours.avi", pictures, height=240, width=320)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory, colour_frame: Callable[..., np.ndarray]) -> Path:
    """``LONG`` frames, which no processor is done with before it is interrupted."""
    pictures = [colour_frame("red", height=240, width=320)] * LONG
    return clips.write_pictures(tmp_path_factory.mktemp("clips") / "long.avi", pictures, height=240, width=320)


def command(bundle: Bundle, *arguments: object) -> list[str]:
    """As a user runs it, in an interpreter where warnings are errors."""
    return [sys.executable, "-W", "error", "-m", "vitedge", "run", str(bundle.path), *map(str, arguments)]


@pytest.fixture
def vitedge_run(tiny_bundle: Bundle) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(tiny_bundle, *arguments), capture_output=True, text=True, timeout=PATIENCE * 2, check=False
        )

    return run


def test_a_summary_and_nothing_else_unless_asked(vitedge_run, clip: Path):
    done = vitedge_run("--source", clip)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("50 predictions, ")
    assert "0 frames dropped" in done.stderr
    for name in ("age", "preprocess", "infer", "postprocess"):
        assert f"  {name} " in done.stderr
    assert "blue 60.0 %, red 20.0 %, green 20.0 %" in done.stderr
    assert "\033" not in done.stderr
    assert "note:" not in done.stderr


def test_lines_on_stdout_are_json_and_nothing_else(vitedge_run, clip: Path):
    done = vitedge_run("--source", clip, "--jsonl", "-", "--topk", 2)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [line["frame"] for line in lines] == list(range(50))
    assert [line["label"] for line in lines[::10]] == ["red", "green", "blue", "blue", "blue"]
    assert {len(line["topk"]) for line in lines} == {2}
    assert "50 predictions" in done.stderr


def test_files_are_written(vitedge_run, clip: Path, tmp_path: Path):
    done = vitedge_run(
        *("--source", clip, "--jsonl", tmp_path / "out.jsonl", "--save", tmp_path / "out.mp4"),
        *("--policy", "every", "--max-frames", 12, "--engine", "onnxruntime"),
    )
    assert done.returncode == 0
    assert done.stdout == ""
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 12
    assert len(clips.read_clip(tmp_path / "out.mp4")) == 12
    assert "12 predictions" in done.stderr
    done = vitedge_run(
        *("--source", clip, "--jsonl", tmp_path / "out.jsonl", "--save", tmp_path / "out.mp4"),
        *("--policy", "every", "--max-frames", 3, "--engine", "onnxruntime", "--overwrite", "--quiet"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    assert len(clips.read_clip(tmp_path / "out.mp4")) == 3
    assert len(list(tmp_path.iterdir())) == 2


def test_a_clip_as_a_camera_keeps_its_length(vitedge_run, clip: Path, tmp_path: Path):
    saved = tmp_path / "out.mp4"
    done = vitedge_run("--source", clip, "--policy", "latest", "--jsonl", "-", "--save", saved)
    times = [json.loads(line)["pts"] for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert clips.times_of(saved) == pytest.approx([time - times[0] for time in times], abs=0.001)
    assert times[-1] == pytest.approx(49 / 25, abs=0.2)


def test_a_folder_of_images_with_a_corrupt_one(vitedge_run, colour_frame, tmp_path: Path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, colour in enumerate(COLOURS):
        photos.save_image(folder / f"{number}.png", colour_frame(colour, height=300 + number, width=400))
    (folder / "1b.png").write_bytes(b"not a png")
    done = vitedge_run("--source", folder, "--jsonl", "-", "--save", tmp_path / "out.avi")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [(Path(line["file"]).name, line["label"]) for line in lines] == [
        ("0.png", "red"),
        ("1.png", "green"),
        ("2.png", "blue"),
    ]
    assert f"note: {folder}: skipped 1 unreadable of 4 images: {folder / '1b.png'}" in done.stderr
    assert done.stderr.count("1b.png") == 1
    assert len(clips.read_clip(tmp_path / "out.avi")) == 3


def test_a_cut_off_video_is_noted_in_our_words_only(vitedge_run, clip: Path, tmp_path: Path):
    cut = tmp_path / "cut.avi"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    done = vitedge_run("--source", cut)
    assert done.returncode == 0
    notes = [line for line in done.stderr.splitlines() if not line.startswith((" ", "note: "))]
    assert len(notes) == 1
    assert "predictions, " in notes[0]
    assert f"note: {cut} is cut off: it ended after" in done.stderr


def test_a_source_that_ends_in_an_error_keeps_what_came_before(vitedge_run, clip: Path, tmp_path: Path):
    broken = tmp_path / "photo.png"
    broken.write_bytes(b"not a png")
    done = vitedge_run("--source", broken, "--jsonl", tmp_path / "out.jsonl")
    assert done.returncode == EXIT_ERROR
    assert "error: " in done.stderr
    assert "photo.png" in done.stderr
    assert "Traceback" not in done.stderr
    assert "no predictions" not in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("--source", "nowhere.mp4"), EXIT_ERROR, "there is no source nowhere.mp4"),
        (("--source", "63"), EXIT_ERROR, "there is no camera 63"),
        (("--source", "{clip}", "--jsonl", "{clip}"), EXIT_USAGE, "exists"),
        (("--source", "{clip}", "--save", "{clip}"), EXIT_USAGE, "exists"),
        (("--source", "{clip}", "--save", "{folder}/out.gif"), EXIT_USAGE, "cannot save a video"),
        (("--source", "{clip}", "--save", "{folder}/no/out.mp4"), EXIT_USAGE, "is not a folder"),
        (("--source", "{clip}", "--max-frames", "0"), EXIT_USAGE, "max_frames is 0"),
        (("--source", "{clip}", "--topk", "0"), EXIT_USAGE, "topk is 0"),
        (("--source", "{clip}", "--max-age", "0"), EXIT_USAGE, "max_age_ms is 0"),
        (("--source", "{clip}", "--threads", "0"), EXIT_USAGE, "threads is 0"),
        (("--source", "a={clip}", "--source", "a={clip}"), EXIT_USAGE, "two sources have the name 'a'"),
        (("--source", "a={clip}", "--source", "{clip}", "--show"), EXIT_USAGE, "a window shows one source"),
        (
            ("--source", "a={clip}", "--source", "{clip}", "--policy", "every"),
            EXIT_USAGE,
            "--policy every is for one source",
        ),
        (("--source", "a={clip}", "--source", "{clip}", "--save", "{clip}"), EXIT_USAGE, "is a file"),
        (
            ("--source", "a={clip}", "--source", "{clip}", "--save", "{folder}/out.mp4"),
            EXIT_USAGE,
            "out.mp4 is the name of one video",
        ),
    ],
)
def test_wrong_requests_are_one_error_and_write_nothing(
    arguments: tuple[str, ...], code: int, problem: str, tiny_bundle: Bundle, clip: Path, tmp_path: Path, capsys
):
    contents = clip.read_bytes()
    filled = [each.format(clip=clip, folder=tmp_path) for each in arguments]
    from vitedge.cli import main

    assert main(["run", str(tiny_bundle.path), *filled]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert problem in said.err
    assert clip.read_bytes() == contents
    assert list(tmp_path.iterdir()) == []


def test_a_headless_opencv_says_so_before_it_runs(vitedge_run, clip: Path, tmp_path: Path):
    cv2 = pytest.importorskip("cv2")
    if "GUI:                           NONE" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has windows")
    done = vitedge_run("--source", clip, "--show", "--jsonl", tmp_path / "out.jsonl")
    assert done.returncode == EXIT_ERROR
    assert done.stderr.startswith("error: this OpenCV was built without windows")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_ends_the_run_quietly(tiny_bundle: Bundle, clip: Path):
    with subprocess.Popen(
        command(tiny_bundle, "--source", clip, "--jsonl", "-", "--policy", "latest"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert json.loads(running.stdout.readline())["frame"] == 0
        running.stdout.close()
        said = running.stderr.read()
        assert running.wait(PATIENCE) == EXIT_ERROR
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
    assert "prediction" in said


SIGNALS = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: 0, signal.SIGHUP: 129}


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


@pytest.mark.timeout(60)
@pytest.mark.parametrize("named", [False, True])
def test_a_camera_that_refuses_is_one_line_and_is_tried_again(named: bool, tiny_bundle: Bundle):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"rtsp://me:secret@127.0.0.1:{closed.getsockname()[1]}/1"
    source = f"door={address}" if named else address
    with subprocess.Popen(
        command(tiny_bundle, "--source", source, "--reconnect"), stderr=subprocess.PIPE, text=True
    ) as running:
        first = running.stderr.readline()
        time.sleep(2.0)
        running.send_signal(signal.SIGTERM)
        rest = running.stderr.read()
        assert running.wait(PATIENCE) == 0
    name = "door" if named else address.replace("me:secret", "***")
    assert first == f"{name}: offline (refused), trying again\n"
    assert "offline" not in rest
    assert "no predictions" in rest


class TestSeveralSources:
    def test_lines_name_their_source_and_each_has_a_video(self, vitedge_run, clip: Path, tmp_path: Path):
        done = vitedge_run(
            *("--source", f"door={clip}", "--source", "test://?frames=20&size=64x48", "--jsonl", "-"),
            *("--save", tmp_path / "videos"),
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0
        assert collections.Counter(line["source"] for line in lines) == {"door": 50, "2": 20}
        assert [line["frame"] for line in lines if line["source"] == "door"] == list(range(50))
        assert len(clips.read_clip(tmp_path / "videos" / "door.mp4")) == 50
        assert len(clips.read_clip(tmp_path / "videos" / "2.mp4")) == 20
        assert done.stderr.startswith("70 predictions, ")
        assert "\n  door         50 predictions, age p50" in done.stderr
        assert "\n  2            20 predictions, age p50" in done.stderr

    def test_a_list_of_streams(self, vitedge_run, clip: Path, tmp_path: Path):
        (tmp_path / "cameras.streams").write_text(f"# two\ndoor = {clip}\nyard = test://?frames=5&size=64x48\n")
        done = vitedge_run("--source", tmp_path / "cameras.streams", "--jsonl", "-")
        sources = collections.Counter(json.loads(line)["source"] for line in done.stdout.splitlines())
        assert (done.returncode, sources) == (0, {"door": 50, "yard": 5})

    def test_one_that_fails_is_an_error_after_the_others(self, vitedge_run, clip: Path, tmp_path: Path):
        done = vitedge_run("--source", f"door={clip}", "--source", f"yard={tmp_path}/no.mp4", "--jsonl", "-")
        assert done.returncode == EXIT_ERROR
        assert len(done.stdout.splitlines()) == 50
        assert "error: " in done.stderr
        assert "yard" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_file_needs_no_opencv(tiny_bundle: Bundle, clip: Path, tmp_path: Path, colour_frame):
    """Decoding, classifying and saving, where ``import cv2`` fails."""
    photos.save_image(tmp_path / "photo.png", colour_frame("red"))
    (tmp_path / "cv2.py").write_text("raise SystemExit('OpenCV was imported')\n")
    for source in (clip, tmp_path / "photo.png", "test://?frames=3"):
        saved = tmp_path / f"{len(list(tmp_path.iterdir()))}.mp4"
        done = subprocess.run(
            command(tiny_bundle, "--source", source, "--save", saved),
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert saved.exists()


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
    stop.write(prediction())
    with pytest.raises(KeyboardInterrupt):
        stop.handle(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        stop.write(prediction())
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


def on_a_terminal(arguments: list[str], *, stdout: bool) -> str:
    """What a terminal shows that stderr, and maybe stdout, are connected to."""
    screen, terminal = pty.openpty()
    outputs = {"stderr": terminal, "stdout": terminal if stdout else subprocess.DEVNULL}
    with subprocess.Popen(arguments, **outputs) as running:
        os.close(terminal)
        said = b""
        try:
            while chunk := os.read(screen, 4096):
                said += chunk
        except OSError:  # how a pseudo-terminal says that the other side has closed it
            pass
        assert running.wait(PATIENCE) == 0
    os.close(screen)
    return said.decode()


def test_a_terminal_shows_lines_of_json_undisturbed(tiny_bundle: Bundle, clip: Path):
    arguments = command(tiny_bundle, "--source", clip, "--jsonl", "-", "--max-frames", 3)
    said = on_a_terminal(arguments, stdout=True)
    assert "\033" not in said
    assert [json.loads(line)["frame"] for line in said.splitlines()[:3]] == [0, 1, 2]


def test_a_terminal_shows_the_last_prediction_on_one_line(tiny_bundle: Bundle, clip: Path):
    said = on_a_terminal(command(tiny_bundle, "--source", clip, "--policy", "latest"), stdout=False)
    status = said.split("\r\033[K")
    assert len(status) > 3
    assert status[1].startswith("frame 0  red ")
    assert all("\n" not in line for line in status[:-1])
    assert "predictions" in status[-1]


def prediction(label: str = "red", *, age: float = 1.0, dropped: int = 0, abstained: bool = False) -> Prediction:
    stages = StageTimes(1.0, 2.0, 3.0)
    return Prediction((ClassScore(label, 0, 0.5),), 0, 0.0, age, stages, dropped, abstained=abstained)


class TestTally:
    def test_percentiles_labels_and_drops(self):
        tally = Tally()
        for number in range(101):
            tally.write(prediction("red" if number else "blue", age=float(number), dropped=2))
        lines = tally.summary(("it is dark",)).splitlines()
        assert lines[0].endswith("202 frames dropped")
        assert lines[1].split() == ["age", "p50", "50.00", "ms", "p99", "99.00", "ms"]
        assert lines[3].split()[:3] == ["infer", "p50", "2.00"]
        assert lines[5].split() == ["age", "from", "arrival"]
        assert "red 99.0 %, blue 1.0 %" in lines[6]
        assert lines[7] == "note: it is dark"

    def test_drops_by_cause_and_what_the_source_did(self):
        tally = Tally()
        tally.write(prediction())
        dropped = {"newer": 4, "max_fps": 0, "too_old": 0, "corrupt": 1, "backlog": 0, "at_end": 2}
        stats = StreamStats(8, 1, dropped, 0, corrupt=1, stalls=1, reconnects=2)
        lines = tally.summary(stats=stats).splitlines()
        assert "  dropped      of 8 frames: 4 newer, 1 corrupt, 2 at the end" in lines
        assert "  source       1 stall, 2 reconnects, 1 corrupt frame" in lines

    def test_several_sources_have_a_line_each(self):
        tally = Tally()
        for number in range(3):
            tally.write(dataclasses.replace(prediction(age=10.0 + number), source="door"))
        silent = {"newer": 0, "at_end": 1}
        door, yard = StreamStats(4, 3, silent, 0), StreamStats(0, 0, {"newer": 0}, 0, stalls=1)
        lines = tally.summary(("yard: dark",), StreamStats(4, 3, silent, 0), {"door": door, "yard": yard}).splitlines()
        assert lines[0].startswith("3 predictions")
        assert lines[-3] == "  door         3 predictions, age p50    11.00 ms   p99    11.98 ms, 1 at the end"
        assert lines[-2] == "  yard         0 predictions, 1 stall"
        assert lines[-1] == "note: yard: dark"

    def test_a_rate_is_intervals_over_time(self, monkeypatch: pytest.MonkeyPatch):
        moments = iter((10.0, 10.5, 11.0))
        monkeypatch.setattr("vitedge.cli.tally.time", SimpleNamespace(monotonic=lambda: next(moments)))
        tally = Tally()
        for _ in range(3):
            tally.write(prediction())
        assert tally.summary(()).startswith("3 predictions, 2.0 fps, ")

    def test_one_prediction_has_no_rate(self):
        tally = Tally()
        tally.write(prediction())
        assert tally.summary(()).startswith("1 prediction, 0 frames")

    def test_abstained_predictions_are_counted(self):
        tally = Tally()
        for number in range(4):
            tally.write(prediction(abstained=number == 2))
        assert "  unsure       1 below the threshold, 25.0 %\n" in tally.summary(())

    def test_nothing_came(self):
        assert Tally().summary(()) == "no predictions\n"


class TestStateNotes:
    @staticmethod
    def told(changes: list[StateChange], capsys: pytest.CaptureFixture[str], **options: bool) -> list[str]:
        notes = StateNotes("camera", **{"clears_line": False, **options})
        for change in changes:
            notes(change)
        return capsys.readouterr().err.splitlines()

    def test_an_outage_is_a_line_each_way(self, capsys: pytest.CaptureFixture[str]):
        lost = StateChange("reconnecting", cause="network")
        down = [StateChange("offline", cause="refused", attempt=attempt) for attempt in range(1, 50)]
        changes = [StateChange("connecting"), StateChange("online"), lost, *down, StateChange("online")]
        assert self.told(changes, capsys) == [
            "camera: lost (network), connecting again",
            "camera: offline (refused), trying again",
            "camera: online again",
        ]

    def test_cameras_are_told_apart(self, capsys: pytest.CaptureFixture[str]):
        changes = [StateChange("stalled", source="door"), StateChange("online", source="yard\x1b[2J")]
        changes.append(StateChange("stalled", source="yard\x1b[2J"))
        assert self.told(changes, capsys) == [
            "door: stalled: no frame comes",
            r"yard\x1b[2J: stalled: no frame comes",
        ]

    def test_a_loose_cable_floods_nothing(self, capsys: pytest.CaptureFixture[str]):
        changes = [StateChange("stalled"), StateChange("online")] * 100
        assert len(self.told(changes, capsys)) == NOTES_A_MINUTE

    def test_a_status_line_is_cleared_first(self, capsys: pytest.CaptureFixture[str]):
        assert self.told([StateChange("stalled")], capsys, clears_line=True)[-1].startswith("\033[K")


class TestStatusLine:
    def test_fits_the_terminal(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("COLUMNS", "40")
        screen = io.StringIO()
        StatusLine(screen).write(prediction("a" * 100))
        assert len(screen.getvalue().removeprefix("\r\033[K")) == 39

    def test_a_hostile_label_moves_no_cursor(self):
        screen = io.StringIO()
        StatusLine(screen).write(prediction("\x1b[2J\nred"))
        assert "\\x1b[2J\\nred 50.0 %" in screen.getvalue()
        assert screen.getvalue().count("\033") == 1

    def test_a_terminal_that_has_gone_ends_no_stream(self):
        attempts = []

        class Gone(io.StringIO):
            def write(self, text: str) -> int:
                attempts.append(text)
                raise OSError(5, "Input/output error")

        status = StatusLine(Gone())
        status.write(prediction())
        status.close()
        assert attempts

    def test_says_that_it_is_unsure(self):
        screen = io.StringIO()
        StatusLine(screen).write(prediction(abstained=True))
        assert "frame 0  unsure: red 50.0 %" in screen.getvalue()

    def test_is_not_redrawn_for_every_prediction_and_cleared_at_the_end(self):
        screen = io.StringIO()
        status = StatusLine(screen)
        for _ in range(50):
            status.write(prediction(dropped=1))
        status.close()
        lines = screen.getvalue().split("\r\033[K")
        assert len(lines) < 20
        assert lines[1].startswith("frame 0  red 50.0 %  -  age 1 ms  dropped 1")
        assert lines[-1] == ""


class TestStatusLog:
    def test_tells_the_first_prediction_and_one_every_half_a_minute(self, monkeypatch: pytest.MonkeyPatch):
        now = [1000.0]
        monkeypatch.setattr(tally.time, "monotonic", lambda: now[0])
        log = io.StringIO()
        status = StatusLog(log)
        for _ in range(61):
            status.write(prediction(dropped=1))
            now[0] += 1.0
        status.close()
        told = log.getvalue().splitlines()
        assert [line.rsplit(" ", 1)[1] for line in told] == ["1", "26", "51"]
        assert told[0].startswith("frame 0  red 50.0 %")

    @pytest.mark.parametrize(
        ("source", "options", "told"),
        [
            ("test://?fps=30", [], True),
            ("test://?fps=30", ["--quiet"], False),
            ("test://?fps=30", ["--jsonl", "-"], False),
            ("clip", [], False),
        ],
    )
    def test_is_for_cameras_without_a_terminal_and_without_lines(
        self,
        source: str,
        options: list[str],
        told: bool,
        tiny_bundle: Bundle,
        clip: Path,
        capsys: pytest.CaptureFixture[str],
    ):
        address = str(clip) if source == "clip" else source
        assert main(["run", str(tiny_bundle.path), "--source", address, "--max-frames", "3", *options]) == 0
        assert bool(re.search(r"^frame \d+  ", capsys.readouterr().err, re.MULTILINE)) is told
