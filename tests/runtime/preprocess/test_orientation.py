"""Images are turned as Pillow turns them, and only for models that ask for it."""

from __future__ import annotations

import numpy as np
import pytest

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.runtime.preprocess.orientation import (
    is_turned,
    orientation_notice,
    orientation_of_rotation,
    oriented,
    turned,
)

pillow = pytest.importorskip("PIL.Image")
ops = pytest.importorskip("PIL.ImageOps")

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
TURNS = Preprocessing((8, 8), (8, 8), exif_orientation=True)
STORED = Preprocessing((8, 8), (8, 8))


@pytest.mark.parametrize("orientation", range(10))
def test_an_image_is_turned_as_by_pillow(orientation: int) -> None:
    image = pillow.fromarray(PIXELS)
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ops.exif_transpose(image))
    got = turned(PIXELS, orientation)
    np.testing.assert_array_equal(got, expected)
    assert got.flags.c_contiguous
    assert is_turned(orientation) == (orientation in range(2, 9))
    np.testing.assert_array_equal(oriented(PIXELS, orientation, TURNS), expected)
    assert oriented(PIXELS, orientation, STORED) is PIXELS


@pytest.mark.parametrize(("degrees", "quarters"), [(0, 0), (90, 3), (180, 2), (270, 1), (-90, 1), (45, 0)])
def test_the_rotation_of_a_video_is_clockwise(degrees: int, quarters: int) -> None:
    got = turned(PIXELS, orientation_of_rotation(degrees))
    np.testing.assert_array_equal(got, np.rot90(PIXELS, quarters))


def test_the_notice_says_what_was_done() -> None:
    turned_one = "photos: 1 image states an orientation, and was turned by it, as Transformers does"
    stored_three = "photos: 3 images state an orientation, and were read as stored, as timm does"
    assert orientation_notice(1, "photos", TURNS) == turned_one
    assert orientation_notice(3, "photos", STORED) == stored_three
