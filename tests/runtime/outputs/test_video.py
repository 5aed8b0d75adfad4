"""Videos can be read back on every way out, and what cannot be written is one clear error."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vitedge.errors import MissingExtraError, UsageError, VitedgeError
from vitedge.runtime.outputs import video
from vitedge.runtime.outputs.base import deliver
from vitedge.runtime.outputs.video import AnnotatedVideo

cv2 = pytest.importorskip("cv2")
pytest.importorskip("PIL.Image")

import clips  # noqa: E402 - needs OpenCV
from predictions import RecordingOutput, prediction  # noqa: E402 - needs OpenCV


class TestAnnotatedVideo:
    def test_a_name_that_opencv_cannot_take_is_one_clear_error(self, tmp_path: Path):
        with pytest.raises(UsageError, match="OpenCV cannot write"):
            AnnotatedVideo(tmp_path / "out\udcff.avi")

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
        bare = dataclasses.replace(prediction(0), image=None)
        with pytest.raises(UsageError, match="without an image"):
            AnnotatedVideo(tmp_path / "out.mp4").write(bare)

    def test_opencv_missing_names_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(MissingExtraError, match="saving video needs cv2"):
            AnnotatedVideo(tmp_path / "out.mp4")
