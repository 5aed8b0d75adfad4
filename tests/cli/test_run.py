"""``vitedge run`` as people and scripts use it: outputs, summary, exit codes, pipes and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.cli import EXIT_ERROR, EXIT_INTERRUPTED
from vitedge.cli.run import StatusLine, Tally
from vitedge.cli.signals import SAME_SECONDS, Stop
from vitedge.prediction import ClassScore, Prediction, StageTimes

cv2 = pytest.importorskip("cv2")
pytest.importorskip("openvino")

import clips  # noqa: E402 - needs OpenCV

pytestmark = pytest.mark.timeout(300)

COLOURS = ("red", "green", "blue")
PATIENCE = 60.0
LONG = 500


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, colour_frame: Callable[..., np.ndarray]) -> Path:
    """Ten frames each of red, green and blue, then twenty more of blue."""
    frames = [colour_frame(colour) for colour in (*COLOURS, "blue", "blue")]
    return write_clip(tmp_path_factory.mktemp("clips") / "colours.avi", frames, times=10)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory, colour_frame: Callable[..., np.ndarray]) -> Path:
    """``LONG`` frames, which no processor is done with before it is interrupted."""
    return write_clip(tmp_path_factory.mktemp("clips") / "long.avi", [colour_frame("red")], times=LONG)


def write_clip(path: Path, frames: Sequence[np.ndarray], *, times: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (320, 240))
    for frame in frames:
        resized = cv2.resize(frame, (320, 240))
        for _ in range(times):
            writer.write(resized)
    writer.release()
    return path


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


def test_a_clip_as_a_camera_keeps_its_length(vitedge_run, clip: Path, tmp_path: Path):
    done = vitedge_run("--source", clip, "--policy", "latest", "--save", tmp_path / "out.avi")
    assert done.returncode == 0
    assert 49 <= len(clips.read_clip(tmp_path / "out.avi")) <= 51


def test_a_folder_of_images_with_a_corrupt_one(vitedge_run, colour_frame, tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, colour in enumerate(COLOURS):
        cv2.imwrite(str(photos / f"{number}.png"), colour_frame(colour, height=300 + number, width=400))
    (photos / "1b.png").write_bytes(b"not a png")
    done = vitedge_run("--source", photos, "--jsonl", "-", "--save", tmp_path / "out.avi")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [(Path(line["file"]).name, line["label"]) for line in lines] == [
        ("0.png", "red"),
        ("1.png", "green"),
        ("2.png", "blue"),
    ]
    assert f"note: {photos}: skipped 1 unreadable of 4 images: {photos / '1b.png'}" in done.stderr
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
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--source", "nowhere.mp4"), "there is no source nowhere.mp4"),
        (("--source", "63"), "there is no camera 63"),
        (("--source", "{clip}", "--jsonl", "{clip}"), "exists"),
        (("--source", "{clip}", "--save", "{clip}"), "exists"),
        (("--source", "{clip}", "--save", "{folder}/out.gif"), "cannot save a video"),
        (("--source", "{clip}", "--save", "{folder}/no/out.mp4"), "is not a folder"),
        (("--source", "{clip}", "--max-frames", "0"), "max_frames is 0"),
        (("--source", "{clip}", "--topk", "0"), "topk is 0"),
    ],
)
def test_wrong_requests_are_one_error_and_write_nothing(
    arguments: tuple[str, ...], problem: str, tiny_bundle: Bundle, clip: Path, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "OFF")
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "-8")
    contents = clip.read_bytes()
    filled = [each.format(clip=clip, folder=tmp_path) for each in arguments]
    from vitedge.cli import main

    assert main(["run", str(tiny_bundle.path), *filled]) == EXIT_ERROR
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert problem in said.err
    assert clip.read_bytes() == contents
    assert list(tmp_path.iterdir()) == []


def test_a_headless_opencv_says_so_before_it_runs(vitedge_run, clip: Path, tmp_path: Path):
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
    finished = len(written) - 1  # the interrupt may come between one sink and the next
    assert said.startswith((f"{finished} predictions", f"{finished + 1} predictions"))
    assert len(clips.read_clip(tmp_path / "x.mp4")) >= finished


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
        assert "red 99.0 %, blue 1.0 %" in lines[5]
        assert lines[6] == "note: it is dark"

    def test_a_rate_is_intervals_over_time(self, monkeypatch: pytest.MonkeyPatch):
        moments = iter((10.0, 10.5, 11.0))
        monkeypatch.setattr("vitedge.cli.run.time.monotonic", lambda: next(moments))
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
