"""Pillow images of every mode become RGB as in timm and Transformers, and are never clipped in silence."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.images import pillow as pillow_images
from vitedge.runtime.sources.images.pillow import COMMON_SUFFIXES, image_suffixes, rgb_pixels
from vitedge.runtime.sources.images.reading import read_image

pillow = pytest.importorskip("PIL.Image")

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]


def image_of(mode: str) -> Any:
    image = pillow.fromarray(COLOURS)
    if mode == "LAB":
        return pillow.merge("LAB", image.split())
    if mode.startswith("I;16"):
        return pillow.fromarray(GREY.astype(">u2" if mode == "I;16B" else "<u2"))
    return image.convert(mode)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B"]
)
def test_every_mode_is_converted_as_by_pillow(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow_images, "_BAND_PIXELS", 100)
    image = image_of(mode)
    assert image.mode == mode
    np.testing.assert_array_equal(rgb_pixels(image), np.asarray(image.convert("RGB")))


LAST = np.arange(GREY.size).reshape(GREY.shape) == GREY.size - 1
WIDE = {
    "16 bits": GREY.astype(np.uint16) * 257,
    "16 bits, most significant byte first": (GREY.astype(np.uint16) * 257).astype(">u2"),
    "12 bits in 16": GREY.astype(np.uint16) * 16,
    "32 bits": GREY.astype(np.int32) * 65536,
    "negative numbers": GREY.astype(np.int32) - 128,
    "floats from 0 to 1": GREY.astype(np.float32) / 255,
    "floats from -1 to 1": GREY.astype(np.float32) / 127.5 - 1,
    "floats from 0 to 65535": GREY.astype(np.float32) * 257,
    "a last pixel that is no number": np.where(LAST, np.nan, GREY).astype(np.float32),
    "an infinite last pixel": np.where(LAST, np.inf, GREY).astype(np.float32),
}


@pytest.mark.parametrize("name", WIDE)
def test_values_beyond_8_bits_are_refused_and_not_clipped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pillow_images, "_BAND_PIXELS", 100)
    image = pillow.fromarray(WIDE[name])
    with pytest.raises(FrameSourceError, match=f"the mode {image.mode} with values from") as caught:
        rgb_pixels(image)
    assert "8 bits" in caught.value.fix
    image.save(tmp_path / "a.tif")
    with pytest.raises(FrameSourceError, match=r"a\.tif cannot be read: the image has the mode"):
        read_image(tmp_path / "a.tif")


def test_the_advice_scales_to_8_bits() -> None:
    image = pillow.fromarray(WIDE["16 bits"])
    with pytest.raises(FrameSourceError) as caught:
        rgb_pixels(image)
    code = caught.value.fix.rpartition(": ")[2].removesuffix(", for example")
    scaled = eval(code, {"Image": pillow, "np": np, "image": image})  # our own text
    np.testing.assert_array_equal(np.asarray(scaled), GREY)


def test_black_floats_are_black() -> None:
    assert not rgb_pixels(pillow.fromarray(np.zeros((4, 4), np.float32))).any()


def test_a_plug_in_of_pillow_is_registered_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``.heic`` by ``pillow_heif``, of which a stand-in here reads PNG."""
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import Image, PngImagePlugin\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', PngImagePlugin.PngImageFile, lambda start: start[1:4] == b'PNG')\n"
        "    Image.register_extensions('HEIF', ['.heic', '.heif'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("OPEN", "EXTENSION"):
        monkeypatch.setattr(pillow, name, dict(getattr(pillow, name)))
    monkeypatch.setattr(pillow, "ID", list(pillow.ID))
    pillow_images._register_formats.cache_clear()
    try:
        pillow.fromarray(COLOURS).save(tmp_path / "a.heic", "PNG")
        assert {".heic", ".heif"} <= image_suffixes()
        np.testing.assert_array_equal(read_image(tmp_path / "a.heic"), COLOURS)
    finally:
        pillow_images._register_formats.cache_clear()
        sys.modules.pop("pillow_heif", None)


def test_without_pillow_common_suffixes_are_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert image_suffixes() == COMMON_SUFFIXES


def test_an_orientation_that_is_no_number_is_none() -> None:
    image = types.SimpleNamespace(getexif=lambda: {0x0112: (6, 6)})
    assert pillow_images.exif_orientation(image) == 1
