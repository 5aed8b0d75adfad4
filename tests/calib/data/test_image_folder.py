"""Sets of images: order, classes, what is skipped, hashes, and the frames that calibration sees."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("PIL")

import photos
from PIL import Image

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data import image_folder
from vitedge.calib.data.dataset import CalibrationImages, ImageFile
from vitedge.calib.data.image_folder import ImageFolder, _take_turns
from vitedge.errors import CalibrationError, UsageError
from vitedge.progress import Silent
from vitedge.runtime.preprocess.preprocessor import Preprocessor
from vitedge.runtime.sources.images.reading import read_image

SMALL = Preprocessing(input_size=(16, 16), resize_size=(20, 24))


class Steps(Silent):
    """Remembers the steps."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def step(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Three images each of red, green and blue."""
    return photos.write_photos(tmp_path / "colours", each=3)


def names(images: ImageFolder) -> list[str]:
    return [file.name for file in images.files]


def load(folder: Path) -> CalibrationImages:
    return ImageFolder.open(folder).load(SMALL)


def test_files_know_their_class_and_name(tmp_path: Path) -> None:
    for name in ("red/deep/down/0.png", "green/1.png", "2.png"):
        photos.write_photo(tmp_path / name, "red")
    images = ImageFolder.open(tmp_path)
    assert {file.name: file.class_name for file in images.files} == {
        "red/deep/down/0.png": "red",
        "green/1.png": "green",
        "2.png": "",
    }
    assert all(file.path == tmp_path / file.name for file in images.files)
    assert images.class_names == ("", "green", "red")
    assert len(images) == 3


def test_the_order_follows_from_the_names_alone(colours: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    for name in sorted((each.relative_to(colours) for each in colours.rglob("*.png")), reverse=True):
        photos.write_photo(moved / name, "blue", seed=5)  # other contents, written in another order
    assert names(ImageFolder.open(colours)) == names(ImageFolder.open(str(moved)))


def test_the_order_is_this_one_on_every_machine(colours: Path) -> None:
    """By the first digits of ``sha256sum`` of the names, class after class in turn."""
    assert names(ImageFolder.open(colours)) == [
        "blue/1.png",
        "green/2.png",
        "red/2.png",
        "blue/2.png",
        "green/1.png",
        "red/1.png",
        "blue/0.png",
        "green/0.png",
        "red/0.png",
    ]


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 9), min_size=1), st.data())
def test_every_beginning_is_balanced(sizes: dict[str, int], data: st.DataObject) -> None:
    files = [ImageFile(Path(), f"{name}/{index}", name) for name, size in sizes.items() for index in range(size)]
    ordered = _take_turns(data.draw(st.permutations(files)))
    assert ordered == _take_turns(files)
    assert sorted(ordered, key=str) == sorted(files, key=str)
    beginning = Counter(file.class_name for file in ordered[: data.draw(st.integers(1, len(files)))])
    most = max(beginning.values())
    for name, size in sizes.items():
        assert beginning[name] >= min(size, most - 1)


def test_a_class_is_shuffled(tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    for index in range(30):
        (tmp_path / "red" / f"{index:02}.png").touch()
    ordered = names(ImageFolder.open(tmp_path))
    assert ordered != sorted(ordered)


def test_a_limit_is_the_beginning_and_even(colours: Path) -> None:
    whole, part = ImageFolder.open(colours), ImageFolder.open(colours, limit=6)
    assert part.files == whole.files[:6]
    assert set(Counter(file.class_name for file in part.files).values()) == {2}
    assert len(ImageFolder.open(colours, limit=100)) == 9


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_nothing(colours: Path, limit: int) -> None:
    with pytest.raises(UsageError, match=f"{limit} images were asked for"):
        ImageFolder.open(colours, limit=limit)


@pytest.mark.parametrize(
    "labels",
    [("blue", "red", "green"), ("Blue", "RED", "green"), ("blue", "red", "green", "never seen")],
)
def test_folders_match_labels_whatever_the_case(colours: Path, labels: tuple[str, ...]) -> None:
    images = ImageFolder.open(colours)
    assert images.class_to_idx(labels) == {"blue": 0, "red": 1, "green": 2}
    assert images.is_labelled(labels)


@pytest.mark.parametrize("label", ["Bald Eagle", "bald-eagle", "bald_eagle", " bald  eagle"])
def test_underscores_and_hyphens_are_spaces(tmp_path: Path, label: str) -> None:
    photos.write_photo(tmp_path / "bald_eagle" / "0.png", "red")
    assert ImageFolder.open(tmp_path).class_to_idx(["crane", label]) == {"bald_eagle": 1}


def test_an_exact_match_goes_before_a_near_one(tmp_path: Path) -> None:
    for name in ("crane", "Crane"):
        photos.write_photo(tmp_path / name / "0.png", "red")
    assert ImageFolder.open(tmp_path).class_to_idx(["Crane", "crane"]) == {"Crane": 0, "crane": 1}


@pytest.mark.parametrize("labels", [("crane", "crane"), ("CRANE", "Crane")])
def test_a_folder_that_may_mean_two_classes(tmp_path: Path, labels: tuple[str, ...]) -> None:
    photos.write_photo(tmp_path / "crane" / "0.png", "red")
    with pytest.raises(CalibrationError, match="'crane' may mean several classes of the model: 0, 1") as caught:
        ImageFolder.open(tmp_path).class_to_idx(labels)
    assert "labels=" in caught.value.fix


@pytest.mark.parametrize("folder", ["crane", "Crane", "crane (3)"])
def test_a_folder_for_two_labels_that_were_told_apart(tmp_path: Path, folder: str) -> None:
    photos.write_photo(tmp_path / folder / "0.png", "red")
    images, labels = ImageFolder.open(tmp_path), ("crane (0)", "b", "c", "crane (3)", "kite (bird)")
    if folder == "crane (3)":
        assert images.class_to_idx(labels) == {"crane (3)": 3}
        return
    with pytest.raises(CalibrationError, match=r"of the model: 0, 3 \('crane \(0\)', 'crane \(3\)'\)"):
        images.class_to_idx(labels)


def test_what_is_in_parentheses_is_left_out_only_where_labels_share_the_rest(tmp_path: Path) -> None:
    photos.write_photo(tmp_path / "kite" / "0.png", "red")
    with pytest.raises(CalibrationError, match=r"the folder in .* is no label of the model: 'kite'"):
        ImageFolder.open(tmp_path).class_to_idx(("crane", "kite (bird)"))


def test_folders_named_by_class_ids_get_the_labels(tmp_path: Path) -> None:
    for name in ("n01440764", "N01443537", "loon", "n09999999"):
        photos.write_photo(tmp_path / name / "0.png", "red")
    photos.write_photo(tmp_path / "loose.png", "red")
    images = ImageFolder.open(tmp_path)
    ids = ("n01440764", "n01443537", "n01847000", "loon")
    named = images.by_label(("tench", "goldfish", "drake", "loon"), ids)
    assert named.class_names == ("", "goldfish", "loon", "n09999999", "tench")
    assert [file.path for file in named.files] == [file.path for file in images.files]
    assert images.by_label(("tench", "goldfish"), ()) == images


def test_a_label_goes_before_a_class_id(tmp_path: Path) -> None:
    photos.write_photo(tmp_path / "a" / "0.png", "red")
    assert ImageFolder.open(tmp_path).by_label(("a", "b"), ("x", "a")).class_names == ("a",)


def test_a_far_word_is_not_suggested(tmp_path: Path) -> None:
    photos.write_photo(tmp_path / "dandelion" / "0.png", "red")
    with pytest.raises(CalibrationError) as caught:
        ImageFolder.open(tmp_path).class_to_idx(("lion", "sea lion"))
    assert "lion" not in caught.value.fix
    assert "'dandelion'" in caught.value.problem
    assert "'lion', 'sea lion'" in caught.value.expected


def test_a_folder_that_is_no_label(colours: Path) -> None:
    photos.write_photo(colours / "violet" / "0.png", "red")
    images = ImageFolder.open(colours)
    labels = ("red", "green", "blue", "violets")
    assert not images.is_labelled(labels)
    with pytest.raises(
        CalibrationError, match=r"1 of the 4 folders in .* is no label of the model: 'violet'"
    ) as caught:
        images.class_to_idx(labels)
    assert caught.value.fix == "'violet' is close to 'violets'"
    assert "'red', 'green', 'blue'" in caught.value.expected


def test_many_folders_that_are_no_labels_are_counted(tmp_path: Path) -> None:
    for index in range(12):
        photos.write_photo(tmp_path / f"n{index:08}" / "0.png", "red")
    with pytest.raises(CalibrationError, match=r"12 of the 12 folders .* and 4 more") as caught:
        ImageFolder.open(tmp_path).class_to_idx(["tench", "goldfish"])
    assert caught.value.fix


def test_images_beside_the_folders_have_no_class(colours: Path) -> None:
    photos.write_photo(colours / "loose.png", "red")
    images = ImageFolder.open(colours)
    assert not images.is_labelled(photos.COLOURS)
    with pytest.raises(CalibrationError, match=r"1 image of .* in no class's folder: 'loose.png'"):
        images.class_to_idx(photos.COLOURS)


def test_frames_are_those_of_the_runtime(colours: Path) -> None:
    loaded = load(colours)
    assert loaded.frames.shape == (9, 16, 16, 3)
    assert loaded.frames.dtype == np.uint8
    preprocess = Preprocessor(SMALL)
    for file, frame in zip(loaded.files, loaded.frames, strict=True):
        assert np.array_equal(frame, preprocess(read_image(file.path), order="RGB"))
    assert loaded.files == ImageFolder.open(colours).files
    assert len(loaded) == 9
    assert loaded.skipped == ()


def test_frames_are_in_the_networks_channel_order(colours: Path) -> None:
    size = (16, 16)
    rgb, bgr = (
        ImageFolder.open(colours).load(Preprocessing(size, size, channel_order=order)).frames
        for order in ("RGB", "BGR")
    )
    assert np.array_equal(rgb, bgr[..., ::-1])
    assert not np.array_equal(rgb, bgr)


def test_images_are_decoded_in_order_and_whole(tmp_path: Path) -> None:
    pixels = {f"{index}.png": photos.write_photo(tmp_path / f"{index}.png", "red", seed=index) for index in range(40)}
    images = ImageFolder.open(tmp_path)
    pictures = list(images.decode())
    assert [picture.file for picture in pictures] == list(images.files)
    for picture in pictures:
        assert picture.pixels is not None
        assert np.array_equal(picture.pixels, pixels[picture.file.name])


def test_large_images_are_decoded_in_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen of 100 megapixels would be ahead otherwise."""
    for index in range(6):
        photos.write_photo(tmp_path / f"{index}.png", "red", seed=index)
    whole = [picture.pixels for picture in ImageFolder.open(tmp_path).decode()]
    decoded_by: list[str] = []
    decode = image_folder._decode

    def noted(file: ImageFile, most: int) -> object:
        picture = decode(file, most)
        if picture is not None:
            decoded_by.append(threading.current_thread().name)
        return picture

    monkeypatch.setattr(image_folder, "_decode", noted)
    monkeypatch.setattr(image_folder, "PREFETCH_PIXELS", 100)
    pictures = list(ImageFolder.open(tmp_path).decode())
    assert decoded_by == [threading.current_thread().name] * 6
    for picture, pixels in zip(pictures, whole, strict=True):
        assert picture.pixels is not None
        assert np.array_equal(picture.pixels, pixels)


def test_the_hash_is_of_the_bytes_that_were_decoded(tmp_path: Path) -> None:
    photos.write_photo(tmp_path / "0.png", "red")
    (picture,) = ImageFolder.open(tmp_path).decode()
    assert picture.sha256 == hashlib.sha256((tmp_path / "0.png").read_bytes()).hexdigest()


@pytest.mark.timeout(30)
def test_what_is_put_in_the_place_of_an_image_is_skipped(colours: Path) -> None:
    images = ImageFolder.open(colours)
    for name in ("red/0.png", "red/1.png"):
        (colours / name).unlink()
    os.mkfifo(colours / "red/0.png")
    (colours / "red/1.png").symlink_to("/dev/zero")
    skipped = {picture.file.name for picture in images.decode() if picture.pixels is None}
    assert skipped == {"red/0.png", "red/1.png"}


def test_images_that_do_not_fit_the_memory(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", full)
    with pytest.raises(CalibrationError, match="9 images of 16x16 pixels do not fit into memory"):
        load(colours)


def test_leaving_the_decoder_early_ends_its_threads(tmp_path: Path) -> None:
    photos.write_photos(tmp_path, each=20)
    pictures = ImageFolder.open(tmp_path).decode()
    next(pictures)
    pictures.close()  # type: ignore[attr-defined]
    readers = [thread for thread in threading.enumerate() if thread.name.startswith("vitedge-images")]
    for thread in readers:
        thread.join(10)
    assert not any(thread.is_alive() for thread in readers)


def test_images_that_cannot_be_read_are_skipped_and_named(colours: Path) -> None:
    whole = (colours / "red" / "0.png").read_bytes()
    (colours / "red" / "0.png").write_bytes(whole[: len(whole) // 2])
    (colours / "blue" / "1.png").write_bytes(b"")
    steps = Steps()
    loaded = ImageFolder.open(colours).load(SMALL, steps)
    assert sorted(loaded.skipped) == ["blue/1.png", "red/0.png"]
    assert len(loaded) == len(loaded.frames) == 7
    assert not {file.name for file in loaded.files} & set(loaded.skipped)
    (warning,) = steps.texts
    assert warning.startswith("warning: 2 images cannot be read and are skipped: ")
    assert "'red/0.png'" in warning


def test_no_image_can_be_read(tmp_path: Path) -> None:
    for index in range(10):
        (tmp_path / f"{index}.jpg").write_bytes(b"not an image")
    with pytest.raises(CalibrationError, match=r"none of the 10 images can be read: .* and 2 more"):
        load(tmp_path)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.png").touch()
    with pytest.raises(CalibrationError, match="holds no images") as caught:
        ImageFolder.open(tmp_path)
    assert ".png" in caught.value.expected


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(CalibrationError, match="there is no folder") as caught:
        ImageFolder.open(tmp_path / "missing")
    assert caught.value.fix == ""
    with pytest.raises(CalibrationError) as caught:
        ImageFolder.open(tmp_path / "photo")
    assert caught.value.fix == "did you mean photos?"
    photos.write_photo(tmp_path / "0.png", "red")
    with pytest.raises(CalibrationError, match=r"0\.png is not a folder"):
        ImageFolder.open(tmp_path / "0.png")


def test_a_folder_that_cannot_be_listed(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "green":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CalibrationError, match="green cannot be listed: Permission denied") as caught:
        ImageFolder.open(colours)
    assert caught.value.fix


def test_the_hash_depends_on_names_contents_and_order_alone(colours: Path, tmp_path: Path) -> None:
    first = load(colours).sha256
    assert len(first) == 64
    copy = tmp_path / "copy"
    shutil.copytree(colours, copy)
    assert load(copy).sha256 == first
    images = ImageFolder.open(copy)
    assert ImageFolder(copy, images.files[::-1]).load(SMALL).sha256 != first
    assert ImageFolder.open(copy, limit=8).load(SMALL).sha256 != first
    photos.write_photo(copy / "red" / "0.png", "red", seed=99)
    assert load(copy).sha256 != first
    shutil.copy(colours / "red" / "0.png", copy / "red" / "0.png")
    assert load(copy).sha256 == first
    (copy / "red" / "0.png").rename(copy / "red" / "9.png")
    assert load(copy).sha256 != first


def test_the_hash_is_of_what_was_used(colours: Path) -> None:
    first = load(colours).sha256
    (colours / "red" / "broken.png").write_bytes(b"no image")
    assert load(colours).sha256 == first


def test_a_single_image_gives_a_warning(tmp_path: Path) -> None:
    photos.write_photo(tmp_path / "0.png", "red")
    steps = Steps()
    assert len(ImageFolder.open(tmp_path).load(SMALL, steps)) == 1
    assert steps.texts == ["warning: a single image; 300 give dependable ranges"]


def test_the_same_image_over_and_over_gives_a_warning(tmp_path: Path) -> None:
    for index in range(4):
        photos.write_photo(tmp_path / f"{index}.png", "red", seed=max(index, 2))
    steps = Steps()
    ImageFolder.open(tmp_path).load(SMALL, steps)
    assert steps.texts == ["warning: 3 of 4 images are copies of one file"]


def test_different_images_give_no_warning(colours: Path) -> None:
    steps = Steps()
    ImageFolder.open(colours).load(SMALL, steps)
    assert steps.texts == []


def test_grey_images_and_those_with_transparency_are_read(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (40, 30)).save(tmp_path / f"{mode}.png")
    assert len(load(tmp_path)) == 3


def test_a_list_names_images_with_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    name = "x\udcff%d:.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "list.txt").write_bytes(os.fsencode(f"{name}\n"))
    images = ImageFolder.from_list(tmp_path / "list.txt")
    assert [file.name for file in images.files] == [name]
    assert len(images.load(SMALL)) == 1


def test_a_list_names_images_relative_to_its_own_folder(colours: Path, tmp_path: Path) -> None:
    absolute = colours / "blue" / "2.png"
    lines = ["colours/red/0.png", "", "  colours/green/1.png  ", str(absolute), "loose.png"]
    photos.write_photo(tmp_path / "loose.png", "red")
    listing = tmp_path / "list.txt"
    listing.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    images = ImageFolder.from_list(listing)
    assert {file.name: file.class_name for file in images.files} == {
        "colours/red/0.png": "red",
        "colours/green/1.png": "green",
        absolute.as_posix(): "blue",
        "loose.png": "",
    }
    assert images.path == listing
    assert images.subset(images.files[:1]).path == listing
    loaded = images.load(SMALL)
    assert len(loaded) == 4
    for file, frame in zip(loaded.files, loaded.frames, strict=True):
        assert np.array_equal(frame, Preprocessor(SMALL)(read_image(tmp_path / file.name), order="RGB"))


def test_a_list_that_repeats_an_image_has_it_once(colours: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("colours/red/0.png\ncolours/green/1.png\n./colours/red/0.png\n" * 40, encoding="utf-8")
    assert sorted(file.name for file in ImageFolder.from_list(listing).files) == [
        "colours/green/1.png",
        "colours/red/0.png",
    ]


def test_a_list_is_used_as_evenly_as_a_folder(colours: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(str(path) for path in sorted(colours.rglob("*.png"))), encoding="utf-8")
    part = ImageFolder.from_list(listing, limit=6)
    assert Counter(file.class_name for file in part.files) == {"red": 2, "green": 2, "blue": 2}
    assert part.files == ImageFolder.from_list(listing).files[:6]
    with pytest.raises(UsageError, match="0 images were asked for"):
        ImageFolder.from_list(listing, limit=0)


def test_a_file_that_a_list_names_and_that_is_not_there_is_told_with_its_line(colours: Path) -> None:
    listing = colours / "list.txt"
    listing.write_text("red/0.png\n\nred/7.png\n", encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"line 3 of .*list\.txt: there is no file .*7\.png") as caught:
        ImageFolder.from_list(listing)
    assert "relative to" in caught.value.expected
    listing.write_text("red\n", encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"line 1 of .*: there is no file .*red"):
        ImageFolder.from_list(listing)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("entry", ["fifo.png", "/dev/zero", "/dev/null", "a" * 5000, "a\0b", ".", "red/../fifo.png"])
def test_what_is_no_regular_file_is_told_with_its_line(colours: Path, entry: str) -> None:
    os.mkfifo(colours / "fifo.png")
    listing = colours / "list.txt"
    listing.write_text(f"red/0.png\n{entry}\n", encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"line 2 of .*list\.txt: there is no file"):
        ImageFolder.from_list(listing)


def test_only_line_breaks_separate_the_entries_of_a_list(tmp_path: Path) -> None:
    names = ["a\x0bb.png", "a\x1cb.png", "a\u2028b.png", "a\x85b.png"]
    for name in names:
        photos.write_photo(tmp_path / name, "red")
    (tmp_path / "list.txt").write_bytes("\r".join(names[:2]).encode() + b"\r\n" + "\n".join(names[2:]).encode())
    assert {file.name for file in ImageFolder.from_list(tmp_path / "list.txt").files} == set(names)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["fifo", "zero", "sparse", "lines"])
def test_a_list_beyond_its_bounds(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = tmp_path / "list.txt"
    if kind == "fifo":
        os.mkfifo(listing)
    elif kind == "zero":
        listing.symlink_to("/dev/zero")
    elif kind == "sparse":
        listing.touch()
        os.truncate(listing, 100 << 30)
    else:
        monkeypatch.setattr(image_folder, "LISTED_IMAGES", 10)
        listing.write_text("a.png\n" * 11)
    with pytest.raises(CalibrationError, match=r"list\.txt cannot be read: it (is|has)"):
        ImageFolder.from_list(listing)


@pytest.mark.timeout(30)
def test_links_to_folders_are_not_followed(colours: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "red").symlink_to(colours / "red")
    with pytest.raises(CalibrationError, match="holds no images") as caught:
        ImageFolder.open(tmp_path / "linked")
    assert "links to folders" in caught.value.fix


@pytest.mark.timeout(30)
def test_many_classes_and_labels_are_compared_quickly(tmp_path: Path) -> None:
    files = tuple(ImageFile(tmp_path, f"{index}/0.png", f"folder {index}") for index in range(5000))
    images = ImageFolder(tmp_path, files)
    assert images.class_to_idx([f"Folder_{index}" for index in range(5000)])["folder 4321"] == 4321
    with pytest.raises(CalibrationError, match="5000 of the 5000 folders"):
        images.class_to_idx([f"label number {index}" for index in range(5000)])


@pytest.mark.parametrize(("content", "problem"), [(b"\n \n", "names no images"), (b"\xff\xfe\0", "cannot be read")])
def test_a_list_without_images(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(CalibrationError, match=problem):
        ImageFolder.from_list(tmp_path / "list.txt")
