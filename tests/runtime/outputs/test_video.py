"""Videos keep their times and can be played on every way out, and what cannot be written is one clear error."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vitedge.errors import MissingExtraError, UsageError, VitedgeError
from vitedge.prediction import Prediction
from vitedge.runtime.outputs.base import deliver
from vitedge.runtime.outputs.video import AnnotatedVideo, AnnotatedVideos
from vitedge.runtime.outputs.video_writer import VIDEO_FORMATS
from vitedge.runtime.sources.stream_list import NAME_BYTES, NAME_LENGTH, check_name

av = pytest.importorskip("av")
pytest.importorskip("PIL.Image")

import clips  # noqa: E402 - needs PyAV
from browsers import seen_by_chromium  # noqa: E402
from predictions import RecordingOutput, prediction  # noqa: E402 - needs PyAV

KINDS = {".mp4": "h264", ".m4v": "h264", ".mov": "h264", ".mkv": "h264", ".webm": "vp9", ".avi": "mjpeg"}


def timed(number: int, pts: float, *, epoch: int = 0, captured: float = 0.0) -> Prediction:
    shown = prediction(number, captured_ns=round(captured * 1e9))
    return dataclasses.replace(shown, pts=pts, epoch=epoch)


def numbers_in(path: Path) -> list[int]:
    return [clips.number_of(frame) for frame in clips.read_clip(path)]


def duration_of(path: Path) -> float:
    with av.open(path) as container:
        return container.duration / av.time_base


WRITING = """
import dataclasses, os, sys
from types import SimpleNamespace
import numpy as np
from vitedge.errors import UsageError, VitedgeError
from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.runtime.outputs.video import AnnotatedVideo, AnnotatedVideos

random = np.random.default_rng(0)
pictures = [SimpleNamespace(bgr=lambda image=random.integers(0, 256, (240, 320, 3), np.uint8): image) for _ in range(7)]
shown = Prediction((ClassScore("x", 0, 1.0),), 0, 0.0, 0.0, StageTimes(0.0, 0.0, 0.0))
video = AnnotatedVideo(sys.argv[1], fps=25.0)

def write(frames):
    for number in range(frames):
        video.write(dataclasses.replace(shown, picture=pictures[number % 7]))
"""
FORKED = """
write(5)
if os.fork() == 0:
    try:
        video.close()
    except UsageError:
        sys.exit(0)  # with destructors, which would end the file
    os._exit(1)
code = os.waitstatus_to_exitcode(os.wait()[1])
write(5)
video.close()
sys.exit(code)
"""
KILLED = """
write(100)
os.kill(os.getpid(), 9)
"""
FULL = """
import resource
write(50)
resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(sys.argv[1]) + 300_000,) * 2)
try:
    write(1000)
except VitedgeError as error:
    print(error)
video.close()
"""


def write_apart(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Write a video of noise, 25 frames a second, in another process."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", WRITING + code, str(path)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.timeout(60)
def test_a_forked_child_leaves_the_file_to_its_parent(tmp_path: Path):
    path = tmp_path / "out.mp4"
    assert write_apart(FORKED, path).returncode == 0
    assert len(clips.read_clip(path)) == 10


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", VIDEO_FORMATS)
def test_what_a_killed_process_leaves_can_be_played_up_to_the_last_second(suffix: str, tmp_path: Path):
    path = tmp_path / f"out{suffix}"
    assert write_apart(KILLED, path).returncode == -signal.SIGKILL
    frames = clips.read_clip(path)
    assert 70 <= len(frames) <= 100
    assert clips.times_of(path) == pytest.approx([number / 25 for number in range(len(frames))], abs=0.001)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", VIDEO_FORMATS)
def test_a_file_that_may_not_grow_is_an_error_and_can_be_played(suffix: str, tmp_path: Path):
    path = tmp_path / f"out{suffix}"
    done = write_apart(FULL, path)
    assert done.stderr == ""
    assert "out" in done.stdout
    assert "cannot be written any more: File too large" in done.stdout
    with av.open(path) as container:  # its last frame is cut off where the format allows it
        frames = []
        with contextlib.suppress(av.InvalidDataError):
            frames.extend(container.decode(video=0))
    assert len(frames) > 25


@pytest.mark.timeout(200)
class TestBrowser:
    @pytest.mark.parametrize("suffix", [".mp4", ".webm"])
    def test_chromium_plays_a_video_and_seeks_in_it(self, suffix: str, tmp_path: Path):
        path = tmp_path / f"out{suffix}"
        shown = [timed(255 if number // 50 % 2 else 127, number / 25) for number in range(200)]
        deliver(shown, [AnnotatedVideo(path, fps=25.0)])
        seen = seen_by_chromium(path, [1.0, 3.0, 7.0])
        assert (seen.width, seen.height, seen.duration) == (320, 240, pytest.approx(8.0, abs=0.01))
        dark, light = (0, 0, 0), (255, 255, 255)
        assert [tuple(255 * (value > 127) for value in colour) for colour in seen.colours] == [dark, light, light]

    def test_chromium_plays_what_a_killed_process_leaves(self, tmp_path: Path):
        path = tmp_path / "out.mp4"
        write_apart(KILLED, path)
        seen = seen_by_chromium(path, [0.0, 2.5])
        assert seen.duration == pytest.approx(4.0, abs=1.1)


class TestAnnotatedVideo:
    @pytest.mark.parametrize(
        "name",
        ["12:30.mp4", "o%d.avi", "o%03d.mp4", "-o.mkv", "a b.mov", "line\nbreak.avi", "\x1b[2J.mp4", "out\udcff.avi"],
    )
    def test_any_name_can_be_written(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        folder = tmp_path / "in\udcff%d:"
        folder.mkdir()
        monkeypatch.chdir(tmp_path)
        for path in (Path(name), folder / name):
            deliver([prediction(number) for number in range(5)], [AnnotatedVideo(path)])
            assert {each.name for each in path.parent.iterdir()} - {folder.name} == {name}
            plain = path.replace(tmp_path / f"plain{path.suffix}")
            assert len(clips.read_clip(plain)) == 5
            plain.unlink()

    @pytest.mark.parametrize("suffix", VIDEO_FORMATS)
    def test_every_format_can_be_read_back(self, suffix: str, tmp_path: Path):
        path = tmp_path / f"out{suffix}"
        deliver([prediction(number) for number in range(10)], [AnnotatedVideo(path, fps=12.5)])
        assert numbers_in(path) == list(range(10))
        with av.open(path) as container:
            (stream,) = container.streams
            assert (stream.codec_context.name, stream.width, stream.height) == (KINDS[suffix], 320, 240)
            assert float(stream.average_rate) == pytest.approx(12.5)
        assert duration_of(path) == pytest.approx(0.8, abs=0.002)

    @pytest.mark.parametrize("suffix", VIDEO_FORMATS)
    def test_frames_of_a_constant_rate_are_written_once_each(self, suffix: str, tmp_path: Path):
        path = tmp_path / f"out{suffix}"
        deliver([timed(number, number / 29.97) for number in range(90)], [AnnotatedVideo(path, fps=29.97)])
        assert numbers_in(path) == list(range(90))
        assert clips.times_of(path) == pytest.approx([number / 29.97 for number in range(90)], abs=0.001)

    @pytest.mark.parametrize("realtime", [False, True])
    @pytest.mark.parametrize("suffix", [each for each in VIDEO_FORMATS if each != ".avi"])
    def test_a_varying_rate_keeps_its_frames_and_their_times(self, suffix: str, realtime: bool, tmp_path: Path):
        path = tmp_path / f"out{suffix}"
        times = [*(number * 0.05 for number in range(20)), *(1.0 + number for number in range(8))]
        shown = [timed(number, 5.0 + time) for number, time in enumerate(times)]
        deliver(shown, [AnnotatedVideo(path, fps=3.5, realtime=realtime)])
        assert numbers_in(path) == list(range(28))
        assert clips.times_of(path) == pytest.approx(times, abs=0.001)
        assert duration_of(path) == pytest.approx(8.0 + 1 / 3.5, abs=0.01)

    @pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf"), 1e-9, 90_000.0])
    @pytest.mark.parametrize("suffix", [".mp4", ".avi"])
    def test_a_rate_that_no_source_has_is_bounded(self, suffix: str, fps: float, tmp_path: Path):
        path = tmp_path / f"out{suffix}"
        deliver([timed(number, number / 10) for number in range(5)], [AnnotatedVideo(path, fps=fps)])
        assert numbers_in(path) == list(range(5))
        if suffix == ".mp4":
            assert clips.times_of(path) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=0.001)

    def test_an_avi_has_places_for_frames_of_a_constant_rate_alone(self, tmp_path: Path):
        path = tmp_path / "out.avi"
        times = (5.0, 5.1, 5.5, 5.52, 5.7)
        deliver([timed(number, time) for number, time in enumerate(times)], [AnnotatedVideo(path, fps=10.0)])
        assert numbers_in(path) == list(range(5))
        assert clips.times_of(path) == pytest.approx([0.0, 0.1, 0.5, 0.6, 0.7])

    @pytest.mark.parametrize(("time", "seconds"), [(1e9, 60.0), (-1e9, 0.001), (0.0, 0.001)])
    @pytest.mark.parametrize("suffix", [each for each in VIDEO_FORMATS if each != ".avi"])
    def test_a_presentation_time_that_jumps_writes_no_endless_video(
        self, suffix: str, time: float, seconds: float, tmp_path: Path
    ):
        path = tmp_path / f"out{suffix}"
        deliver([timed(0, 0.0), timed(1, time), timed(2, time + 1.0)], [AnnotatedVideo(path)])
        assert clips.times_of(path) == pytest.approx([0.0, seconds, (60.0 if time > 0 else 0.0) + 1.0], abs=0.001)

    def test_a_new_connection_goes_on_after_the_time_that_passed(self, tmp_path: Path):
        path = tmp_path / "out.mp4"
        shown = [
            timed(0, 100.0, captured=7.0),
            timed(1, 100.5, captured=7.4),
            timed(2, 0.0, epoch=1, captured=9.9),
            timed(3, 0.5, epoch=1, captured=10.5),
        ]
        deliver(shown, [AnnotatedVideo(path)])
        assert clips.times_of(path) == pytest.approx([0.0, 0.5, 3.0, 3.5], abs=0.001)

    def test_a_finished_mp4_has_one_index_and_no_fragments(self, tmp_path: Path):
        path = tmp_path / "out.mp4"
        deliver([timed(number, number / 5) for number in range(20)], [AnnotatedVideo(path)])
        content, boxes, place = path.read_bytes(), [], 0
        while place < len(content):
            size = int.from_bytes(content[place : place + 4], "big")
            boxes.append(content[place + 4 : place + 8])
            place += size if size > 1 else int.from_bytes(content[place + 8 : place + 16], "big")
        assert b"moof" not in boxes
        assert boxes[-1] == b"moov"

    def test_a_player_may_seek_every_other_second(self, tmp_path: Path):
        path = tmp_path / "out.mp4"
        deliver([timed(0, float(second)) for second in range(9)], [AnnotatedVideo(path)])
        with av.open(path) as container:
            assert [packet.is_keyframe for packet in container.demux() if packet.size] == [True, False] * 4 + [True]

    @pytest.mark.parametrize(
        ("suffix", "coded"), [(".mp4", (91, 101, 191)), (".webm", (91, 101, 191)), (".avi", (98, 89, 200))]
    )
    def test_colours_are_coded_as_the_file_says(self, suffix: str, coded: tuple[int, ...], tmp_path: Path):
        """Limited range and BT.709 in videos, full range and BT.601 in JPEG pictures."""
        path = tmp_path / f"out{suffix}"
        image = np.full((240, 320, 3), (30, 60, 200), np.uint8)
        shown = dataclasses.replace(prediction(0), picture=dataclasses.replace(prediction(0).picture, image=image))
        deliver([shown], [AnnotatedVideo(path)])
        with av.open(path) as container:
            frame = next(container.decode(video=0))
        assert frame.color_range == (2 if suffix == ".avi" else 1)
        assert frame.colorspace == (5 if suffix == ".avi" else 1)
        values = [np.frombuffer(plane, np.uint8)[-plane.line_size * 30 + 9] for plane in frame.planes]
        assert values == pytest.approx(coded, abs=2)

    @pytest.mark.parametrize("name", ["x" * 5_000 + ".avi", "a\0b.avi"])
    def test_what_is_no_name_is_one_clear_error(self, tmp_path: Path, name: str):
        with pytest.raises(UsageError, match="cannot be written"):
            AnnotatedVideo(tmp_path / name)

    def test_a_link_that_leads_nowhere_is_not_written_through(self, tmp_path: Path):
        (tmp_path / "out.avi").symlink_to(tmp_path / "elsewhere.avi")
        with pytest.raises(UsageError, match="exists"):
            AnnotatedVideo(tmp_path / "out.avi")

    def test_a_file_that_comes_meanwhile_is_kept(self, tmp_path: Path):
        path = tmp_path / "out.mp4"
        output = AnnotatedVideo(path)
        path.write_text("kept")
        with pytest.raises(UsageError, match="cannot be written: File exists"):
            output.write(prediction(0))
        output.close()
        assert path.read_text() == "kept"

    def test_the_prediction_is_drawn_into_a_copy(self, tmp_path: Path):
        one = prediction(0)
        untouched = one.image.copy()
        deliver([one], [AnnotatedVideo(tmp_path / "out.avi")])
        (drawn,) = clips.read_clip(tmp_path / "out.avi")
        assert np.array_equal(one.image, untouched)
        assert np.abs(drawn[:60, :60].astype(int) - untouched[:60, :60]).mean() > 20

    @pytest.mark.parametrize("jump", [0.0, -3e9, -3600.0, 3600.0, 3e9])
    def test_frames_without_presentation_times_keep_their_capture_times_whatever_the_wall_clock_does(
        self, tmp_path: Path, jump: float
    ):
        path = tmp_path / "out.mp4"
        times = (0, 100_000_000, 500_000_000, 520_000_000)
        shown = [
            prediction(number, captured_at=100.0 + time / 1e9 + (jump if number > 1 else 0.0), captured_ns=time)
            for number, time in enumerate(times)
        ]
        deliver(shown, [AnnotatedVideo(path, fps=10.0, realtime=True)])
        assert clips.times_of(path) == pytest.approx([0.0, 0.1, 0.5, 0.52])

    def test_frames_without_any_time_are_equally_long(self, tmp_path: Path):
        path = tmp_path / "out.mp4"
        shown = [prediction(number, captured_ns=number**2) for number in range(4)]
        deliver(shown, [AnnotatedVideo(path, fps=2.0)])
        assert clips.times_of(path) == pytest.approx([0.0, 0.5, 1.0, 1.5])

    def test_a_machine_that_slept_shows_a_frame_for_a_minute_and_goes_on(self, tmp_path: Path):
        path = tmp_path / "out.mp4"
        seconds = (0.0, 0.1, 1e6, 1e6 + 0.2)
        shown = [prediction(number, captured_at=time) for number, time in enumerate(seconds)]
        deliver(shown, [AnnotatedVideo(path, fps=10.0, realtime=True)])
        assert clips.times_of(path) == pytest.approx([0.0, 0.1, 60.1, 60.3], abs=0.001)

    def test_pictures_of_other_sizes_are_fitted(self, tmp_path: Path):
        sizes = [(301, 401), (480, 640), (600, 300)]
        shown = [prediction(5, height=height, width=width) for height, width in sizes]
        deliver(shown, [AnnotatedVideo(tmp_path / "out.avi")])
        frames = clips.read_clip(tmp_path / "out.avi")
        assert [frame.shape for frame in frames] == [(300, 400, 3)] * 3
        assert clips.number_of(frames[0]) == clips.number_of(frames[1]) == 5
        assert frames[2][150, 10].mean() < 30
        assert frames[2][100, 200].mean() > 60

    def test_an_error_leaves_a_playable_video(self, tmp_path: Path):
        path = tmp_path / "out.mp4"
        with pytest.raises(ValueError):  # noqa: PT011
            deliver([prediction(number) for number in range(9)], [AnnotatedVideo(path), RecordingOutput(fails_at=5)])
        assert len(clips.read_clip(path)) == 6

    def test_ctrl_c_while_bytes_are_written_leaves_a_playable_video(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        path = tmp_path / "out.mp4"
        output = AnnotatedVideo(path, fps=25.0)
        for number in range(100):
            output.write(prediction(number))
        monkeypatch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            deliver([prediction(number) for number in range(100)], [output])
        monkeypatch.undo()
        assert numbers_in(path)[:70] == list(range(70))

    def test_no_prediction_makes_no_file(self, tmp_path: Path):
        deliver([], [AnnotatedVideo(tmp_path / "out.mp4")])
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_file_is_refused_and_kept(self, tmp_path: Path):
        path = tmp_path / "out.mp4"
        path.write_text("kept")
        with pytest.raises(UsageError, match="exists"):
            AnnotatedVideo(path)
        assert path.read_text() == "kept"

    @pytest.mark.parametrize("name", ["out.jpg", "out", "out.mp3"])
    def test_another_suffix_is_refused(self, name: str, tmp_path: Path):
        with pytest.raises(UsageError, match="cannot save a video") as raised:
            AnnotatedVideo(tmp_path / name)
        assert ".mp4" in raised.value.expected

    def test_without_an_encoder_nothing_is_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(VIDEO_FORMATS, ".mp4", dataclasses.replace(VIDEO_FORMATS[".mp4"], encoders=("none",)))
        with pytest.raises(UsageError, match="PyAV cannot write") as raised:
            deliver([prediction(0)], [AnnotatedVideo(tmp_path / "out.mp4")])
        assert raised.value.expected == "a PyAV with one of the encoders none"
        assert list(tmp_path.iterdir()) == []

    def test_an_encoder_that_is_missing_gives_way_to_the_next(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """Builds of FFmpeg without the GPL have no libx264; VP9 in an MP4 plays in browsers as well."""
        _, *others = VIDEO_FORMATS[".mp4"].encoders
        monkeypatch.setitem(
            VIDEO_FORMATS, ".mp4", dataclasses.replace(VIDEO_FORMATS[".mp4"], encoders=("none", *others))
        )
        deliver([prediction(number) for number in range(3)], [AnnotatedVideo(tmp_path / "out.mp4")])
        assert numbers_in(tmp_path / "out.mp4") == [0, 1, 2]

    def test_a_size_that_the_encoder_refuses_is_an_error_and_leaves_nothing(self, tmp_path: Path):
        with pytest.raises(UsageError, match=r"cannot be written: .*") as raised:
            deliver([prediction(0, width=17_000)], [AnnotatedVideo(tmp_path / "out.mp4")])
        assert "17000x240" in raised.value.expected
        assert list(tmp_path.iterdir()) == []

    def test_a_video_that_cannot_be_finished_is_an_error_and_can_be_played(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        path = tmp_path / "out.mp4"
        output = AnnotatedVideo(path, fps=25.0)
        for number in range(100):
            output.write(prediction(number))
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(VitedgeError, match="No space left on device"):
            output.close()
        monkeypatch.undo()
        output.close()
        assert numbers_in(path)[:70] == list(range(70))

    def test_a_prediction_without_an_image_is_an_error(self, tmp_path: Path):
        bare = dataclasses.replace(prediction(0), picture=None)
        with pytest.raises(UsageError, match="without an image"):
            AnnotatedVideo(tmp_path / "out.mp4").write(bare)

    def test_pyav_missing_names_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(MissingExtraError, match="saving video needs av"):
            AnnotatedVideo(tmp_path / "out.mp4")


class TestAnnotatedVideos:
    @staticmethod
    def of(source: str, number: int) -> Prediction:
        return dataclasses.replace(timed(number, number / 10), source=source)

    @pytest.mark.parametrize("there", [False, True])
    def test_each_camera_has_its_video(self, there: bool, tmp_path: Path):
        folder = tmp_path / "videos"
        if there:
            folder.mkdir()
        shown = [self.of("yard" if number % 3 else "front door", number) for number in range(9)]
        deliver(shown, [AnnotatedVideos(folder)])
        assert numbers_in(folder / "front door.mp4") == [0, 3, 6]
        assert numbers_in(folder / "yard.mp4") == [1, 2, 4, 5, 7, 8]
        assert clips.times_of(folder / "front door.mp4") == pytest.approx([0.0, 0.3, 0.6], abs=0.001)

    @pytest.mark.parametrize("letter", ["x", "\N{CAMERA}"])
    def test_the_longest_name_of_a_camera_is_the_name_of_a_file(self, letter: str, tmp_path: Path):
        name = letter * min(NAME_LENGTH, NAME_BYTES // len(letter.encode()))
        check_name(name)
        deliver([self.of(name, 0)], [AnnotatedVideos(tmp_path, overwrite=True)])
        assert numbers_in(tmp_path / f"{name}.mp4") == [0]

    def test_no_prediction_makes_no_folder(self, tmp_path: Path):
        deliver([], [AnnotatedVideos(tmp_path / "videos")])
        assert list(tmp_path.iterdir()) == []

    def test_an_error_in_one_leaves_all_finished(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        output = AnnotatedVideos(tmp_path)
        for number in range(4):
            output.write(self.of("a" if number % 2 else "b", number))
        first = output._videos["b"]
        monkeypatch.setattr(first, "close", failing)
        with pytest.raises(VitedgeError, match="broken"):
            output.close()
        monkeypatch.undo()
        first.close()
        assert numbers_in(tmp_path / "a.mp4") == [1, 3]

    def test_what_holds_something_is_no_folder_for_videos(self, tmp_path: Path):
        (tmp_path / "kept").touch()
        with pytest.raises(UsageError, match="is not empty"):
            AnnotatedVideos(tmp_path)
        with pytest.raises(UsageError, match="is a file"):
            AnnotatedVideos(tmp_path / "kept")
        with pytest.raises(UsageError, match="is not a folder"):
            AnnotatedVideos(tmp_path / "no" / "videos")


def failing() -> None:
    raise VitedgeError("broken")


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")
