from __future__ import annotations

import shutil
from pathlib import Path

import photos

from vitedge.calib.data.images import ImageFile, ImageSet
from vitedge.calib.data.overlap import overlap


def test_images_are_found_by_their_contents_under_any_name(tmp_path: Path) -> None:
    first = photos.write_photos(tmp_path / "first", ("red", "blue"), each=3)
    second = photos.write_photos(tmp_path / "second", ("green",), each=2)
    assert overlap(ImageSet.from_folder(first).files, ImageSet.from_folder(second).files) == 0
    shutil.copy(first / "red" / "1.png", second / "other.png")
    shutil.copy(first / "red" / "1.png", second / "again.png")
    assert overlap(ImageSet.from_folder(first).files, ImageSet.from_folder(second).files) == 2
    assert overlap(ImageSet.from_folder(first).files, ImageSet.from_folder(first).files) == 6


def test_other_contents_of_the_same_size_differ_and_so_do_frames(tmp_path: Path) -> None:
    for name, contents in (("a", b"one"), ("b", b"two"), ("c", b"one")):
        (tmp_path / name).write_bytes(contents)
    a, b, c = (ImageFile(tmp_path / name, name, "") for name in "abc")
    assert (overlap([a], [b]), overlap([a], [b, c])) == (0, 1)
    frames = [ImageFile(tmp_path / "a", f"frame {number}", "", number) for number in range(3)]
    assert overlap(frames[:2], frames[1:]) == 1
    assert overlap([a], [ImageFile(tmp_path / "missing", "missing", "")]) == 0
