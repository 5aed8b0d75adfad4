"""V4L2 cameras: a fake ``av.open`` that takes and refuses requests, and a device where a kernel has v4l2loopback."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.errors import FrameSourceError, MissingExtraError, UsageError
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources import open as open_module
from vitedge.runtime.sources.open import open_source
from vitedge.runtime.sources.options import CameraOptions
from vitedge.runtime.sources.video import v4l2
from vitedge.runtime.sources.video.v4l2 import FORMATS, open_camera
from vitedge.runtime.system import cameras
from vitedge.runtime.system.cameras import Camera, Holder
from vitedge.testing import FakeEngine

av = pytest.importorskip("av")

pytestmark = pytest.mark.timeout(60)

MICROSECONDS = Fraction(1, 1_000_000)


class FakeCamera:
    """What ``av.open`` gives for a camera: raw frames with the driver's timestamps.

    Args:
        form: pixel format, as FFmpeg names it.
        size: columns and rows.
        fps: frames per second that the driver reports; 0 for unknown.
        script: a number of milliseconds is a frame of that age, ``"wait"`` none yet, ``"damaged"`` a frame without
            bytes; an exception is raised, and a function called.
    """

    def __init__(self, form: str, size: tuple[int, int], fps: float, script: list[Any]) -> None:
        codec = "mjpeg" if form == "mjpeg" else "rawvideo"
        self._context = av.CodecContext.create(codec, "r")
        self._context.width, self._context.height = size
        self._context.pix_fmt = "yuvj422p" if form == "mjpeg" else form
        self._form, self._size, self._script = form, size, iter(script)
        self._stream = SimpleNamespace(
            index=0,
            type="video",
            codec_context=self._context,
            average_rate=Fraction(fps).limit_denominator(1001) if fps else None,
            guessed_rate=None,
            frames=0,
            time_base=MICROSECONDS,
            disposition=av.stream.Disposition(0),
        )
        self.streams = _Streams([self._stream])
        self.format = SimpleNamespace(name="video4linux2,v4l2")
        self.duration = self.start_time = None
        self.closed = 0

    def demux(self, *_: object) -> Iterator[Any]:
        for step in self._script:
            if step == "wait":
                raise av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            if callable(step):
                step()
                continue
            if isinstance(step, BaseException):
                raise step
            yield self._packet(step)

    def close(self) -> None:
        self.closed += 1

    def _packet(self, step: Any) -> Any:
        now = time.monotonic_ns() // 1000
        content = b"" if step == "damaged" else self._content()
        return _Packet(content, self._context, now - (0 if step == "damaged" else round(step * 1000)))

    def _content(self) -> bytes:
        if self._form != "mjpeg":
            frame = av.VideoFrame(*self._size, self._form)
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            return frame.to_ndarray().tobytes()
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.width, encoder.height, encoder.pix_fmt = *self._size, "yuvj422p"
        encoder.time_base = Fraction(1, 30)
        frame = av.VideoFrame(*self._size, "yuvj422p")
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


class _Streams(list):
    video = property(lambda self: self)

    def best(self, _: str) -> Any:
        return self[0]


class _Packet:
    """A packet that its own decoder decodes, as ``av.Packet.decode`` does."""

    def __init__(self, content: bytes, context: Any, pts: int) -> None:
        self._packet = av.Packet(content)
        self._packet.pts = self._packet.dts = pts
        self._packet.time_base = MICROSECONDS
        self._context = context
        self.size, self.pts, self.time_base, self.stream_index, self.duration = len(content), pts, MICROSECONDS, 0, 0

    def decode(self) -> list[Any]:
        return self._context.decode(self._packet)


@pytest.fixture
def attach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Attached]:
    """``attach(...)``: a camera at ``attached.path``, with the formats and rates that it takes."""
    monkeypatch.setattr(cameras, "DEVICES", tmp_path)

    def attached(**changes: Any) -> Attached:
        found = Attached(tmp_path / "video0", **changes)
        found.path.touch()
        monkeypatch.setattr(v4l2.require("av", extra="camera", purpose=""), "open", found.open)
        monkeypatch.setattr(v4l2, "list_formats", lambda _: found.formats)
        monkeypatch.setattr(v4l2, "is_multiplanar", lambda _: found.multiplanar)
        monkeypatch.setattr(v4l2, "_copy_of", lambda packet: packet)  # test_v4l2_driver has real ones
        return found

    return attached


class Attached:
    """A camera and what it was asked for."""

    def __init__(
        self,
        path: Path,
        *,
        takes: tuple[str, ...] = ("mjpeg", "yuyv422"),
        formats: tuple[str, ...] = ("MJPG", "YUYV"),
        size: tuple[int, int] = (640, 480),
        fps: float = 30.0,
        takes_rates: bool = True,
        script: list[Any] | None = None,
        error: BaseException | None = None,
        multiplanar: bool = False,
    ) -> None:
        self.path, self.takes, self.formats, self.size, self.fps = path, takes, formats, size, fps
        self.takes_rates, self.script, self.error, self.multiplanar = (
            takes_rates,
            script or [1.0] * 5,
            error,
            multiplanar,
        )
        self.asked: list[dict[str, str]] = []
        self.names: list[str] = []
        self.opened: list[FakeCamera] = []

    def open(self, name: str, **arguments: Any) -> FakeCamera:
        requests = arguments["container_options"]
        assert arguments["format"] == "v4l2"
        self.names.append(name)
        self.asked.append(requests)
        if self.error is not None:
            raise self.error
        wanted = requests.get("input_format")
        if (wanted is not None and wanted not in self.takes) or ("framerate" in requests and not self.takes_rates):
            raise av.error.ArgumentError(errno.EINVAL, "Invalid argument", name)
        if not self.takes:
            raise av.error.ArgumentError(errno.EINVAL, "Invalid argument", name)
        self.opened.append(FakeCamera(wanted or self.takes[0], self.size, self.fps, self.script))
        return self.opened[-1]


def failure(number: int) -> BaseException:
    with pytest.raises(av.error.FFmpegError) as raised:
        av.error.err_check(-number, "/dev/video0")
    return raised.value


class TestRequests:
    def test_mjpg_is_asked_for_first_and_nothing_blocks(self, attach):
        camera = attach()
        with open_camera(camera.path) as source:
            assert (source.live, source.fps, source.name) == (True, 30.0, f"camera {camera.path}")
            assert source.notices == ()
        assert camera.asked == [{"timestamps": "default", "fflags": "+4", "input_format": "mjpeg"}]
        assert camera.names == [str(camera.path)]
        assert camera.opened[0].closed

    def test_fflags_4_is_the_flag_that_does_not_block(self, tmp_path: Path):
        path = tmp_path / "a.y4m"
        path.write_bytes(b"YUV4MPEG2 W2 H2 F30:1 C420\nFRAME\n" + bytes(6))
        with av.open(str(path), options={"fflags": "+4"}) as container:
            assert container.flags & 4

    def test_all_options_are_asked_for(self, attach):
        camera = attach(takes=("nv12",), size=(1280, 720), fps=15.0)
        address = f"v4l2://{camera.path}?width=1280&height=720&fps=15&fourcc=NV12"
        with open_source(address) as source:
            assert source.notices == ()
        asked = {name: camera.asked[0][name] for name in ("input_format", "video_size", "framerate")}
        assert asked == {"input_format": "nv12", "video_size": "1280x720", "framerate": "15"}

    def test_a_camera_without_mjpg_sends_what_it_has(self, attach):
        camera = attach(takes=("yuyv422",))
        with open_camera(camera.path) as source:
            assert source.notices == ()
        assert [each.get("input_format") for each in camera.asked] == ["mjpeg", None]

    def test_another_format_than_asked_is_noted_with_those_on_offer(self, attach):
        camera = attach(takes=("yuyv422",))
        with open_camera(camera.path, CameraOptions(fourcc="H264")) as source:
            assert source.notices == (f"camera {camera.path} sends YUYV, not H264; it offers MJPG, YUYV",)

    def test_a_format_of_the_same_kind_is_no_difference(self, attach):
        for fourcc in ("YUY2", "yuyv"):
            with open_camera(attach(takes=("yuyv422",)).path, CameraOptions(fourcc=fourcc)) as source:
                assert source.notices == ()

    def test_another_size_and_rate_are_noted(self, attach):
        camera = attach(size=(1280, 720), fps=24.0)
        with open_camera(camera.path, CameraOptions(width=1920, height=1080, fps=60)) as source:
            assert source.notices == (
                f"camera {camera.path} sends 1280x720 pixels, not 1920x1080",
                f"camera {camera.path} sends 24 frames per second, not 60",
            )

    def test_a_camera_that_refuses_the_rate_keeps_its_own(self, attach):
        camera = attach(takes_rates=False)
        with open_camera(camera.path, CameraOptions(fps=60)) as source:
            assert source.fps == 30.0
            assert len(source.notices) == 1
        assert camera.asked[-1] == {"timestamps": "default", "fflags": "+4", "input_format": "mjpeg"}

    def test_a_slow_uncompressed_camera_is_noted(self, attach):
        camera = attach(takes=("yuyv422",), fps=5.0)
        with open_camera(camera.path) as source:
            assert "uncompressed YUYV at 5 frames per second" in source.notices[0]

    @pytest.mark.parametrize("fps", [0.0, 1000.0])
    def test_an_unknown_rate(self, fps: float, attach):
        with open_camera(attach(fps=fps).path) as source:
            assert source.fps is None

    def test_a_format_that_is_unknown(self, attach):
        with pytest.raises(UsageError, match="'MPJG'") as raised:
            open_camera(attach().path, CameraOptions(fourcc="MPJG"))
        assert raised.value.fix == "did you mean MJPG?"
        assert "NV12" in raised.value.expected

    def test_ffmpeg_knows_every_format(self):
        codecs = {"mjpeg", "h264"}
        assert {each for each in FORMATS.values() if each not in codecs} <= set(av.video.format.names)


class TestFrames:
    @pytest.mark.parametrize("form", ["mjpeg", "yuyv422", "nv12", "yuv420p", "gray", "bgra", "rgb24", "yuv422p"])
    def test_formats(self, form: str, attach):
        with open_camera(attach(takes=(form,), formats=()).path) as source:
            frames = list(itertools.islice(source, 3))
        assert {frame.image.shape for frame in frames} == {(480, 640, 3)}
        assert {frame.image.dtype for frame in frames} == {np.dtype(np.uint8)}
        assert isinstance(frames[0].pixels, YuvPlanes) == (form in ("mjpeg", "nv12", "yuv420p", "yuv422p"))

    @pytest.mark.parametrize("size", [(2, 2), (7680, 4320)])
    def test_sizes(self, size: tuple[int, int], attach):
        with open_camera(attach(takes=("yuv420p",), size=size).path) as source:
            assert next(iter(source)).image.shape == (size[1], size[0], 3)

    def test_too_large(self, attach):
        camera = attach(takes=("yuv420p",), size=(16_000, 9_000))
        with pytest.raises(FrameSourceError, match="16000x9000"):
            open_camera(camera.path)
        assert camera.opened[0].closed

    def test_grey_of_16_bits_is_refused_with_a_reason(self, attach):
        camera = attach(takes=("gray16le",), formats=("Y16",))
        with pytest.raises(FrameSourceError, match="more than 8 bits") as raised:
            open_camera(camera.path)
        assert raised.value.cause == "codec"
        assert camera.opened[0].closed

    def test_the_driver_says_when_a_frame_was_captured(self, attach):
        with open_camera(attach(script=[5.0, 40.0, 7.0]).path) as source:
            ages = []
            for frame in itertools.islice(source, 3):
                ages.append((time.monotonic_ns() - frame.captured_ns) / 1e6)
                assert frame.age_basis == "device"
                assert abs(frame.captured_at - time.time()) < 60
        assert all(age >= least for age, least in zip(ages, (5.0, 40.0, 7.0), strict=True))

    def test_what_waited_in_the_driver_is_marked(self, attach):
        with open_camera(attach(script=[900.0, 800.0, 5.0]).path) as source:
            assert [frame.backlog for frame in itertools.islice(source, 3)] == [True, True, False]

    def test_a_driver_with_another_clock_is_not_believed(self, attach):
        with open_camera(attach(script=[-3.6e6, -3.6e6, -3.6e6]).path) as source:
            frames = list(itertools.islice(source, 3))
        assert "device" not in {frame.age_basis for frame in frames}
        assert all(frame.captured_ns <= time.monotonic_ns() for frame in frames)

    def test_waiting_is_no_error(self, attach):
        with open_camera(attach(script=["wait", "wait", 1.0, "wait", 1.0]).path) as source:
            assert len(list(itertools.islice(source, 2))) == 2

    def test_damaged_frames_are_counted_and_skipped(self, attach):
        with open_camera(attach(script=[1.0, "damaged", "damaged", 1.0]).path) as source:
            assert len(list(itertools.islice(source, 2))) == 2
            assert "2 frames came damaged" in source.notices[-1]

    def test_close_ends_a_wait_at_once(self, attach):
        camera = attach(script=[1.0, *["wait"] * 100_000])
        source = open_camera(camera.path, CameraOptions(read_timeout=1000.0))
        read: list[object] = []
        reader = threading.Thread(target=lambda: read.extend(source), daemon=True)
        reader.start()
        source.close()
        reader.join(30)
        assert not reader.is_alive()
        assert camera.opened[0].closed == 1


class TestErrors:
    def test_a_missing_camera_names_those_that_are_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        found = (Camera("/dev/video2", "HD Webcam", True, ""), Camera("/dev/video3", "", False, "no video"))
        monkeypatch.setattr(v4l2, "list_cameras", lambda: found)
        for source in (7, "7", "/dev/video7", "/dev/v4l/by-id/usb-gone", "v4l2:///dev/video7", "v4l2://7"):
            with pytest.raises(FrameSourceError, match="there is no camera") as raised:
                open_source(source)
            assert raised.value.cause == "not_found"
            assert raised.value.expected == "one of /dev/video2 (HD Webcam)"

    @pytest.mark.parametrize("number", [-1, 1 << 40])
    def test_a_number_that_no_camera_has(self, number: int):
        with pytest.raises(FrameSourceError, match="there is no camera"):
            open_source(number)

    def test_a_busy_camera_names_its_holders(self, attach, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(v4l2, "list_holders", lambda _: (Holder(4711, "zoom"), Holder(12, "cheese")))
        with pytest.raises(FrameSourceError, match=r"in use by zoom \(process 4711\), cheese \(process 12\)") as raised:
            open_camera(attach(error=failure(errno.EBUSY)).path)
        assert raised.value.cause == "device_busy"

    def test_a_busy_camera_of_another_user(self, attach, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(v4l2, "list_holders", lambda _: ())
        with pytest.raises(FrameSourceError, match="this user does not see") as raised:
            open_camera(attach(error=failure(errno.EBUSY)).path)
        assert "sudo fuser -v" in raised.value.fix

    @pytest.mark.parametrize(
        ("number", "cause", "words"),
        [
            (errno.EACCES, "permission", "may not be opened by this user"),
            (errno.EPERM, "permission", "may not be opened by this user"),
            (errno.ENODEV, "no_video", "captures no video"),
            (errno.ENOTTY, "no_video", "captures no video"),
            (errno.ENOSPC, "device_busy", "USB bus has no bandwidth"),
            (errno.EINVAL, "codec", "offers no pixel format that FFmpeg reads: MJPG, YUYV"),
            (errno.ENOMEM, None, "does not open"),
            (errno.ETIMEDOUT, "timeout", "sent no frame within 10 s"),
        ],
    )
    def test_what_the_driver_says_has_a_cause(self, number: int, cause: str | None, words: str, attach):
        with pytest.raises(FrameSourceError) as raised:
            open_camera(attach(error=failure(number)).path)
        assert words in raised.value.problem
        assert raised.value.cause == cause
        assert raised.value.expected
        assert raised.value.fix
        assert raised.value.__context__ is None

    def test_planes_apart_are_for_gstreamer(self, attach):
        with pytest.raises(FrameSourceError, match="multi-planar") as raised:
            open_camera(attach(error=failure(errno.ENODEV), multiplanar=True).path)
        assert "gst:v4l2src" in raised.value.fix

    @pytest.mark.parametrize("number", [errno.ENODEV, errno.ESHUTDOWN, errno.ENXIO])
    def test_unplugged(self, number: int, attach):
        broken = attach(script=[1.0, 1.0, failure(number)]).path
        with open_camera(broken) as source, pytest.raises(FrameSourceError, match="unplugged after 2") as raised:
            list(source)
        assert raised.value.cause == "unplugged"

    def test_the_device_is_gone(self, attach):
        camera = attach(script=[1.0, failure(errno.EIO)])
        with open_camera(camera.path) as source:
            camera.path.unlink()
            with pytest.raises(FrameSourceError, match="was unplugged"):
                list(source)

    def test_no_frame_in_time(self, attach):
        camera = attach(script=[1.0, *["wait"] * 10_000])
        with (
            open_camera(camera.path, CameraOptions(read_timeout=0.05)) as source,
            pytest.raises(FrameSourceError, match=r"sent no frame for 0.05 s, after 1 frame") as raised,
        ):
            list(source)
        assert raised.value.cause == "timeout"

    def test_a_device_that_is_no_camera(self):
        with pytest.raises(FrameSourceError, match="captures no video") as raised:
            open_camera(Path("/dev/null"))
        assert raised.value.cause == "no_video"

    def test_another_system(self, attach, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(v4l2.sys, "platform", "darwin")
        with pytest.raises(FrameSourceError, match="only Linux has"):
            open_camera(attach().path)

    def test_pyav_missing_names_the_extra(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(__import__("sys").modules, "av", None)
        with pytest.raises(MissingExtraError, match="needs av"):
            open_source(0)


class TestPluggedInAgain:
    @pytest.fixture
    def classifier(self) -> Iterator[Classifier]:
        engine = FakeEngine(lambda frame: frame.mean(axis=(0, 1)), input_size=(32, 32))
        preprocessing = Preprocessing(input_size=(32, 32), resize_size=(32, 32))
        with Classifier(engine, preprocessing, labels=["red", "green", "blue"]) as opened:
            yield opened

    @pytest.fixture(autouse=True)
    def files_are_cameras(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(open_module, "_is_camera", lambda path: path.is_relative_to(tmp_path))

    def test_it_is_found_under_another_number_with_its_options(self, attach, classifier: Classifier):
        camera = attach()
        link = camera.path.parent / "v4l" / "by-id" / "usb-A_1234-index0"
        link.parent.mkdir(parents=True)
        link.symlink_to(camera.path)

        def plug_in_again() -> None:
            link.unlink()
            camera.path.rename(camera.path.with_name("video3"))
            link.symlink_to(camera.path.with_name("video3"))
            camera.script = [1.0] * 1000

        camera.script = [1.0, 1.0, plug_in_again, failure(errno.ENODEV)]
        address = f"v4l2://{camera.path}?size=640x480&fps=30"
        with classifier.stream(address, policy="every", max_frames=4) as stream:
            epochs = [prediction.epoch for prediction in stream]
        assert epochs == [0, 0, 1, 1]
        assert set(camera.names) == {str(camera.path), str(link)}
        assert camera.asked[-1] == camera.asked[0]
        assert camera.asked[0]["video_size"] == "640x480"

    def test_a_camera_without_a_lasting_path_is_opened_by_its_number(self, attach, classifier: Classifier):
        camera = attach(script=[1.0, failure(errno.ENODEV)])
        with classifier.stream(camera.path, policy="every", max_frames=3) as stream:
            assert [prediction.epoch for prediction in stream] == [0, 1, 2]
        assert set(camera.names) == {str(camera.path)}


@pytest.fixture(scope="module")
def loopback() -> Iterator[Path]:
    """A virtual camera of the kernel that shows a moving picture."""
    writer = shutil.which("gst-launch-1.0")
    found = [
        Path("/dev") / entry.name
        for entry in Path("/sys/class/video4linux").glob("video*")
        if "/virtual/" in str(entry.resolve())
    ]
    if not found or writer is None or not os.access(found[0], os.W_OK):
        pytest.skip("no v4l2loopback device of this kernel: modprobe v4l2loopback exclusive_caps=1")
    caps = "video/x-raw,format=YUY2,width=640,height=480,framerate=30/1"
    arguments = f"-q videotestsrc is-live=true pattern=ball ! {caps} ! v4l2sink device={found[0]}"
    process = subprocess.Popen([writer, *arguments.split()])
    time.sleep(2)
    yield found[0]
    process.terminate()
    process.wait(30)


class TestLoopback:
    def test_frames_and_times_of_a_real_device(self, loopback: Path):
        with open_camera(loopback) as source:
            frames = list(itertools.islice(source, 30))
        assert {frame.image.shape for frame in frames} == {(480, 640, 3)}
        times = [frame.captured_ns for frame in frames]
        assert times == sorted(times)
        assert times[-1] <= time.monotonic_ns()

    def test_close_while_it_is_read(self, loopback: Path):
        source = open_camera(loopback)
        reader = threading.Thread(target=lambda: list(source), daemon=True)
        reader.start()
        source.close()
        reader.join(30)
        assert not reader.is_alive()
