"""Pipelines of GStreamer, run for real; those of CSI cameras as texts."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.errors import FrameSourceError, MissingExtraError, UsageError, VitedgeError
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.gstreamer import csi
from vitedge.runtime.sources.gstreamer import process as gst_process
from vitedge.runtime.sources.gstreamer import source as gstreamer_module
from vitedge.runtime.sources.gstreamer.csi import csi_elements, parse_cameras
from vitedge.runtime.sources.gstreamer.errors import pipeline_error
from vitedge.runtime.sources.gstreamer.source import open_pipeline, parse_pipeline
from vitedge.runtime.sources.open import open_source
from vitedge.runtime.sources.options import CameraOptions, SourceOptions
from vitedge.testing import FakeEngine

pytest.importorskip("av")

import clips

pytestmark = pytest.mark.timeout(120)

SMALL = "video/x-raw,width=320,height=240,framerate=30/1"
LIVE = f"gst:videotestsrc is-live=true ! {SMALL}"


@pytest.fixture(scope="module", autouse=True)
def gstreamer() -> None:
    if shutil.which("gst-launch-1.0") is None:
        pytest.skip("needs gst-launch-1.0: apt-get install gstreamer1.0-tools gstreamer1.0-plugins-good")


def children() -> set[int]:
    """The processes that this one has started and that still run."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _parent(entry) == os.getpid():
            found.add(int(entry.name))
    return found


def _parent(entry: Path) -> int:
    try:
        state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return 0
    return 0 if state == "Z" else int(parent)


def gone(pid: int) -> bool:
    """Whether a process has ended, also if nobody has asked for its exit code."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def descriptors_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def eventually(happened: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)
    return happened()


@pytest.fixture
def no_orphans() -> Iterator[None]:
    """Fail if a test leaves a child, a descriptor or a thread behind."""
    gc.collect()
    before, descriptors = children(), descriptors_open()
    yield
    assert eventually(lambda: children() <= before)
    assert eventually(lambda: not [each for each in threading.enumerate() if each.name == "vitedge-gstreamer"])
    gc.collect()
    assert descriptors_open() <= descriptors


class TestFrames:
    @pytest.mark.usefixtures("no_orphans")
    def test_a_finite_pipeline_gives_all_frames_in_order(self):
        with open_source(f"gst:videotestsrc num-buffers=30 pattern=ball ! {SMALL}") as source:
            assert (source.live, source.fps) == (False, 30.0)
            frames = list(source)
        assert [frame.index for frame in frames] == list(range(30))
        assert np.allclose([frame.pts for frame in frames], np.arange(30) / 30, atol=0.002)
        assert {frame.image.shape for frame in frames} == {(240, 320, 3)}
        assert len({frame.image.tobytes() for frame in frames}) > 20
        assert source.notices == ()

    @pytest.mark.usefixtures("no_orphans")
    def test_a_live_pipeline_is_a_camera_and_its_end_an_error(self):
        with open_source(f"gst:videotestsrc is-live=true num-buffers=20 ! {SMALL}") as source:
            assert source.live
            frames = []
            with pytest.raises(FrameSourceError, match="stopped delivering after 20 frames") as raised:
                frames.extend(iter(source)) or [frames.append(frame) for frame in source]
        assert raised.value.cause == "eof"

    @pytest.mark.usefixtures("no_orphans")
    def test_a_live_frame_has_planes_and_an_age(self):
        with open_source(LIVE) as source:
            frames = list(itertools.islice(source, 10))
            now = time.monotonic_ns()
        assert all(isinstance(frame.pixels, YuvPlanes) for frame in frames)
        assert {frame.age_basis for frame in frames} == {"timestamps"}
        times = [frame.captured_ns for frame in frames]
        assert times == sorted(times)
        assert times[-1] <= now

    @pytest.mark.parametrize("pattern", ["red", "green", "blue", "white", "black"])
    def test_colours(self, pattern: str):
        with open_source(f"gst:videotestsrc num-buffers=1 pattern={pattern} ! {SMALL}") as source:
            (frame,) = source
        expected = {
            "red": (0, 0, 255),
            "green": (0, 255, 0),
            "blue": (255, 0, 0),
            "white": (255,) * 3,
            "black": (0,) * 3,
        }
        assert np.abs(frame.image[120, 160].astype(int) - expected[pattern]).max() <= 3

    @pytest.mark.parametrize("size", [(320, 240), (1280, 720)])
    @pytest.mark.parametrize("colorimetry", ["", "bt601", "bt709", "1:4:0:0", "2:3:5:1"])
    def test_colours_of_every_matrix_and_range(self, colorimetry: str, size: tuple[int, int]):
        painted = f"video/x-raw,format=RGB,width={size[0]},height={size[1]},framerate=30/1"
        stated = f",colorimetry={colorimetry}" if colorimetry else ""
        source = f"videotestsrc num-buffers=1 pattern=solid-color foreground-color=0xff20a0c0 ! {painted}"
        with open_source(f"gst:{source} ! videoconvert ! video/x-raw,format=I420{stated}") as opened:
            (frame,) = opened
        assert np.abs(frame.image[10, 10].astype(int) - (0xC0, 0xA0, 0x20)).max() <= 4

    @pytest.mark.parametrize("form", ["GRAY8", "BGRA", "RGB16", "NV12", "GRAY16_LE", "YUY2"])
    def test_formats_of_cameras_are_converted(self, form: str):
        caps = f"video/x-raw,format={form},width=322,height=241,framerate=30/1"
        with open_source(f"gst:videotestsrc num-buffers=2 pattern=white ! {caps}") as source:
            frames = list(source)
        assert [frame.image.shape for frame in frames] == [(241, 322, 3)] * 2
        assert frames[0].image.min() > 240

    def test_a_name_with_a_space_and_other_letters(self, tmp_path: Path):
        clips.write_clip(tmp_path / "clip ü.avi", 5)
        with open_source(f'gst:filesrc location="{tmp_path}/clip ü.avi" ! decodebin') as source:
            assert [clips.number_of(frame.image) for frame in source] == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("size", [(1, 1), (2, 2), (322, 241), (325, 240), (3840, 2160)])
    def test_sizes(self, size: tuple[int, int]):
        caps = f"video/x-raw,format=RGB,width={size[0]},height={size[1]},framerate=30/1"
        with open_source(f"gst:videotestsrc num-buffers=1 pattern=green ! {caps}") as source:
            frames = list(source)
        assert [frame.image.shape for frame in frames] == [(size[1], size[0], 3)]
        assert np.abs(frames[0].image[::7, ::5].astype(int) - (0, 255, 0)).max() <= 3

    def test_a_picture_that_is_too_large_is_refused(self):
        with pytest.raises(FrameSourceError) as raised:
            open_source(
                "gst:videotestsrc num-buffers=2 pattern=green ! video/x-raw,width=12000,height=9000,framerate=1/1"
            )
        assert "pixels" in str(raised.value)


class TestErrors:
    @pytest.mark.usefixtures("no_orphans")
    @pytest.mark.parametrize(
        ("pipeline", "kind", "cause", "words"),
        [
            ("nosuchsrc", FrameSourceError, "not_found", "no element 'nosuchsrc'"),
            ("libcamerasrc ! nosuchelement", FrameSourceError, "not_found", "no element"),
            ("videotestsrc ! ! identity", UsageError, None, "syntax error"),
            ("videotestsrc patern=ball", UsageError, None, "patern"),
            ("videotestsrc pattern=nosuchpattern", UsageError, None, "nosuchpattern"),
            ("videotestsrc ! audioconvert", UsageError, None, "could not link"),
            ("filesrc location=/nosuchfile ! decodebin", FrameSourceError, "not_found", "Resource not found"),
            ("v4l2src device=/dev/nosuchcamera", FrameSourceError, "not_found", "Cannot identify device"),
            ("filesrc location=/etc/passwd ! decodebin", FrameSourceError, "no_video", "text file"),
            (
                "videotestsrc num-buffers=0",
                FrameSourceError,
                "no_video",
                "without a frame",
            ),
        ],
    )
    def test_what_gstreamer_says_is_an_error_with_a_cause(
        self, pipeline: str, kind: type[VitedgeError], cause: str | None, words: str
    ):
        with pytest.raises(kind) as raised:
            open_source(f"gst:{pipeline}")
        assert words in str(raised.value)
        assert raised.value.expected
        assert raised.value.fix
        assert getattr(raised.value, "cause", None) == cause

    @pytest.mark.parametrize(
        ("pipeline", "words"),
        [
            ("", "it is empty"),
            ("   ", "it is empty"),
            ("videotestsrc ! video/x-raw,format='I420", "quotation mark"),
            ("--gst-plugin-path=/tmp videotestsrc", "option of gst-launch"),
            ("videotestsrc ! appsink drop=true", "sink 'appsink'"),
            ("videotestsrc ! autovideosink", "sink 'autovideosink'"),
        ],
    )
    def test_what_is_no_pipeline(self, pipeline: str, words: str):
        with pytest.raises(UsageError, match="cannot be used") as raised:
            open_source(f"gst:{pipeline}")
        assert words in raised.value.problem

    @pytest.mark.usefixtures("no_orphans")
    def test_no_frame_in_time(self):
        with pytest.raises(FrameSourceError, match=r"gave no frame for 0.5 s") as raised:
            open_source("gst:videotestsrc is-live=true ! valve drop=true", SourceOptions(open_timeout=0.5))
        assert raised.value.cause == "timeout"

    @pytest.mark.usefixtures("no_orphans")
    def test_frames_that_stop(self):
        stopping = f"gst:videotestsrc is-live=true ! {SMALL} ! identity sleep-time=0 eos-after=-1 ! valve name=v"
        before = children()
        with open_source(stopping, SourceOptions(read_timeout=0.5)) as source:
            frames = iter(source)
            next(frames)
            (child,) = children() - before
            os.killpg(child, signal.SIGSTOP)
            with pytest.raises(FrameSourceError, match=r"gave no frame for 0.5 s after") as raised:
                list(frames)
            os.killpg(child, signal.SIGCONT)
        assert raised.value.cause == "timeout"

    @pytest.mark.usefixtures("no_orphans")
    @pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
    def test_a_child_that_crashes_is_an_error_and_no_crash(self, number: signal.Signals):
        before = children()
        with open_source(LIVE) as source:
            frames = iter(source)
            next(frames)
            for child in children() - before:
                os.kill(child, number)
            with pytest.raises(FrameSourceError, match=f"{number.name} ended gst-launch"):
                list(frames)

    def test_no_secret_is_shown(self):
        with pytest.raises(FrameSourceError) as raised:
            open_source("gst:rtspsrc location=rtsp://admin:geheim@127.0.0.1:9/x ! decodebin")
        assert "geheim" not in str(raised.value)
        assert raised.value.cause in ("network", "refused")

    def test_gstreamer_missing_names_the_package(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(gst_process.shutil, "which", lambda _: None)
        with pytest.raises(FrameSourceError, match="which is not installed") as raised:
            open_pipeline("videotestsrc")
        assert "apt-get install gstreamer1.0-tools" in raised.value.fix

    def test_pyav_missing_names_the_extra(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(MissingExtraError, match="needs av"):
            open_pipeline("videotestsrc")

    @pytest.mark.usefixtures("no_orphans")
    def test_a_shell_sees_nothing_of_it(self, tmp_path: Path):
        target = tmp_path / "made"
        with pytest.raises(VitedgeError):
            open_source(f"gst:videotestsrc num-buffers=1 ; touch {target} $(touch {target}) `touch {target}`")
        assert not target.exists()

    @pytest.mark.parametrize(
        ("line", "cause"),
        [
            ("GstNvArgusCameraSrc:nvarguscamerasrc0: No cameras available", "not_found"),
            ("GstNvArgusCameraSrc:nvarguscamerasrc0: Failed to create CaptureSession", "device_busy"),
            ("GstNvArgusCameraSrc:src: TIMEOUT", "timeout"),
            ("GstLibcameraSrc:libcamerasrc0: Could not find any supported camera on this system.", "not_found"),
            ("GstLibcameraSrc:libcamerasrc0: Camera name '/base/x' is already in use.", "device_busy"),
            ("GstV4l2Src:v4l2src0: Device '/dev/video0' is busy", "device_busy"),
            (
                "GstV4l2Src:v4l2src0: Could not open device '/dev/video0' for reading and writing. Permission denied",
                "permission",
            ),
            ("GstRTSPSrc:rtspsrc0: Unauthorized", "auth"),
            ("GstDecodeBin:d: Your GStreamer installation is missing a plug-in.", "codec"),
            ("GstBaseSrc:src: Internal data stream error.", None),
        ],
    )
    def test_what_drivers_say(self, line: str, cause: str | None):
        error = pipeline_error("gst:x", [f"ERROR: from element /GstPipeline:pipeline0/{line}"], 1, 0)
        assert isinstance(error, FrameSourceError)
        assert error.cause == cause


class TestEnds:
    @pytest.mark.usefixtures("no_orphans")
    def test_close_from_another_thread_ends_the_reader_and_the_child(self):
        source = open_source("gst:videotestsrc is-live=true ! video/x-raw,framerate=1/1")
        read: list[object] = []
        reader = threading.Thread(target=lambda: read.extend(source), daemon=True)
        reader.start()
        assert eventually(lambda: bool(read) or reader.is_alive())
        source.close()
        source.close()
        reader.join(60)
        assert not reader.is_alive()

    @pytest.mark.usefixtures("no_orphans")
    def test_closed_before_it_is_read(self):
        open_source(LIVE).close()

    @pytest.mark.usefixtures("no_orphans")
    def test_closed_in_the_middle(self):
        with open_source(LIVE) as source:
            next(iter(source))

    @pytest.mark.usefixtures("no_orphans")
    def test_forgotten(self):
        source = open_source(LIVE)
        next(iter(source))
        with pytest.warns(ResourceWarning, match="was not closed"):
            del source  # nothing else refers to it

    @pytest.mark.usefixtures("no_orphans")
    def test_a_child_that_does_not_want_to_end_is_killed(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(gst_process, "GRACE_SECONDS", 0.1)
        before = children()
        source = open_source(LIVE)
        (child,) = children() - before
        os.killpg(child, signal.SIGSTOP)  # SIGTERM waits, SIGKILL does not
        source.close()
        assert eventually(lambda: gone(child))

    @pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "os._exit(3)", "sys.exit(0)", "raise ValueError"])
    def test_no_child_outlives_its_parent(self, how: str):
        program = textwrap.dedent(
            f"""
            import os, sys
            from pathlib import Path
            from vitedge.runtime.sources.open import open_source
            source = open_source("gst:videotestsrc is-live=true ! video/x-raw,framerate=1/200")  # writes once
            for entry in Path("/proc").iterdir():
                if entry.name.isdecimal():
                    try:
                        parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    except OSError:
                        continue
                    if parent == os.getpid():
                        print(entry.name, flush=True)
            {how}
            """
        )
        ended = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False
        )
        pids = [int(each) for each in ended.stdout.split()]
        assert len(pids) == 1
        assert eventually(lambda: gone(pids[0]))

    def test_a_daemon_thread_that_reads_at_the_end_says_nothing(self):
        program = textwrap.dedent(
            """
            import threading, time
            from vitedge.runtime.sources.open import open_source
            source = open_source("gst:videotestsrc is-live=true ! video/x-raw,framerate=100/1")
            threading.Thread(target=lambda: list(source), daemon=True).start()
            time.sleep(0.2)
            """
        )
        for _ in range(3):
            ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=100, check=False)
            assert (ended.returncode, ended.stderr) == (0, b"")

    def test_ctrl_c_ends_a_program_that_reads_in_its_main_thread(self):
        program = textwrap.dedent(
            """
            from vitedge.runtime.sources.open import open_source
            with open_source("gst:videotestsrc is-live=true ! video/x-raw,framerate=30/1") as source:
                for frame in source:
                    print(frame.index, flush=True)
            """
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(5):
                child.stdout.readline()
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=100)
        assert b"KeyboardInterrupt" in said
        assert child.returncode in (-signal.SIGINT, 130)

    def test_a_forked_child_leaves_the_pipeline_alone(self):
        with open_source(LIVE) as source:
            frames = iter(source)
            next(frames)
            pid = os.fork()
            if pid == 0:
                gstreamer_module._end_all()
                os._exit(0)
            os.waitpid(pid, 0)
            assert next(frames) is not None
            assert len(list(itertools.islice(frames, 5))) == 5


class TestStreams:
    @pytest.fixture
    def classifier(self) -> Iterator[Classifier]:
        engine = FakeEngine(lambda frame: frame.mean(axis=(0, 1)), input_size=(32, 32))
        preprocessing = Preprocessing(input_size=(32, 32), resize_size=(32, 32))
        with Classifier(engine, preprocessing, labels=["red", "green", "blue"]) as opened:
            yield opened

    @pytest.mark.usefixtures("no_orphans")
    def test_a_pipeline_that_crashes_is_started_again(self, classifier: Classifier):
        before = children()
        with classifier.stream(f"{LIVE} ! identity name=x", policy="every") as stream:
            epochs = []
            for prediction in stream:
                epochs.append(prediction.epoch)
                if len(epochs) == 3:
                    for child in children() - before:
                        os.kill(child, signal.SIGKILL)
                if epochs.count(1) == 3:
                    break
        assert epochs == sorted(epochs)
        assert set(epochs) == {0, 1}

    @pytest.mark.usefixtures("no_orphans")
    def test_stop_while_nothing_comes(self, classifier: Classifier):
        stream = classifier.stream("gst:videotestsrc is-live=true ! video/x-raw,framerate=1/1", policy="every")
        next(stream)
        threading.Timer(0.1, stream.stop).start()
        assert list(stream) == []
        stream.close()


class TestCsi:
    @pytest.fixture
    def board(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
        def be(compatible: bytes) -> None:
            (tmp_path / "compatible").write_bytes(compatible)

        monkeypatch.setattr(csi, "COMPATIBLE", tmp_path / "compatible")
        monkeypatch.setattr(csi, "_list_cameras", lambda: None)
        return be

    def test_a_jetson(self, board: Callable[[bytes], None]):
        board(b"nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0")
        assert " ".join(csi_elements(1, CameraOptions(width=1920, height=1080, fps=59.94))) == (
            "nvarguscamerasrc sensor-id=1 ! "
            "video/x-raw(memory:NVMM),format=NV12,width=1920,height=1080,framerate=2997/50 ! "
            "nvvidconv ! video/x-raw,format=I420 ! queue leaky=downstream max-size-buffers=1"
        )

    def test_a_raspberry_pi(self, board: Callable[[bytes], None]):
        board(b"raspberrypi,5-model-b\0brcm,bcm2712\0")
        assert " ".join(csi_elements(0, CameraOptions())) == (
            "libcamerasrc ! video/x-raw,format=NV12,width=1280,height=720,framerate=30/1 ! "
            "queue leaky=downstream max-size-buffers=1"
        )

    def test_the_second_camera_of_a_raspberry_pi(self, board: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch):
        board(b"raspberrypi,5-model-b\0")
        monkeypatch.setattr(csi, "_list_cameras", lambda: {0: "/base/a", 1: "/base/b@1a"})
        assert csi_elements(1, CameraOptions())[:2] == ["libcamerasrc", "camera-name=/base/b@1a"]
        with pytest.raises(FrameSourceError, match="no csi://2") as raised:
            csi_elements(2, CameraOptions())
        assert raised.value.expected == "one of csi://0, csi://1"

    @pytest.mark.parametrize("compatible", [None, b"rockchip,rk3588\0", b""])
    def test_another_machine(self, compatible: bytes | None, board: Callable[[bytes], None]):
        if compatible is not None:
            board(compatible)
        with pytest.raises(FrameSourceError, match="neither a Jetson nor a Raspberry Pi") as raised:
            open_source("csi://0?size=640x480")
        assert raised.value.cause == "not_found"

    @pytest.mark.parametrize("address", ["csi://x", "csi://99", "csi://-1", "csi://0/1"])
    def test_a_number_that_no_camera_has(self, address: str):
        with pytest.raises(UsageError, match="the camera is csi://"):
            open_source(address)

    def test_it_has_no_fourcc(self):
        with pytest.raises(UsageError, match="has no fourcc"):
            open_source("csi://0?fourcc=MJPG")

    def test_the_list_of_libcamera(self):
        text = textwrap.dedent(
            """\
            Available cameras
            -----------------
            0 : imx708 [4608x2592 10-bit RGGB] (/base/axi/pcie@120000/rp1/i2c@88000/imx708@1a)
                Modes: 'SRGGB10_CSI2P' : 1536x864 [120.13 fps - (768, 432)/3072x1728 crop]
            1 : imx219 [3280x2464 10-bit RGGB] (/base/axi/pcie@120000/rp1/i2c@80000/imx219@10)
            """
        )
        assert parse_cameras(text) == {
            0: "/base/axi/pcie@120000/rp1/i2c@88000/imx708@1a",
            1: "/base/axi/pcie@120000/rp1/i2c@80000/imx219@10",
        }
        assert parse_cameras("No cameras available!") == {}

    def test_its_pipeline_can_be_parsed(self, board: Callable[[bytes], None]):
        board(b"nvidia,tegra234\0")
        elements = csi_elements(0, CameraOptions())
        assert parse_pipeline(" ".join(f"'{each}'" for each in elements)) == elements
