"""Images are turned as Pillow turns them, and only for models that ask for it."""

from __future__ import annotations

import numpy as np
import pytest

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.runtime.preprocess.orientation import (
    is_turned,
    orientation_notice,
    orientation_of_matrix,
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


def shown_by(matrix: tuple[int, ...]) -> np.ndarray:
    """``PIXELS`` with each pixel where a display matrix puts it: x' = a x + c y, y' = b x + d y."""
    a, b, _, c, d = matrix[:5]
    rows, columns = np.indices(PIXELS.shape[:2])
    x, y = a * columns + c * rows, b * columns + d * rows
    x, y = x - x.min(), y - y.min()
    shown = np.zeros((y.max() + 1, x.max() + 1, 3), dtype=np.uint8)
    shown[y, x] = PIXELS
    return shown


@pytest.mark.parametrize("scale", [1, 1 << 16])
@pytest.mark.parametrize(
    "turn",
    [
        (1, 0, 0, 1),
        (-1, 0, 0, 1),
        (-1, 0, 0, -1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, 1, -1, 0),
        (0, -1, -1, 0),
        (0, -1, 1, 0),
    ],
)
def test_a_display_matrix_turns_and_mirrors(turn: tuple[int, int, int, int], scale: int) -> None:
    a, b, c, d = (scale * each for each in turn)
    got = turned(PIXELS, orientation_of_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30)))
    np.testing.assert_array_equal(got, shown_by((turn[0], turn[1], 0, turn[2], turn[3])))


@pytest.mark.parametrize("turn", [(46341, 46341, -46341, 46341), (0, 0, 0, 0)])
def test_another_angle_turns_nothing(turn: tuple[int, int, int, int]) -> None:
    a, b, c, d = turn
    assert orientation_of_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30)) == 1


def test_the_notice_says_what_was_done() -> None:
    turned_one = "photos: 1 image states an orientation, and was turned by it, as Transformers does"
    stored_three = "photos: 3 images state an orientation, and were read as stored, as timm does"
    assert orientation_notice(1, "photos", TURNS) == turned_one
    assert orientation_notice(3, "photos", STORED) == stored_three
