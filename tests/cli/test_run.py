"""``vitedge run`` as people and scripts use it: outputs, summary, exit codes and pipes."""

from __future__ import annotations

import collections
import json
import os
import pty
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.cli import EXIT_ERROR, EXIT_USAGE, main

pytest.importorskip("av")
pytest.importorskip("openvino")

import clips
import photos
from run_command import PATIENCE, command

pytestmark = pytest.mark.timeout(300)

COLOURS = ("red", "green", "blue")


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


@pytest.mark.parametrize("option", ["--save", "--jsonl"])
def test_what_is_read_is_never_replaced(option: str, vitedge_run, clip: Path, tmp_path: Path):
    own = tmp_path / "own.mp4"
    own.write_bytes(clip.read_bytes())
    done = vitedge_run("--source", own, option, f"{tmp_path}/./own.mp4", "--overwrite")
    assert done.returncode == EXIT_USAGE
    assert f"{option} would replace what is read" in done.stderr
    assert own.read_bytes() == clip.read_bytes()


def test_a_video_of_a_named_source_does_not_replace_it(vitedge_run, clip: Path, tmp_path: Path):
    own = tmp_path / "gate.mp4"
    own.write_bytes(clip.read_bytes())
    done = vitedge_run("--source", f"gate={own}", "--source", f"yard={clip}", "--save", tmp_path, "--overwrite")
    assert done.returncode == EXIT_USAGE
    assert "--save, for gate would replace what is read" in done.stderr


def test_two_outputs_of_one_name_are_refused(vitedge_run, clip: Path, tmp_path: Path):
    done = vitedge_run("--source", clip, "--save", tmp_path / "a.mp4", "--jsonl", tmp_path / "a.mp4", "--overwrite")
    assert done.returncode == EXIT_USAGE
    assert "--jsonl and --save name the same file" in done.stderr
    assert not list(tmp_path.iterdir())


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
        (("--source", "{clip}", "--jsonl", "{clip}"), EXIT_USAGE, "would replace what is read"),
        (("--source", "{clip}", "--save", "{clip}"), EXIT_USAGE, "would replace what is read"),
        (("--source", "{clip}", "--save", "{folder}/out.gif"), EXIT_USAGE, "cannot save a video"),
        (("--source", "{clip}", "--save", "{folder}/no/out.mp4"), EXIT_USAGE, "is not a folder"),
        (("--source", "{clip}", "--max-frames", "0"), EXIT_USAGE, "max_frames is 0"),
        (("--source", "{clip}", "--topk", "0"), EXIT_USAGE, "topk is 0"),
        (("--source", "{clip}", "--max-age", "0"), EXIT_USAGE, "max_age_ms is 0"),
        (("--source", "{clip}", "--threads", "0"), EXIT_USAGE, "threads is 0"),
        (("--source", "a={clip}", "--source", "a={clip}"), EXIT_USAGE, "two sources have the name 'a'"),
        (
            ("--source", "Door={clip}", "--source", "door={clip}", "--save", "{folder}/new"),
            EXIT_USAGE,
            "the videos of 'Door' and 'door' are one file",
        ),
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
