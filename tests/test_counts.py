"""Numbers with nouns."""

from __future__ import annotations

import doctest

import pytest

from vitedge import counts
from vitedge.counts import counted, dropped


def test_the_examples() -> None:
    assert doctest.testmod(counts).failed == 0


@pytest.mark.parametrize(("count", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1000, "1000 images")])
def test_one_is_singular(count: int, text: str) -> None:
    assert counted(count, "image") == text


def test_verbs_agree_too() -> None:
    assert counted(1, "class is", "classes are") == "1 class is"
    assert counted(3, "class is", "classes are") == "3 classes are"


@pytest.mark.parametrize(
    ("points", "text"), [(0.27, "0.27 points lower"), (-0.27, "0.27 points higher"), (-0.004, "unchanged")]
)
def test_a_gain_is_no_negative_drop(points: float, text: str) -> None:
    assert dropped(points) == text
