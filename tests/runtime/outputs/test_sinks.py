"""What sinks write can be read back, on every way out, and what they cannot write is one clear error."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vitedge.errors import MissingExtraError, UsageError, VitedgeError
from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.runtime.outputs import sinks
from vitedge.runtime.outputs.sinks import AnnotatedVideo, Callback, JsonLines, ViewerClosed, Window, deliver

cv2 = pytest.importorskip("cv2")
pytest.importorskip("PIL.Image")

import clips  # noqa: E402 - needs OpenCV


def prediction(number: int, *, captured_at: float = 0.0, height: int = 240, width: int = 320) -> Prediction:
    return Prediction(
        topk=(ClassScore("tulips", 2, 0.75), ClassScore("Gänseblümchen", 0, 0.25)),
        frame=number,
        captured_at=captured_at,
        age_ms=12.5,
        stages_ms=StageTimes(1.0, 2.0, 0.5),
        dropped=1,
        image=clips.numbered_frame(number, height=height, width=width),
    )


class Recorder:
    """A sink that remembers, and fails where it is told to."""

    def __init__(self, *, fails_at: int | None = None, error: type[BaseException] = ValueError) -> None:
        self.frames: list[int] = []
        self.closed = 0
        self._fails_at = fails_at
        self._error = error

    def write(self, prediction: Prediction) -> None:
        if prediction.frame == self._fails_at:
            raise self._error
        self.frames.append(prediction.frame)

    def close(self) -> None:
        self.closed += 1


class TestDeliver:
    def test_every_sink_gets_every_prediction_and_is_closed(self):
        first, second = Recorder(), Recorder()
        deliver([prediction(number) for number in range(3)], [first, second])
        assert first.frames == second.frames == [0, 1, 2]
        assert (first.closed, second.closed) == (1, 1)

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_an_error_of_a_sink_closes_all_and_the_stream(self, error: type[BaseException]):
        left: list[str] = []

        def predictions() -> Iterator[Prediction]:
            try:
                yield from (prediction(number) for number in range(9))
            finally:
                left.append("closed")

        before, failing, after = Recorder(), Recorder(fails_at=2, error=error), Recorder()
        held = predictions()
        with pytest.raises(error):
            deliver(held, [before, failing, after])
        assert (before.frames, after.frames) == ([0, 1, 2], [0, 1])
        assert (before.closed, failing.closed, after.closed) == (1, 1, 1)
        assert left == ["closed"]

    def test_an_error_of_the_stream_closes_all(self):
        def predictions() -> Iterator[Prediction]:
            yield prediction(0)
            raise OSError("unplugged")

        sink = Recorder()
        with pytest.raises(OSError, match="unplugged"):
            deliver(predictions(), [sink])
        assert (sink.frames, sink.closed) == ([0], 1)

    def test_a_closed_viewer_is_a_normal_end(self):
        sink = Recorder()
        deliver([prediction(0), prediction(1)], [Recorder(fails_at=1, error=ViewerClosed), sink])
        assert (sink.frames, sink.closed) == ([0], 1)

    def test_one_sink_that_cannot_finish_does_not_keep_the_others_open(self):
        class Broken(Recorder):
            def close(self) -> None:
                raise VitedgeError("disk full")

        first, last = Recorder(), Recorder()
        with pytest.raises(VitedgeError, match="disk full"):
            deliver([prediction(0)], [first, Broken(), last])
        assert (first.closed, last.closed) == (1, 1)

    def test_callback(self):
        frames: list[int] = []
        deliver([prediction(4)], [Callback(lambda each: frames.append(each.frame))])
        assert frames == [4]


class TestJsonLines:
    def test_a_hostile_name_is_one_line_of_strict_json(self, tmp_path: Path):
        hostile = dataclasses.replace(
            prediction(0), topk=(ClassScore("\x1b[2J\n\u2028{", 0, float("nan")),), file="photo\udcff.png"
        )
        deliver([hostile], [JsonLines(tmp_path / "out.jsonl")])
        (line,) = (tmp_path / "out.jsonl").read_text(encoding="ascii").splitlines()
        read = json.loads(line, parse_constant=pytest.fail)
        assert (read["label"], read["score"], read["file"]) == ("\x1b[2J\n\u2028{", None, r"photo\udcff.png")

    def test_a_line_for_each_prediction(self, tmp_path: Path):
        path = tmp_path / "out.jsonl"
        deliver([prediction(0), prediction(1)], [JsonLines(path)])
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert lines == [prediction(0).to_json(), prediction(1).to_json()]
        assert lines[0]["topk"][1]["label"] == "Gänseblümchen"

    def test_lines_are_there_at_once(self, tmp_path: Path):
        sink = JsonLines(tmp_path / "out.jsonl")
        sink.write(prediction(0))
        assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").endswith("}\n")
        sink.close()
        sink.close()

    def test_a_stream_stays_open(self):
        stream = io.StringIO()
        deliver([prediction(0)], [JsonLines(stream)])
        assert json.loads(stream.getvalue())["frame"] == 0

    def test_no_prediction_makes_no_file(self, tmp_path: Path):
        deliver([], [JsonLines(tmp_path / "out.jsonl")])
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_file_is_refused_and_kept(self, tmp_path: Path):
        path = tmp_path / "out.jsonl"
        path.write_text("kept")
        with pytest.raises(UsageError, match="exists"):
            JsonLines(path)
        assert path.read_text() == "kept"

    def test_a_file_that_appeared_meanwhile_is_kept(self, tmp_path: Path):
        path = tmp_path / "out.jsonl"
        sink = JsonLines(path)
        path.write_text("kept")
        with pytest.raises(UsageError, match="cannot write"):
            sink.write(prediction(0))
        assert path.read_text() == "kept"

    def test_a_missing_folder_is_an_error(self, tmp_path: Path):
        with pytest.raises(UsageError, match="is not a folder") as raised:
            JsonLines(tmp_path / "no" / "out.jsonl")
        assert raised.value.fix.startswith("mkdir")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
    def test_a_full_disk_is_an_error(self):
        with Path("/dev/full").open("w") as full:
            with pytest.raises(UsageError, match="No space left"):
                JsonLines(full).write(prediction(0))
            os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())

    def test_a_reader_that_left_is_a_broken_pipe(self):
        reading, writing = os.pipe()
        os.close(reading)
        stream = os.fdopen(writing, "w")
        with pytest.raises(BrokenPipeError):
            JsonLines(stream).write(prediction(0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.close()


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

    @pytest.mark.parametrize("suffix", sinks.VIDEO_CODECS)
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
            deliver([prediction(number) for number in range(9)], [AnnotatedVideo(path), Recorder(fails_at=5)])
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
        monkeypatch.setitem(sinks.VIDEO_CODECS, ".mp4", ("av01",))
        path = tmp_path / "out.mp4"
        with pytest.raises(UsageError, match="OpenCV cannot write"):
            deliver([prediction(0)], [AnnotatedVideo(path)])
        assert list(tmp_path.iterdir()) == []

    def test_a_codec_that_is_missing_gives_way_to_the_next(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sinks.VIDEO_CODECS, ".mp4", ("av01", "mp4v"))
        deliver([prediction(0)], [AnnotatedVideo(tmp_path / "out.mp4")])
        assert len(clips.read_clip(tmp_path / "out.mp4")) == 1

    def test_a_video_that_cannot_be_finished_is_an_error_and_removed(self, tmp_path: Path):
        path = tmp_path / "out.mp4"
        sink = AnnotatedVideo(path)
        for number in range(30):
            sink.write(prediction(number))
        sink._writer.release()
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(VitedgeError, match="could not be finished"):
            sink.close()
        assert not path.exists()
        sink.close()

    def test_a_disk_that_fills_up_is_an_error_and_leaves_a_playable_video(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        free = iter((50 << 20, 40 << 20, 5 << 20, 4 << 20))
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


class FakeScreen:
    """The windows of OpenCV, on no screen."""

    WND_PROP_VISIBLE, WINDOW_NORMAL = cv2.WND_PROP_VISIBLE, cv2.WINDOW_NORMAL
    WINDOW_KEEPRATIO, WINDOW_GUI_NORMAL = cv2.WINDOW_KEEPRATIO, cv2.WINDOW_GUI_NORMAL

    error = cv2.error

    def __init__(self, *, keys: str = "", visible: bool | None = True) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.shown: list[np.ndarray] = []
        self.destroyed = 0
        self._keys = list(keys)
        self._visible = visible

    def namedWindow(self, title: str, flags: int) -> None:  # noqa: N802
        assert not flags & cv2.WINDOW_AUTOSIZE
        self.title = title

    def resizeWindow(self, title: str, width: int, height: int) -> None:  # noqa: N802
        self.sizes.append((width, height))

    def imshow(self, title: str, image: np.ndarray) -> None:
        self.shown.append(image)

    def getWindowProperty(self, title: str, name: int) -> float:  # noqa: N802
        if self._visible is None:
            raise cv2.error("NULL guiReceiver")
        return 1.0 if self._visible else 0.0

    def waitKey(self, milliseconds: int) -> int:  # noqa: N802
        return ord(self._keys.pop(0)) if self._keys else -1

    def destroyAllWindows(self) -> None:  # noqa: N802
        self.destroyed += 1


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch):
    """Open a ``Window`` on a fake screen."""

    def opened(screen: FakeScreen, **arguments: str) -> Window:
        monkeypatch.setattr(sinks, "require", lambda *_, **__: screen)
        monkeypatch.setattr(sinks, "check_window", lambda _: None)
        return Window(**arguments)

    return opened


class TestWindow:
    @pytest.mark.parametrize("key", ["q", "\x1b"])
    def test_q_and_escape_end_the_stream(self, key: str, show):
        screen, rest = FakeScreen(keys=f"a{key}"), Recorder()
        deliver([prediction(number) for number in range(5)], [show(screen), rest])
        assert (len(screen.shown), rest.frames, screen.destroyed) == (2, [0], 1)

    def test_a_title_holds_no_control_characters(self, show):
        screen = FakeScreen()
        deliver([prediction(0)], [show(screen, title="door\0\x1b[2J\udcff")])
        assert screen.title == r"door\x00\x1b[2J\udcff"

    @pytest.mark.parametrize("visible", [False, None], ids=["GTK", "Qt"])
    def test_closing_the_window_ends_the_stream(self, visible: bool | None, show):
        screen, rest = FakeScreen(visible=visible), Recorder()
        deliver([prediction(number) for number in range(5)], [show(screen), rest])
        assert (len(screen.shown), rest.frames, screen.destroyed) == (1, [0], 1)

    @pytest.mark.parametrize(
        ("height", "width", "expected"),
        [(480, 640, (640, 480)), (2160, 3840, (1280, 720)), (1920, 1080, (405, 720))],
    )
    def test_the_window_fits_the_screen(self, height: int, width: int, expected: tuple[int, int], show):
        screen = FakeScreen()
        deliver([prediction(number, height=height, width=width) for number in range(2)], [show(screen)])
        assert screen.sizes == [expected]

    def test_a_build_without_windows_is_one_clear_error(self):
        if "GUI:                           NONE" not in cv2.getBuildInformation():
            pytest.skip("this OpenCV has windows")
        with pytest.raises(VitedgeError, match="built without windows") as raised:
            Window()
        assert "pip install opencv-python" in raised.value.fix

    @pytest.mark.parametrize("failure", [{"returncode": -6}, {"error": subprocess.TimeoutExpired("python", 20)}])
    def test_no_screen_is_one_clear_error(self, failure: dict[str, object], monkeypatch: pytest.MonkeyPatch):
        def probe(*_: object, **__: object) -> object:
            if "error" in failure:
                raise failure["error"]
            return subprocess.CompletedProcess([], failure["returncode"])

        monkeypatch.setattr(subprocess, "run", probe)
        monkeypatch.setenv("DISPLAY", ":77")
        with pytest.raises(VitedgeError, match=r"cannot open a window \(DISPLAY is :77\)"):
            sinks.check_window(type("Build", (), {"getBuildInformation": lambda: "GUI: QT5"}))
