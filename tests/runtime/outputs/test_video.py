"""Videos can be read back on every way out, and what cannot be written is one clear error."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vitedge.errors import MissingExtraError, UsageError, VitedgeError
from vitedge.prediction import Prediction
from vitedge.runtime.outputs import video
from vitedge.runtime.outputs.base import deliver
from vitedge.runtime.outputs.video import AnnotatedVideo

cv2 = pytest.importorskip("cv2")
pytest.importorskip("PIL.Image")

import clips  # noqa: E402 - needs OpenCV
from predictions import RecordingOutput, prediction  # noqa: E402 - needs OpenCV


def timed(number: int, pts: float) -> Prediction:
    return dataclasses.replace(prediction(number), pts=pts)


FORKED = """
import os, sys
from types import SimpleNamespace
import numpy as np
from vitedge.errors import UsageError
from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.runtime.outputs.video import AnnotatedVideo

image = np.full((64, 64, 3), 90, np.uint8)
picture = SimpleNamespace(bgr=lambda: image)
shown = Prediction((ClassScore("x", 0, 1.0),), 0, 0.0, 0.0, StageTimes(0.0, 0.0, 0.0), picture=picture)
video = AnnotatedVideo(sys.argv[1])
for _ in range(5):
    video.write(shown)
if os.fork() == 0:
    try:
        video.close()
    except UsageError:
        sys.exit(0)  # with destructors, which would end the file
    os._exit(1)
code = os.waitstatus_to_exitcode(os.wait()[1])
for _ in range(5):
    video.write(shown)
video.close()
sys.exit(code)
"""


@pytest.mark.timeout(60)
def test_a_forked_child_leaves_the_file_to_its_parent(tmp_path: Path):
    path = tmp_path / "out.mp4"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, str(path)]
    assert subprocess.run(command, check=False).returncode == 0
    assert len(clips.read_clip(path)) == 10


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

    def test_frames_of_a_constant_rate_are_written_once_each(self, tmp_path: Path):
        shown = [timed(number, number / 29.97) for number in range(90)]
        deliver(shown, [AnnotatedVideo(tmp_path / "out.avi", fps=29.97)])
        assert [clips.number_of(frame) for frame in clips.read_clip(tmp_path / "out.avi")] == list(range(90))

    def test_times_that_are_rounded_to_milliseconds_are_of_a_constant_rate(self, tmp_path: Path):
        shown = [timed(number, round(number / 30, 3)) for number in range(90)]
        deliver(shown, [AnnotatedVideo(tmp_path / "out.avi", fps=30.0)])
        assert [clips.number_of(frame) for frame in clips.read_clip(tmp_path / "out.avi")] == list(range(90))

    def test_a_frame_is_shown_until_the_presentation_time_of_the_next(self, tmp_path: Path):
        times = (5.0, 5.1, 5.5, 5.52, 5.7)
        shown = [timed(number, time) for number, time in enumerate(times)]
        deliver(shown, [AnnotatedVideo(tmp_path / "out.avi", fps=10.0)])
        seen = [clips.number_of(frame) for frame in clips.read_clip(tmp_path / "out.avi")]
        assert seen == [0, 1, 1, 1, 1, 3, 3, 4]

    @pytest.mark.parametrize("realtime", [False, True])
    def test_a_varying_rate_keeps_its_frames_and_its_duration(self, realtime: bool, tmp_path: Path):
        """The mean rate that a container reports would lose most of the first frames."""
        times = [*(number * 0.05 for number in range(20)), *(1.0 + number for number in range(10))]
        shown = [timed(number, time) for number, time in enumerate(times)]
        deliver(shown, [AnnotatedVideo(tmp_path / "out.avi", fps=30 / 11, realtime=realtime)])
        seen = [clips.number_of(frame) for frame in clips.read_clip(tmp_path / "out.avi")]
        assert sorted(set(seen)) == list(range(30))
        first = [seen.index(number) / 30 for number in range(30)]
        assert first == pytest.approx(times, abs=1 / 30)
        assert len(seen) == 10 * 30 + 1

    @pytest.mark.parametrize(("time", "frames"), [(1e9, 601), (-1e9, 1), (0.0, 1)])
    def test_a_presentation_time_that_jumps_writes_no_endless_video(self, time: float, frames: int, tmp_path: Path):
        deliver([timed(0, 0.0), timed(1, time)], [AnnotatedVideo(tmp_path / "out.avi", fps=10.0)])
        assert len(clips.read_clip(tmp_path / "out.avi")) == frames

    def test_a_single_timed_frame_is_a_video(self, tmp_path: Path):
        deliver([timed(3, 7.0)], [AnnotatedVideo(tmp_path / "out.mp4", fps=25.0)])
        (frame,) = clips.read_clip(tmp_path / "out.mp4")
        assert clips.number_of(frame) == 3

    @pytest.mark.parametrize("name", ["x" * 5_000 + ".avi", "a\0b.avi"])
    def test_what_is_no_name_is_one_clear_error(self, tmp_path: Path, name: str):
        with pytest.raises(UsageError, match="cannot be written"):
            AnnotatedVideo(tmp_path / name)

    def test_a_link_that_leads_nowhere_is_not_written_through(self, tmp_path: Path):
        (tmp_path / "out.avi").symlink_to(tmp_path / "elsewhere.avi")
        with pytest.raises(UsageError, match="exists"):
            AnnotatedVideo(tmp_path / "out.avi")

    @pytest.mark.parametrize("suffix", video.VIDEO_CODECS)
    def test_every_format_can_be_read_back(self, suffix: str, tmp_path: Path):
        path = tmp_path / f"out{suffix}"
        deliver([prediction(number) for number in range(10)], [AnnotatedVideo(path, fps=12.5)])
        frames = clips.read_clip(path)
        assert [clips.number_of(frame) for frame in frames] == list(range(10))
        assert frames[0].shape == (240, 320, 3)
        capture = cv2.VideoCapture(str(path))
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
        capture.release()

    def test_the_prediction_is_drawn_into_a_copy(self, tmp_path: Path):
        one = prediction(0)
        untouched = one.image.copy()
        deliver([one], [AnnotatedVideo(tmp_path / "out.avi")])
        (drawn,) = clips.read_clip(tmp_path / "out.avi")
        assert np.array_equal(one.image, untouched)
        assert np.abs(drawn[:60, :60].astype(int) - untouched[:60, :60]).mean() > 20

    def test_passed_over_frames_keep_their_time(self, tmp_path: Path):
        times = (100.0, 100.1, 100.5, 100.52)
        shown = [prediction(number, captured_at=time) for number, time in enumerate(times)]
        deliver(shown, [AnnotatedVideo(tmp_path / "out.avi", fps=10.0, realtime=True)])
        assert [clips.number_of(frame) for frame in clips.read_clip(tmp_path / "out.avi")] == [0, 1, 2, 2, 2, 2, 3]

    @pytest.mark.parametrize("jump", [-3e9, -3600.0, 3600.0, 3e9])
    def test_a_wall_clock_that_jumps_changes_nothing(self, tmp_path: Path, jump: float):
        shown = [
            prediction(number, captured_at=100.0 + number / 10 + (jump if number > 1 else 0.0), captured_ns=time)
            for number, time in enumerate((0, 100_000_000, 200_000_000, 400_000_000))
        ]
        deliver(shown, [AnnotatedVideo(tmp_path / "out.avi", fps=10.0, realtime=True)])
        assert [clips.number_of(frame) for frame in clips.read_clip(tmp_path / "out.avi")] == [0, 1, 2, 3, 3]

    def test_a_machine_that_slept_repeats_a_frame_for_a_while_and_goes_on(self, tmp_path: Path):
        seconds = (0.0, 0.1, 1e6, 1e6 + 0.2)
        shown = [prediction(number, captured_at=time) for number, time in enumerate(seconds)]
        deliver(shown, [AnnotatedVideo(tmp_path / "out.avi", fps=10.0, realtime=True)])
        seen = [clips.number_of(frame) for frame in clips.read_clip(tmp_path / "out.avi")]
        assert seen == [0, 1, *[2] * 600, 3, 3]

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
        monkeypatch.setitem(video.VIDEO_CODECS, ".mp4", ("av01",))
        path = tmp_path / "out.mp4"
        with pytest.raises(UsageError, match="OpenCV cannot write"):
            deliver([prediction(0)], [AnnotatedVideo(path)])
        assert list(tmp_path.iterdir()) == []

    def test_a_codec_that_is_missing_gives_way_to_the_next(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(video.VIDEO_CODECS, ".mp4", ("av01", "mp4v"))
        deliver([prediction(0)], [AnnotatedVideo(tmp_path / "out.mp4")])
        assert len(clips.read_clip(tmp_path / "out.mp4")) == 1

    def test_a_video_that_cannot_be_finished_is_an_error_and_kept(self, tmp_path: Path):
        path = tmp_path / "out.mp4"
        output = AnnotatedVideo(path)
        for number in range(30):
            output.write(prediction(number))
        output._writer.release()
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(VitedgeError, match="could not be finished"):
            output.close()
        assert path.stat().st_size == 200
        output.close()

    def test_a_disk_that_fills_up_is_an_error_and_leaves_a_playable_video(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        free = iter((50 << 20, 45 << 20, 40 << 20, 20 << 20, 8 << 20, 5 << 20, 4 << 20))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
        with pytest.raises(VitedgeError, match=r"4194304 bytes left; the video ends after 3 frames"):
            deliver([prediction(number) for number in range(9)], [AnnotatedVideo(tmp_path / "out.mp4")])
        assert len(clips.read_clip(tmp_path / "out.mp4")) == 3

    def test_a_prediction_without_an_image_is_an_error(self, tmp_path: Path):
        bare = dataclasses.replace(prediction(0), picture=None)
        with pytest.raises(UsageError, match="without an image"):
            AnnotatedVideo(tmp_path / "out.mp4").write(bare)

    def test_opencv_missing_names_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(MissingExtraError, match="saving video needs cv2"):
            AnnotatedVideo(tmp_path / "out.mp4")
