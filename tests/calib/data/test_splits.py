"""Images held out of calibration: how many, which, and that calibration has none of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from vitedge.calib.data.dataset import ImageFile
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.data.splits import LEAST_TO_SPLIT, MOST_HELD_OUT, first_of, hold_out, sample, split_selection
from vitedge.calib.data.video import VideoFrames
from vitedge.errors import CalibrationError

PLACE = Path("images")


def folder(classes: Sequence[int]) -> ImageFolder:
    """As many images of each class as the numbers say, in turns."""
    files = [
        (number, ImageFile(PLACE / f"{name}-{number}", f"{name}-{number}", f"class {name}"))
        for name, count in enumerate(classes)
        for number in range(count)
    ]
    return ImageFolder(PLACE, tuple(file for _, file in sorted(files, key=lambda each: each[0])))


def video(frames: int) -> VideoFrames:
    return VideoFrames(PLACE, tuple(ImageFile(PLACE, f"frame {number}", "", number) for number in range(frames)))


@pytest.mark.parametrize(
    ("images", "calibration", "held_out"),
    [(64, 56, 8), (100, 88, 12), (300, 263, 37), (320, 280, 40), (340, 298, 42), (360, 300, 60), (5000, 300, 64)],
)
def test_an_eighth_is_held_out_and_more_where_calibration_does_not_need_them(
    images: int, calibration: int, held_out: int
) -> None:
    for dataset in (folder([images]), video(images)):
        used, held = hold_out(dataset, 300)
        assert held is not None
        assert (len(used), len(held)) == (calibration, held_out)
        assert len(held) <= MOST_HELD_OUT
        assert not set(used.files) & set(held.files)


@pytest.mark.parametrize("images", [1, 8, LEAST_TO_SPLIT - 1])
def test_few_images_all_serve_calibration(images: int) -> None:
    used, held = hold_out(folder([images]), 300)
    assert (len(used), held) == (images, None)


def test_both_parts_reach_over_the_whole_length_of_a_video() -> None:
    used, held = hold_out(video(2000), 300)
    assert held is not None
    for part in (used, held):
        numbers = [file.frame for file in part.files if file.frame is not None]
        assert numbers == sorted(numbers)
        assert numbers[0] < 40
        assert numbers[-1] > 1960
        longest = max(after - before for before, after in itertools.pairwise(numbers))
        assert longest < 2 * 2000 / len(numbers)


@pytest.mark.parametrize("classes", [(200, 40, 40, 40), (100,) * 5, (1,) * 320])
def test_each_class_keeps_its_share(classes: tuple[int, ...]) -> None:
    images = folder(classes)
    _, held = hold_out(images, 300)
    assert held is not None
    whole, part = (Counter(file.class_name for file in each.files) for each in (images, held))
    for name, count in whole.items():
        assert part[name] == pytest.approx(count * len(held) / len(images), abs=1.01)


def test_samples_and_first_images() -> None:
    assert [file.frame for file in first_of(video(9), 3).files] == [0, 4, 8]
    assert [file.frame for file in sample(video(9), 1).files] == [0]
    assert len(sample(video(9), 20)) == 9
    images = folder([3, 3])
    assert first_of(images, 4).files == images.files[:4]
    assert {file.class_name for file in sample(images, 2).files} == {"class 0", "class 1"}


@pytest.mark.parametrize(("most", "calibration", "selection"), [(300, 150, 50), (100, 100, 100)])
def test_a_quarter_or_more_chooses_and_no_image_is_left_over(most: int, calibration: int, selection: int) -> None:
    images = folder([50] * 4)
    used, selected = split_selection(images, most)
    assert (len(used), len(selected)) == (calibration, selection)
    assert {*used.files, *selected.files} == set(images.files)
    by_class = Counter(file.class_name for file in selected.files)
    assert [by_class[f"class {name}"] for name in range(4)] == pytest.approx([selection / 4] * 4, abs=0.5)


def test_too_few_images_to_choose_by() -> None:
    with pytest.raises(CalibrationError, match="196 images are too few"):
        split_selection(folder([196]), 300)


def test_both_parts_that_choose_reach_over_the_whole_length_of_a_video() -> None:
    numbers = [[file.frame or 0 for file in part.files] for part in split_selection(video(1000), 300)]
    assert sorted(numbers[0] + numbers[1]) == list(range(1000))
    for part in numbers:
        assert max(after - before for before, after in itertools.pairwise([-1, *part, 1000])) <= 4
