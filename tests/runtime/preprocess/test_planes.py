"""Planes that fit each other, and their colours against the definition and against swscale."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from planes import unclipped_bgr

from vitedge.errors import FrameSourceError
from vitedge.runtime.preprocess import planes as module
from vitedge.runtime.preprocess.planes import MATRICES, Matrix, YuvPlanes
from vitedge.safety.limits import IMAGE_SIDE

Image = NDArray[np.uint8]

SUBSAMPLINGS = {"yuv420p": (2, 2), "yuv422p": (1, 2), "yuv444p": (1, 1), "yuv440p": (2, 1), "yuv411p": (1, 4)}
SWSCALE = {"bt601": 5, "bt709": 1, "bt2020": 9}
"""swscale's numbers of the matrices."""


def noise(height: int, width: int, steps: tuple[int, int] = (2, 2), seed: int = 0) -> list[Image]:
    random = np.random.default_rng(seed)
    chroma = (-(-height // steps[0]), -(-width // steps[1]))
    return [random.integers(0, 256, shape, dtype=np.uint8) for shape in ((height, width), chroma, chroma)]


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    steps=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])),
    matrix=st.sampled_from(MATRICES),
    full_range=st.booleans(),
    rounds_down=st.booleans(),
)
def test_colours_are_the_matrix_s(
    height: int, width: int, steps: tuple[int, int], matrix: Matrix, full_range: bool, rounds_down: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROUNDS_DOWN", rounds_down)
        planes = YuvPlanes(*noise(height, width, steps), matrix, full_range)
        whole = planes.chroma_steps[1] == 1 or (height % 2 == 1 and width % 2 == 1)
        expected = unclipped_bgr(planes, rounds_down=rounds_down and not whole)
        np.testing.assert_array_equal(planes.bgr(), np.clip(np.floor(expected + 0.5), 0, 255))


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="swscale rounds otherwise on this machine")
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p"])
@pytest.mark.parametrize("size", [(64, 96), (130, 70), (2, 2)])
def test_colours_are_swscale_s(size: tuple[int, int], pixel_format: str, matrix: Matrix, full_range: bool) -> None:
    av = pytest.importorskip("av")
    planes = YuvPlanes(*noise(*size, SUBSAMPLINGS[pixel_format]), matrix, full_range)
    frame = av.VideoFrame(size[1], size[0], pixel_format)
    for plane, values in zip(frame.planes, (planes.y, planes.u, planes.v), strict=True):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : plane.width] = values
        plane.update(padded)
    bgr = frame.reformat(format="bgr24", src_colorspace=SWSCALE[matrix], src_color_range=2 if full_range else 1)
    np.testing.assert_array_equal(planes.bgr(), bgr.to_ndarray())


@pytest.mark.parametrize("steps", SUBSAMPLINGS.values())
def test_views_of_any_strides_have_the_same_colours(steps: tuple[int, int]) -> None:
    y, u, v = noise(24, 16, steps)
    expected = YuvPlanes(y, u, v).bgr()
    pairs = np.stack([u, v], axis=-1)
    luma = np.zeros((24, 64), np.uint8)[:, 3:19]
    luma[...] = y
    for plane in (luma, pairs):
        plane.flags.writeable = False
    np.testing.assert_array_equal(YuvPlanes(luma, pairs[..., 0], pairs[..., 1]).bgr(), expected)
    upside_down = YuvPlanes(*(plane[::-1].copy()[::-1] for plane in (y, u, v)))
    np.testing.assert_array_equal(upside_down.bgr(), expected)


Y, C = np.zeros((8, 8), np.uint8), np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("planes", "problem"),
    [
        ((Y, C, np.zeros((4, 3), np.uint8)), "do not fit"),
        ((Y, np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8)), "do not fit"),
        ((Y, np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8)), "do not fit"),
        ((Y, np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.uint8)), "do not fit"),
        ((Y[..., None], C, C), "luma"),
        ((Y.astype(np.uint16), C, C), "luma is a uint16"),
        ((Y, C.astype(np.float32), C), "blue difference is a float32"),
        ((Y, C, C.astype(np.int8)), "red difference is a int8"),
        ((Y[:0], C, C), "luma"),
        ((Y, C, None), "red difference is NoneType"),
        ((Y, [[128]], C), "blue difference is list"),
        ((np.broadcast_to(np.uint8(0), (1, IMAGE_SIDE + 1)), C, C), "luma"),
        ((Y, C, C, "bt470"), "matrix is 'bt470'"),
        ((Y, C, C, ["bt601"]), "matrix"),
    ],
)
def test_planes_that_are_no_picture_are_refused(planes: tuple[Any, ...], problem: str) -> None:
    with pytest.raises(FrameSourceError, match=problem) as caught:
        YuvPlanes(*planes)
    assert caught.value.expected


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (7, 1), (3, 5), (5, 3)])
@pytest.mark.parametrize("steps", SUBSAMPLINGS.values())
def test_the_smallest_pictures_have_their_size(height: int, width: int, steps: tuple[int, int]) -> None:
    assert YuvPlanes(*noise(height, width, steps)).bgr().shape == (height, width, 3)
