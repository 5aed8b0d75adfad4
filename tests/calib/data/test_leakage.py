from __future__ import annotations

import shutil
from pathlib import Path

import photos

from vitedge.calib.data.dataset import ImageFile
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.data.leakage import count_shared_images


def test_images_are_found_by_their_contents_under_any_name(tmp_path: Path) -> None:
    first = photos.write_photos(tmp_path / "first", ("red", "blue"), each=3)
    second = photos.write_photos(tmp_path / "second", ("green",), each=2)
    assert count_shared_images(ImageFolder.open(first).files, ImageFolder.open(second).files) == 0
    shutil.copy(first / "red" / "1.png", second / "other.png")
    shutil.copy(first / "red" / "1.png", second / "again.png")
    assert count_shared_images(ImageFolder.open(first).files, ImageFolder.open(second).files) == 2
    assert count_shared_images(ImageFolder.open(first).files, ImageFolder.open(first).files) == 6


def test_other_contents_of_the_same_size_differ_and_so_do_frames(tmp_path: Path) -> None:
    for name, contents in (("a", b"one"), ("b", b"two"), ("c", b"one")):
        (tmp_path / name).write_bytes(contents)
    a, b, c = (ImageFile(tmp_path / name, name, "") for name in "abc")
    assert (count_shared_images([a], [b]), count_shared_images([a], [b, c])) == (0, 1)
    frames = [ImageFile(tmp_path / "a", f"frame {number}", "", number) for number in range(3)]
    assert count_shared_images(frames[:2], frames[1:]) == 1
    assert count_shared_images([a], [ImageFile(tmp_path / "missing", "missing", "")]) == 0
