"""Videos whole and cut off, cameras and network streams with all their manners."""

from __future__ import annotations

import http.server
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources import capture, opencv_names
from vitedge.runtime.sources.capture import Capture
from vitedge.runtime.sources.open import open_source
from vitedge.safety.escape import terminal

cv2 = pytest.importorskip("cv2")

import clips  # noqa: E402 - needs OpenCV

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:the source .* was not closed:ResourceWarning"),  # fakes hold no device
]

AWKWARD_NAMES = [
    *("12:30.avi", "clip%d.avi", "clip%03d.avi", "100%.avi", "-dash.avi", "a b.avi", "a#b?c.avi", "a*[1].avi"),
    *(
        "'quoted\".avi",
        "line\nbreak.avi",
        "\x1b[2J.avi",
        "été—日本.avi",
        "clip\udcff.avi",
        "http:x.avi",
        "concat:x.avi",
    ),
    *("file:x.avi", "7", "noext", "x|y.avi", "\\back.avi"),
]
"""Names that shells, URLs, OpenCV or FFmpeg read in ways of their own."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write_clip(tmp_path_factory.mktemp("clips") / "numbered.avi", 60)


class TestVideo:
    def test_frames_come_in_order_with_their_times(self, clip: Path):
        before_ns, before = time.monotonic_ns(), time.time()
        with open_source(str(clip)) as source:
            assert (source.live, source.fps, source.length) == (False, clips.FPS, 60)
            frames = list(source)
        assert [frame.index for frame in frames] == list(range(60))
        assert [clips.number_of(frame.image) for frame in frames] == list(range(60))
        assert {frame.order for frame in frames} == {"BGR"}
        times = [frame.captured_ns for frame in frames]
        assert times == sorted(times)
        assert before_ns <= times[0] <= times[-1] <= time.monotonic_ns()
        assert before <= frames[0].captured_at <= frames[-1].captured_at <= time.time()
        assert source.notices == ()

    def test_frames_do_not_share_memory(self, clip: Path):
        with open_source(clip) as source:
            first, second = list(source)[:2]
        assert not np.shares_memory(first.image, second.image)

    def test_a_closed_source_ends_without_complaint(self, clip: Path):
        source = open_source(clip)
        frames = iter(source)
        next(frames)
        source.close()
        source.close()
        assert list(frames) == []
        assert source.notices == ()

    def test_a_cut_off_video_gives_its_frames_and_a_notice(
        self, clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        cut = tmp_path / "cut\x1b[2J.avi"
        cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        with caplog.at_level(logging.WARNING, "vitedge"), open_source(cut) as source:
            numbers = [clips.number_of(frame.image) for frame in source]
        assert numbers == list(range(len(numbers)))
        assert 10 < len(numbers) < 50
        assert source.notices == (f"{cut} is cut off: it ended after {len(numbers)} of about 60 frames",)
        assert caplog.messages == [terminal(notice) for notice in source.notices]

    def test_a_video_without_a_whole_frame_is_an_error(self, clip: Path, tmp_path: Path):
        cut = tmp_path / "cut.avi"
        contents = clip.read_bytes()
        cut.write_bytes(contents[: contents.index(b"movi") + 100])
        with open_source(cut) as source, pytest.raises(FrameSourceError, match="no frame that can be decoded"):
            list(source)

    @pytest.mark.parametrize("name", AWKWARD_NAMES)
    def test_any_name_can_be_read(self, name: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / name).write_bytes(clip.read_bytes())
        monkeypatch.chdir(tmp_path)
        for source in (name, Path(name), tmp_path / name):
            with open_source(source) as opened:
                assert len(list(opened)) == 60

    def test_a_folder_may_have_any_name(self, clip: Path, tmp_path: Path):
        folder = tmp_path / "%d\udcff:"
        folder.mkdir()
        (folder / "clip.avi").write_bytes(clip.read_bytes())
        with open_source(folder / "clip.avi") as opened:
            assert len(list(opened)) == 60

    def test_without_other_names_one_that_is_not_utf8_is_an_error(
        self, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(opencv_names, "_DESCRIPTORS", tmp_path / "none")
        path = tmp_path / f"clip\udcff{clip.suffix}"
        path.write_bytes(clip.read_bytes())
        with pytest.raises(FrameSourceError, match="not UTF-8"):
            open_source(path)

    def test_an_address_that_is_not_utf8_is_an_error(self):
        with pytest.raises(FrameSourceError, match="not UTF-8"):
            open_source("rtsp://127.0.0.1:1/\udcff")

    @pytest.mark.parametrize("suffix", [".mp4", ".avi"])
    def test_frames_carry_their_presentation_times(self, suffix: str, tmp_path: Path):
        codec = "mp4v" if suffix == ".mp4" else "MJPG"
        path = clips.write_clip(tmp_path / f"even{suffix}", 5, fps=10, codec=codec)
        with open_source(path) as source:
            assert [frame.pts for frame in source] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])

    def test_a_varying_frame_rate_is_told_by_the_presentation_times(self, tmp_path: Path):
        path = clips.write_clip(tmp_path / "varying.mp4", 5, codec="mp4v")
        clips.with_durations(path, [0.05, 0.05, 1, 0.5, 2])
        with open_source(path) as source:
            assert [frame.pts for frame in source] == pytest.approx([0.0, 0.05, 0.1, 1.1, 1.6])

    def test_a_video_without_times_has_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A bare stream of H.264 has none, and OpenCV says 0 for every frame."""
        path = clips.write_clip(tmp_path / "clip.avi", 3)
        with open_source(path) as source:
            monkeypatch.setattr(source, "_timestamp_property", cv2.CAP_PROP_ORIENTATION_META)  # 0 in this clip
            assert [frame.pts for frame in source] == [0.0, None, None]

    @pytest.mark.parametrize("contents", [b"", b"this is no video" * 100])
    def test_a_file_that_is_no_video_is_an_error(self, contents: bytes, tmp_path: Path):
        path = tmp_path / "notes.mp4"
        path.write_bytes(contents)
        with pytest.raises(FrameSourceError, match=rf"notes\.mp4 \({len(contents)} bytes\) is not a video"):
            open_source(path)

    def test_an_mp4_without_its_index_is_an_error(self, tmp_path: Path):
        whole = clips.write_clip(tmp_path / "whole.mp4", 30, codec="mp4v")
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(whole.read_bytes()[:-200])
        with pytest.raises(FrameSourceError, match="is not a video") as raised:
            open_source(cut)
        assert "truncated" in raised.value.fix


class TestStrangersVideos:
    @pytest.mark.parametrize("kind", ["fifo", "zero", "folder", "sparse", "gone"])
    def test_what_is_no_regular_file_is_refused(self, kind: str, tmp_path: Path):
        path = tmp_path / "clip.mp4"
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        elif kind == "sparse":
            path.write_bytes(b"\0\0\0\x18ftypisom")
            os.truncate(path, 100 << 30)
        with pytest.raises(FrameSourceError, match=r"clip\.mp4 cannot be read"):
            capture.open_video(path)

    def test_frames_that_are_too_large_are_refused(self, tmp_path: Path):
        (tmp_path / "clip.y4m").write_bytes(b"YUV4MPEG2 W12000 H12000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(1000))
        with pytest.raises(FrameSourceError, match=r"clip\.y4m has frames of 12000x12000 pixels"):
            open_source(tmp_path / "clip.y4m")

    def test_frames_that_become_too_large_are_refused(self, clip: Path, monkeypatch: pytest.MonkeyPatch):
        frames = iter(open_source(clip))
        next(frames)
        monkeypatch.setattr(capture, "IMAGE_PIXELS", 100)
        with pytest.raises(FrameSourceError, match="has frames of 128x96 pixels"):
            next(frames)

    @pytest.mark.parametrize(("backends", "opened_by"), [("GSTREAMER", "GSTREAMER"), ("", "ANY")])
    def test_without_ffmpeg_a_file_must_begin_like_a_video(
        self, backends: str, opened_by: str, attach, clip: Path, tmp_path: Path
    ):
        _, opened_with = attach(backends=backends)
        open_source(clip)
        assert opened_with == [str(clip), getattr(cv2, f"CAP_{opened_by}")]
        opened_with.clear()
        (tmp_path / "clip.mp4").write_text("#EXTM3U")
        with pytest.raises(FrameSourceError, match="does not begin like a video"):
            open_source(tmp_path / "clip.mp4")
        assert opened_with == []


@pytest.mark.parametrize(
    ("name", "length", "whole"),
    [
        ("numbered-720p.mp4", 180, 1.0),
        ("numbered-360p.mkv", 180, 1.0),
        ("bottle-detection.mp4", 1189, 1.0),
        ("car-detection.mp4", 377, 1.0),
        ("numbered-720p.mp4", 180, 0.3),
        ("numbered-360p.mkv", 180, 0.9),
        ("car-detection.mp4", 377, 0.95),
    ],
)
def test_real_clips_whole_and_cut_off(name: str, length: int, whole: float, shared_data: Path, tmp_path: Path):
    path = tmp_path / name
    contents = (shared_data / "video" / name).read_bytes()
    path.write_bytes(contents[: int(whole * len(contents))])
    with open_source(path) as source:
        frames = sum(1 for _ in source)
    assert source.length == length
    if whole == 1.0:
        assert (frames, source.notices) == (length, ())
    else:
        assert 0 < frames < length
        assert source.notices == (f"{path} is cut off: it ended after {frames} of about {length} frames",)


class FakeCapture:
    """A ``cv2.VideoCapture`` with a camera's manners."""

    def __init__(self, *, opened: bool = True, code: str = "MJPG", fps: float = 30.0, reads: str = "") -> None:
        self.opened = opened
        self.properties = {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter_fourcc(*code))}
        self.asked: dict[int, float] = {}
        self.reads = list(reads)
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802
        return self.opened

    def set(self, name: int, value: float) -> bool:
        self.asked[name] = value
        return True

    def get(self, name: int) -> float:
        return self.properties.get(name, 0.0)

    def grab(self) -> bool:
        return bool(self.reads)

    def retrieve(self) -> tuple[bool, object]:
        decoded = self.reads.pop(0) == "+"
        return decoded, np.zeros((4, 4, 3), dtype=np.uint8) if decoded else None

    def release(self) -> None:
        self.released = True


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch):
    """Have OpenCV open a fake camera; returns it and the arguments that it was opened with."""

    def attached(*, backends: str = "FFMPEG", **manners: object) -> tuple[FakeCapture, list[object]]:
        camera, opened_with = FakeCapture(**manners), []

        def open_capture(*arguments: object) -> FakeCapture:
            opened_with.extend(arguments)
            return camera

        fake = SimpleNamespace(**{name: getattr(cv2, name) for name in dir(cv2) if name.startswith("CAP_")})
        fake.VideoCapture, fake.VideoWriter_fourcc = open_capture, cv2.VideoWriter_fourcc
        known = [getattr(cv2, f"CAP_{name}") for name in backends.split()]
        fake.videoio_registry = SimpleNamespace(hasBackend=known.__contains__)
        monkeypatch.setattr(capture, "_cv2", lambda: fake)
        return camera, opened_with

    return attached


class TestCamera:
    @pytest.mark.parametrize("device", [0, "0"])
    def test_asks_for_mjpg_and_a_short_queue(self, attach, device: int | str):
        camera, opened_with = attach(reads="++")
        source = open_source(device)
        assert opened_with[0] == 0
        assert camera.asked[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter_fourcc(*"MJPG")
        assert camera.asked[cv2.CAP_PROP_BUFFERSIZE] == 1
        assert (source.live, source.fps, source.length, source.notices) == (True, 30.0, None, ())
        source.close()
        assert camera.released

    def test_slow_uncompressed_frames_are_noticed(self, attach):
        attach(code="YUYV", fps=6.0)
        assert open_source(0).notices == (
            "camera 0 sends uncompressed YUYV at 6 frames per second: use a USB 3 port or fewer pixels",
        )

    def test_fast_uncompressed_frames_are_fine(self, attach):
        attach(code="YUYV", fps=30.0)
        assert open_source(0).notices == ()

    def test_an_end_is_an_error_after_the_good_frames(self, attach):
        attach(reads="+++")
        frames = iter(open_source(0))
        assert [next(frames).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(FrameSourceError, match="camera 0 stopped delivering after 3 frames"):
            next(frames)

    def test_frames_that_do_not_decode_are_skipped_and_counted(self, attach):
        attach(reads="-+--+")
        source = open_source(0)
        frames = iter(source)
        assert [next(frames).index for _ in range(2)] == [0, 1]
        assert source.notices == ("camera 0: 3 frames could not be decoded and were skipped",)

    def test_one_that_nobody_closed_is_freed_with_a_warning(self, attach):
        camera, _ = attach()
        held = [open_source(0)]
        with pytest.warns(ResourceWarning, match="the source camera 0 was not closed"):
            held.clear()
        assert camera.released

    def test_a_camera_that_hangs_does_not_hang_close(
        self, attach, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ):
        camera, _ = attach()
        asked, answer = threading.Event(), threading.Event()

        def grab() -> bool:
            asked.set()
            return answer.wait(30) and False

        camera.grab = grab
        monkeypatch.setattr(capture, "CLOSE_TIMEOUT_SECONDS", 0.05)
        source = open_source(0)
        reader = threading.Thread(target=list, args=(source,), daemon=True)
        reader.start()
        assert asked.wait(30)
        with caplog.at_level(logging.WARNING, "vitedge"):
            source.close()
        assert "does not answer" in caplog.text
        assert not camera.released
        answer.set()
        reader.join(30)
        assert not reader.is_alive()

    @pytest.mark.parametrize("device", [97, "97", "/dev/video97", Path("/dev/video97")])
    def test_a_camera_that_is_not_there(self, device: int | str | Path, attach):
        attach(opened=False)
        with pytest.raises(FrameSourceError, match=r"there is no camera (/dev/video)?97") as raised:
            open_source(device)
        assert "camera" in raised.value.expected

    @pytest.mark.parametrize("device", [-1, 1 << 21, 10**30])
    def test_a_number_that_no_camera_has(self, device: int, attach):
        _, opened_with = attach()
        with pytest.raises(FrameSourceError, match="there is no camera"):
            open_source(device)
        assert opened_with == []

    def test_a_camera_that_does_not_open(self, attach):
        attach(opened=False)
        with pytest.raises(FrameSourceError, match=r"camera /dev/null .* does not open") as raised:
            capture.open_camera(Path("/dev/null"))
        assert "no other program" in raised.value.expected


@pytest.mark.parametrize(("reported", "fps"), [(0.0, None), (float("nan"), None), (90000.0, None), (29.97, 29.97)])
def test_a_frame_rate_that_cannot_be_is_unknown(reported: float, fps: float | None):
    assert Capture(FakeCapture(fps=reported), "stream", live=True).fps == fps


@pytest.mark.parametrize(
    ("count", "fps", "delivered", "last_second", "noticed"),
    [
        (300, 30.0, 300, 9.97, False),
        (300, 30.0, 150, 4.97, True),
        (300, 30.0, 240, 9.95, False),  # variable frame rate: fewer frames than estimated, but until the end
        (240, 30.0, 240, 9.95, False),  # variable frame rate: the count is exact, the rate is not
        (300, 30.0, 299, 9.93, False),  # a container's estimate may be one off
    ],
)
def test_cut_off_means_too_few_frames_and_too_early(
    count: int, fps: float, delivered: int, last_second: float, noticed: bool
):
    video = FakeCapture(fps=fps, reads="+" * delivered)
    video.properties |= {cv2.CAP_PROP_FRAME_COUNT: float(count), cv2.CAP_PROP_POS_MSEC: 1000 * last_second}
    source = Capture(video, "clip", live=False)
    assert sum(1 for _ in source) == delivered
    assert bool(source.notices) is noticed


class Camera(http.server.BaseHTTPRequestHandler):
    """An address for each way in which a network camera answers."""

    frames = 8

    def do_GET(self) -> None:
        getattr(self, f"send_{self.path[1:].partition('.')[0]}")()

    def send_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(self.frames):
            picture = cv2.imencode(".jpg", clips.numbered_frame(number))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            self.wfile.write(head.encode() + picture + b"\r\n")

    def send_stalling(self) -> None:
        self.send_stream()
        self.server.hold.wait(30)

    def send_nothing(self) -> None:
        self.server.hold.wait(30)

    def send_missing(self) -> None:
        self.send_error(404)

    def send_clip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.clip.stat().st_size))
        self.end_headers()
        with self.server.clip.open("rb") as stream:
            shutil.copyfileobj(stream, self.wfile)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address(clip: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a network camera on this machine that has a password."""
    monkeypatch.setattr(capture, "OPEN_TIMEOUT_SECONDS", 2.0)
    monkeypatch.setattr(capture, "READ_TIMEOUT_SECONDS", 0.5)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.clip, server.hold = clip, threading.Event()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://admin:secret@127.0.0.1:{server.server_port}"
    server.hold.set()
    server.shutdown()
    server.server_close()
    thread.join()


class TestNetwork:
    def test_a_stream_is_live_and_its_end_an_error(self, address: str):
        with open_source(f"{address}/stream") as source:
            frames = iter(source)
            assert [clips.number_of(next(frames).image) for _ in range(Camera.frames)] == list(range(Camera.frames))
            assert (source.live, source.length) == (True, None)
            with pytest.raises(FrameSourceError, match="stopped delivering after 8 frames"):
                next(frames)

    def test_a_stream_that_stalls_is_an_error_in_time(self, address: str):
        with open_source(f"{address}/stalling") as source, pytest.raises(FrameSourceError, match="stopped delivering"):
            list(source)

    def test_a_video_behind_an_address_is_a_file(self, address: str):
        with open_source(f"{address}/clip.avi") as source:
            assert (source.live, source.length) == (False, 60)
            assert source.name.startswith("http://***@127.0.0.1")
            assert sum(1 for _ in source) == 60

    @pytest.mark.parametrize("path", ["nothing", "missing"])
    def test_no_stream_is_an_error_in_time_that_keeps_the_password(self, address: str, path: str):
        with pytest.raises(FrameSourceError, match="does not answer with a video") as raised:
            open_source(f"{address}/{path}")
        assert "://***@127.0.0.1" in raised.value.problem
        assert "secret" not in str(raised.value)

    def test_nobody_listens(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        with pytest.raises(FrameSourceError, match="does not answer"):
            open_source(f"rtsp://127.0.0.1:{port}/1")
