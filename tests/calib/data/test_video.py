"""The frames of a video as images: which of them, in which order, and that they are those frames."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

import clips
import photos

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.data.open import open_dataset
from vitedge.calib.data.video import VideoFrames
from vitedge.errors import CalibrationError, FrameSourceError, MissingExtraError, UsageError

FRAMES = 20


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write_clip(tmp_path_factory.mktemp("clips") / "clip.avi", FRAMES)


def numbers(frames: VideoFrames) -> list[int]:
    return [clips.number_of(picture.pixels) for picture in frames.decode() if picture.pixels is not None]


def test_every_frame_in_order(clip: Path) -> None:
    frames = VideoFrames.open(clip)
    assert len(frames) == FRAMES
    assert numbers(frames) == [file.frame for file in frames.files] == list(range(FRAMES))
    assert frames.files[7].name == "frame 7"


@pytest.mark.parametrize(("limit", "expected"), [(1, [0]), (3, [0, 10, 19]), (FRAMES, list(range(FRAMES))), (99, None)])
def test_a_limit_spreads_over_the_video(clip: Path, limit: int, expected: list[int] | None) -> None:
    assert numbers(VideoFrames.open(clip, limit=limit)) == (expected or list(range(FRAMES)))


def test_pixels_are_rgb_and_each_has_its_hash(clip: Path) -> None:
    pictures = list(VideoFrames.open(clip, limit=4).decode())
    for picture, frame in zip(
        pictures, [clips.read_clip(clip)[each.file.frame or 0] for each in pictures], strict=True
    ):
        np.testing.assert_array_equal(picture.pixels, frame[..., ::-1])
    assert len({picture.sha256 for picture in pictures}) == 4


def test_some_of_the_frames(clip: Path) -> None:
    frames = VideoFrames.open(clip)
    assert numbers(frames.subset(frames.files[5:17:4])) == [5, 9, 13]
    assert numbers(frames.subset([])) == []


def test_frames_that_do_not_come_have_no_pixels(clip: Path, tmp_path: Path) -> None:
    shorter = clips.write_clip(tmp_path / "clip.avi", 3)
    pictures = list(VideoFrames(shorter, VideoFrames.open(clip).files[:5]).decode())
    assert [picture.pixels is None for picture in pictures] == [False] * 3 + [True] * 2


def test_damaged_frames_are_left_out(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (192, 320, 3), dtype=np.uint8)
    path = clips.write_pictures(tmp_path / "clip.avi", [noise] * FRAMES, height=192, width=320)
    content = bytearray(path.read_bytes())
    begin = content.index(b"\xff\xd8\xff", len(content) // 2)
    end = content.index(b"\xff\xd9", begin)
    middle = (begin + end) // 2
    content[middle:end] = b"\xff\xd9".ljust(end - middle, b"\0")
    path.write_bytes(content)
    frames = VideoFrames.open(path)
    (missing,) = set(range(FRAMES)) - {file.frame for file in frames.files}
    assert 0 < missing < FRAMES - 1
    assert [picture.file for picture in frames.decode() if picture.pixels is not None] == list(frames.files)


def test_frames_are_loaded_shuffled_and_with_their_own_pixels(clip: Path) -> None:
    size = (96, 128)
    photos_of = VideoFrames.open(clip).load(Preprocessing(size, size))
    found = [clips.number_of(frame) for frame in photos_of.frames]
    assert found == [file.frame for file in photos_of.files]
    assert sorted(found) == list(range(FRAMES))
    assert found != sorted(found)
    assert len(set(found[: FRAMES // 2]) & set(range(FRAMES // 2))) < FRAMES // 2
    again = VideoFrames.open(clip).load(Preprocessing(size, size))
    assert (again.files, again.sha256) == (photos_of.files, photos_of.sha256)


def test_a_video_without_frames(tmp_path: Path) -> None:
    with pytest.raises(FrameSourceError, match=r"no frame|not a video"):
        open_dataset(clips.write_clip(tmp_path / "empty.avi", 0))


def test_without_pyav(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match="vitedge\\[camera\\]"):
        open_dataset(clip)


def test_frames_have_no_classes(clip: Path) -> None:
    frames = VideoFrames.open(clip)
    assert not frames.is_labelled([""])
    with pytest.raises(CalibrationError, match="have no classes") as caught:
        frames.class_to_idx(["red"])
    assert "against=" in caught.value.fix


def test_a_folder_a_list_a_video_and_nothing(clip: Path, tmp_path: Path) -> None:
    folder = photos.write_photos(tmp_path / "photos")
    assert isinstance(open_dataset(folder, limit=3), ImageFolder)
    assert isinstance(open_dataset(str(clip)), VideoFrames)
    (folder / "list.txt").write_text("red/0.png\ngreen/1.png\n", encoding="utf-8")
    assert len(open_dataset(folder / "list.txt")) == 2
    with pytest.raises(CalibrationError, match="there is no folder"):
        open_dataset(tmp_path / "missing")
    with pytest.raises(CalibrationError, match="single image"):
        open_dataset(folder / "red" / "0.png")
    with pytest.raises(UsageError, match="0 frames were asked for"):
        open_dataset(clip, limit=0)


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("no video", encoding="utf-8")
    with pytest.raises(FrameSourceError, match="not a video"):
        open_dataset(tmp_path / "notes.md")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["clip.mp4", "list.txt", "image.jpg", "folder"])
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero"])
def test_pipes_and_devices_are_no_images(kind: str, name: str, tmp_path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to(kind)
    with pytest.raises(CalibrationError, match="is not a folder"):
        open_dataset(tmp_path / name)


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "\ud800"])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(CalibrationError, match="there is no folder"):
        open_dataset(name)
