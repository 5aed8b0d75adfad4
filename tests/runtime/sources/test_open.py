"""Paths, globs, addresses, iterables, and what is no source at all."""

from __future__ import annotations

import logging
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitedge.errors import FrameSourceError, MissingExtraError, UsageError
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources import open as sources
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.sources.iterables import FrameIterable
from vitedge.runtime.sources.open import open_source
from vitedge.runtime.sources.options import CameraOptions, NetworkOptions, SourceOptions

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

import clips  # noqa: E402 - needs PyAV

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write_clip(tmp_path_factory.mktemp("clips") / "numbered.avi", 60)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "more/c.png")):
        Image.fromarray(np.full((8, 12, 3), (200, number, 10), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


class TestImages:
    def test_a_folder_gives_its_images_sorted(self, photos: Path):
        with open_source(str(photos)) as source:
            frames = list(source)
        assert (source.live, source.fps, source.length) == (False, None, 3)
        assert [frame.file for frame in frames] == [str(photos / name) for name in ("a.png", "b.jpg", "more/c.png")]
        assert [frame.index for frame in frames] == [0, 1, 2]
        assert frames[0].order == "RGB"
        assert frames[0].image[0, 0].tolist() == [200, 0, 10]

    def test_one_image(self, photos: Path):
        with open_source(photos / "a.png") as source:
            (frame,) = source
        assert frame.file == str(photos / "a.png")

    def test_a_corrupt_image_among_good_ones_is_skipped_counted_and_named(
        self, photos: Path, caplog: pytest.LogCaptureFixture
    ):
        (photos / "b.jpg").write_bytes(b"not a jpeg")
        with caplog.at_level(logging.WARNING, "vitedge"), open_source(photos) as source:
            frames = list(source)
        assert [frame.index for frame in frames] == [0, 2]
        assert source.notices == (
            f"{photos}: skipped 1 unreadable of 3 images: {photos / 'b.jpg'}",
            f"{photos}: the first was skipped because it does not begin like an image",
            f"{photos}: 1 file is no image and was not read: 1 .txt",
        )
        assert "b.jpg" in caplog.text

    def test_many_corrupt_images_are_named_in_part(self, photos: Path):
        for number in range(9):
            (photos / f"z{number}.jpg").write_bytes(b"")
        with open_source(photos) as source:
            list(source)
        assert source.notices[0].endswith("z4.jpg and 4 more")
        assert "skipped 9 unreadable of 12" in source.notices[0]

    def test_only_corrupt_images_are_an_error(self, photos: Path):
        for path in photos.rglob("*.*g"):
            path.write_bytes(b"")
        with open_source(photos) as source, pytest.raises(FrameSourceError, match="none of the 3 images"):
            list(source)

    def test_one_corrupt_image_is_an_error_that_names_it(self, photos: Path):
        (photos / "a.png").write_bytes(b"")
        with open_source(photos / "a.png") as source, pytest.raises(FrameSourceError, match=r"a\.png"):
            list(source)

    def test_a_folder_without_images_is_an_error(self, tmp_path: Path):
        (tmp_path / "notes.txt").write_text("nothing here")
        with pytest.raises(FrameSourceError, match="holds no images") as raised:
            open_source(tmp_path)
        assert ".jpg" in raised.value.expected


class TestIterables:
    def test_arrays_become_numbered_frames(self):
        arrays = [clips.numbered_frame(number) for number in (5, 6)]
        source = open_source(arrays)
        frames = list(source)
        assert [frame.index for frame in frames] == [0, 1]
        assert all(frame.image is array for frame, array in zip(frames, arrays, strict=True))
        assert (source.live, source.length) == (False, 2)
        assert open_source(iter(arrays)).length is None

    def test_frames_keep_their_own_time_and_order(self):
        frame = Frame(clips.numbered_frame(1), 41, captured_at=12.0, captured_ns=34, order="RGB")
        kept, other = open_source([frame, frame.pixels])
        assert kept == replace(frame, age_basis="caller")
        assert other.age_basis == "arrival"

    def test_a_generator_of_arrays(self):
        assert len(list(open_source(clips.numbered_frame(number) for number in range(3)))) == 3

    def test_a_stack_of_images_is_iterated(self):
        assert len(list(open_source(np.zeros((4, 8, 8, 3), dtype=np.uint8)))) == 4

    def test_a_live_one_says_so(self):
        assert FrameIterable([], live=True).live

    @pytest.mark.parametrize(
        "wrong",
        [
            np.zeros((0, 8, 3), dtype=np.uint8),
            np.zeros((8, 8), dtype=np.uint8),
            np.zeros((8, 8, 1), dtype=np.uint8),
            np.zeros((8, 8, 3), dtype=np.float32),
            None,
        ],
        ids=["zero-size", "grey", "one channel", "float", "None"],
    )
    def test_a_frame_that_is_none_is_an_error_that_gives_its_number(self, wrong: object):
        frames = iter(open_source([clips.numbered_frame(0), wrong]))
        next(frames)
        with pytest.raises(FrameSourceError, match="frame 1 of the iterable") as raised:
            next(frames)
        assert raised.value.expected

    def test_an_open_source_is_returned_as_it_is(self):
        source = FrameIterable([])
        assert open_source(source) is source


class TestWrongSources:
    def test_a_missing_file_names_close_ones(self, clip: Path):
        with pytest.raises(FrameSourceError, match="there is no source") as raised:
            open_source(clip.with_name("numberd.avi"))
        assert raised.value.fix == "did you mean numbered.avi?"
        assert "rtsp://" in raised.value.expected

    def test_a_missing_folder(self, tmp_path: Path):
        with pytest.raises(FrameSourceError, match="there is no source"):
            open_source(str(tmp_path / "a" / "b"))

    def test_an_empty_text_is_not_the_folder_of_the_program(self, photos: Path, monkeypatch: pytest.MonkeyPatch):
        """``--source "$CAMERA"`` where the variable is not set."""
        monkeypatch.chdir(photos)
        for empty in ("", "  "):
            with pytest.raises(UsageError, match="the source is empty"):
                open_source(empty)

    def test_an_unknown_scheme(self):
        with pytest.raises(UsageError, match="unknown scheme") as raised:
            open_source("rstp://camera/1")
        assert "rtsp" in raised.value.fix

    @pytest.mark.parametrize("name", ["a.jpg", "a.mp4", "a"])
    @pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "/dev/null", "loop"])
    def test_pipes_devices_and_links_in_circles(self, kind: str, name: str, tmp_path: Path):
        path = tmp_path / name
        if kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(path if kind == "loop" else kind)
        with pytest.raises(FrameSourceError, match="is not a file, folder or camera"):
            open_source(path)

    @pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "\ud800", "9" * 5000, "/dev/zero/a"])
    def test_names_that_no_file_has(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FrameSourceError, match=r"there is no source|holds no images"):
            open_source(name)

    @pytest.mark.parametrize(
        ("name", "kind", "major", "camera"),
        [
            ("/dev/video3", stat.S_IFCHR, 81, True),
            ("/dev/v4l/by-id/usb-camera", stat.S_IFCHR, 81, True),
            ("/dev/v4l/by-id/usb-camera", stat.S_IFCHR, 1, False),
            ("/dev/video3", stat.S_IFREG, 0, False),
            ("/dev/video3", stat.S_IFIFO, 0, False),
            ("/dev/zero", stat.S_IFCHR, 1, False),
        ],
    )
    def test_only_devices_are_cameras(
        self, name: str, kind: int, major: int, camera: bool, monkeypatch: pytest.MonkeyPatch
    ):
        found = os.stat_result((kind, 0, 0, 0, 0, 0, 0, 0, 0, 0), {"st_rdev": os.makedev(major, 3)})
        monkeypatch.setattr(Path, "stat", lambda _: found)
        assert sources._is_camera(Path(name)) is camera

    @pytest.mark.parametrize("wrong", [None, 1.5, True, np.zeros((8, 8, 3), dtype=np.uint8)])
    def test_another_kind_of_thing(self, wrong: object):
        with pytest.raises(UsageError) as raised:
            open_source(wrong)
        assert "a video file" in raised.value.expected

    def test_pyav_missing_names_the_extra(self, clip: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "av", None)
        for source in (clip, 0, "rtsp://camera/1", "gst:videotestsrc"):
            with pytest.raises(MissingExtraError, match="needs av") as raised:
                open_source(source)
            assert raised.value.fix == 'pip install "vitedge[camera]"'

    def test_an_address_as_a_path_has_lost_a_slash(self):
        with pytest.raises(FrameSourceError, match="there is no source") as raised:
            open_source(Path("rtsp://camera/1"))
        assert raised.value.fix == "an address is a text with two slashes: rtsp://camera/1"

    def test_no_secret_is_shown(self, tmp_path: Path):
        for address in ("rstp://admin:geheim@camera/1", "v4l2://admin:geheim@video0", "csi://admin:geheim@0"):
            with pytest.raises(UsageError) as raised:
                open_source(address)
            assert "geheim" not in str(raised.value)


class TestGlobs:
    def test_the_images_that_match_in_order(self, photos: Path):
        with open_source(str(photos / "*.*g")) as source:
            assert (source.live, source.length) == (False, 2)
            assert [frame.file for frame in source] == [str(photos / "a.png"), str(photos / "b.jpg")]
        assert source.notices == ()

    def test_folders_below(self, photos: Path):
        with open_source(photos / "**" / "*.png") as source:
            assert [frame.file for frame in source] == [str(photos / "a.png"), str(photos / "more" / "c.png")]

    def test_other_files_are_counted(self, photos: Path):
        with open_source(f"{photos}/*") as source:
            assert len(list(source)) == 2
        assert source.notices == (f"{photos}/*: 1 file is no image and was not read: 1 .txt",)

    def test_one_match_is_opened_as_what_it_is(self, clip: Path):
        with open_source(str(clip.with_name("number*.avi"))) as source:
            assert sum(1 for _ in source) == 60

    @pytest.mark.parametrize("name", ["a[1].png", "a*.png", "a?.png", "[x]", "gst:a.png", "test:a.png", "7"])
    def test_a_name_that_looks_like_a_pattern_opens(self, name: str, photos: Path, monkeypatch: pytest.MonkeyPatch):
        (photos / "a.png").rename(photos / name)
        monkeypatch.chdir(photos)
        if name.endswith(".png"):
            with open_source(name) as source:
                assert [frame.file for frame in source] == [name]
        else:
            with pytest.raises(FrameSourceError, match="is not a video"):
                open_source(name)

    def test_nothing_matches(self, photos: Path):
        with pytest.raises(FrameSourceError, match="there is no source") as raised:
            open_source(f"{photos}/*.gif")
        assert raised.value.cause == "not_found"

    def test_several_videos_are_for_streams(self, clip: Path, tmp_path: Path):
        for name in ("a.avi", "b.avi"):
            (tmp_path / name).write_bytes(clip.read_bytes())
        with pytest.raises(
            UsageError, match=r"matches 2 files, and no image: 2 files are no images .* 2 .avi"
        ) as raised:
            open_source(f"{tmp_path}/*.avi")
        assert ".streams" in raised.value.fix


class TestOptionsOfEverySource:
    def test_they_fit_every_source(self, clip: Path, photos: Path):
        options = SourceOptions(decode_threads=1)
        for source in (clip, photos, photos / "a.png", f"{photos}/*.png", [], "test://?frames=1&size=64x64"):
            open_source(source, options).close()
        with open_source("test://?frames=1") as opened:
            assert open_source(opened, options) is opened

    def test_those_of_a_camera_do_not(self, clip: Path, photos: Path):
        for source in (clip, photos, f"{photos}/*.*g", [], "rtsp://camera/1", "test://", FrameIterable([])):
            with pytest.raises(UsageError, match="CameraOptions are no options of"):
                open_source(source, CameraOptions())

    def test_a_file_keeps_planes_on_request(self, clip: Path):
        with open_source(clip, SourceOptions(planes=True)) as source:
            assert isinstance(next(iter(source)).pixels, YuvPlanes)

    def test_transport_is_of_rtsp(self):
        with pytest.raises(UsageError, match="transport=udp is no option of http"):
            open_source("http://camera/1", NetworkOptions(transport="udp"))
