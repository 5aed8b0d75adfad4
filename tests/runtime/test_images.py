"""Image files: the same pixels as timm's data sets give, and one error for each that is damaged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitedge.errors import FrameSourceError, MissingExtraError
from vitedge.runtime.images import list_images, read_image

pillow = pytest.importorskip("PIL.Image")

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    pillow.fromarray(COLOURS).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image, COLOURS)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), COLOURS)
    assert image.dtype == np.uint8
    image[...] = 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    image = pillow.fromarray(COLOURS).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = pillow.fromarray(np.asarray(image).astype(np.uint16))
    image.save(tmp_path / "a.png")
    with pillow.open(tmp_path / "a.png") as reopened:
        assert reopened.mode == mode
        expected = np.asarray(reopened.convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_jpeg_in_cmyk_becomes_rgb(tmp_path: Path) -> None:
    pillow.fromarray(COLOURS).convert("CMYK").save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").shape == (20, 30, 3)


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6
    pillow.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    with pillow.open(tmp_path / "a.png") as image:
        assert image.getexif()[0x0112] == 6
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOURS)


@pytest.mark.parametrize(("suffix", "kept"), [("jpg", 0.7), ("jpg", 0.02), ("png", 0.5), ("png", 0.0), ("bmp", 0.9)])
def test_a_truncated_file_is_named(suffix: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{suffix}"
    pillow.fromarray(np.tile(COLOURS, (20, 20, 1))).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(FrameSourceError, match=rf"cut\.{suffix} cannot be read") as caught:
        read_image(path)
    assert caught.value.fix


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(FrameSourceError, match=r"notes\.jpg cannot be read"):
        read_image(tmp_path / "notes.jpg")
    with pytest.raises(FrameSourceError, match="cannot be read"):
        read_image(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FrameSourceError, match=r"there is no image .*gone\.jpg"):
        read_image(tmp_path / "gone.jpg")


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"vitedge\[camera\]"):
        read_image(tmp_path / "a.png")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_are_listed_in_order_from_all_folders(tmp_path: Path) -> None:
    wanted = [tmp_path / name for name in ("b.PNG", "a/2.jpeg", "a/1.jpg", "a/deep/er/3.webp", "c/x.y.tiff")]
    touch(*wanted, tmp_path / "a/readme.txt", tmp_path / ".hidden.jpg", tmp_path / ".cache/4.jpg", tmp_path / "jpg")
    assert list_images(tmp_path) == tuple(sorted(wanted))
    assert list_images(str(tmp_path)) == tuple(sorted(wanted))


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere/1.jpg", tmp_path / "set/own/2.jpg")
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/own/up").symlink_to(tmp_path / "set")
    assert list_images(tmp_path / "set") == (tmp_path / "set/linked/1.jpg", tmp_path / "set/own/2.jpg")


def test_an_empty_folder_has_no_images(tmp_path: Path) -> None:
    assert list_images(tmp_path) == ()


@pytest.mark.parametrize("name", ["gone", "file.jpg"])
def test_what_is_no_folder_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.jpg").touch()
    with pytest.raises(FrameSourceError, match=name):
        list_images(tmp_path / name)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # timm leaves the files to the garbage collector
def test_flowers_are_read_as_by_timm(shared_data: Path) -> None:
    dataset: Any = pytest.importorskip("timm.data").ImageDataset(str(shared_data / "flowers" / "val"))
    paths = list_images(shared_data / "flowers" / "val")
    assert len(paths) == len(dataset) == 376
    by_path = {Path(dataset.filename(index, absolute=True)): index for index in range(len(dataset))}
    for path in paths[::60]:
        image, _ = dataset[by_path[path]]
        np.testing.assert_array_equal(read_image(path), np.asarray(image))
