"""Images as a caller gives them, read as the images of a folder are."""

from __future__ import annotations

import io
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.images import reading
from vitedge.runtime.sources.images.files import ImageFiles
from vitedge.runtime.sources.images.given import stored_image
from vitedge.runtime.sources.images.pillow import image_suffixes, is_pillow_image, open_formats

pillow = pytest.importorskip("PIL.Image")

PIXELS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image: Any, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def turned_exif() -> Any:
    exif = pillow.Exif()
    exif[0x0112] = 6
    return exif


FILES = {
    "a.jpg": encoded(pillow.fromarray(PIXELS), "JPEG", exif=turned_exif()),
    "a.png": encoded(pillow.fromarray(PIXELS), "PNG"),
    "a.webp": encoded(pillow.fromarray(PIXELS), "WEBP"),
    "grey.png": encoded(pillow.fromarray(PIXELS[..., 0]), "PNG"),
    "palette.gif": encoded(pillow.fromarray(PIXELS).convert("P"), "GIF"),
    "cmyk.jpg": encoded(pillow.fromarray(PIXELS).convert("CMYK"), "JPEG"),
    "clear.png": encoded(pillow.fromarray(PIXELS).convert("RGBA"), "PNG"),
    "png.jpg": encoded(pillow.fromarray(PIXELS), "PNG"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_and_its_bytes_are_read_as_in_a_folder(name: str, tmp_path: Path) -> None:
    path, content = tmp_path / name, FILES[name]
    path.write_bytes(content)
    (frame,) = ImageFiles((path,), "one")
    for image in (path, str(path), content, bytearray(content), memoryview(content), memoryview(b"." + content)[1:]):
        stored = stored_image(image)
        assert stored is not None
        np.testing.assert_array_equal(stored.pixels, frame.image)
        assert stored.orientation == frame.orientation
    assert (frame.orientation == 6) == (name == "a.jpg")


def test_pixels_and_other_things_are_left_to_the_preprocessor() -> None:
    for value in (PIXELS, None, 7, [1, 2], object()):
        assert stored_image(value) is None  # type: ignore[arg-type]


WIDE = encoded(pillow.fromarray(np.full((4, 4), 60_000, np.uint16)), "PNG")


@pytest.mark.parametrize(
    ("content", "problem", "fix"),
    [
        (b"", "does not begin like an image", "np.frombuffer"),
        (PIXELS.tobytes(), "an image of 162 bytes cannot be read: it does not begin like an image", "np.frombuffer"),
        (memoryview(PIXELS), "an image of 162 bytes cannot be read: it does not begin like an image", "np.frombuffer"),
        (FILES["a.png"][:60], "cannot be read", "replace"),
        (WIDE, "values from 60000 to 60000", "8 bits"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "does not begin like an image", "np.frombuffer"),
    ],
)
def test_bytes_that_are_no_image_are_refused(content: Any, problem: str, fix: str) -> None:
    with pytest.raises(FrameSourceError, match=problem) as caught:
        stored_image(content)
    assert fix in caught.value.fix
    assert caught.value.expected


def test_bytes_beyond_a_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    header = struct.pack(">I4sIIBBBBB", 13, b"IHDR", 40_000, 40_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + header + b"\0\0\0\0" + FILES["a.png"][33:]
    with pytest.raises(FrameSourceError, match="cannot be read"):
        stored_image(huge)
    monkeypatch.setattr(reading, "IMAGE_BYTES", 100)
    with pytest.raises(FrameSourceError, match="reads at most 100"):
        stored_image(FILES["a.png"])


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/a.jpg",
        "https://user:hunter2@example.org/a.jpg",
        "rtsp://admin:hunter2@camera/1",
        "data:image/jpeg;base64,/9j/4AAQ",
        " HTTPS://example.org/a.jpg",
        "s3://bucket/a.jpg",
        "test://?fps=30",
    ],
)
def test_an_address_is_refused_without_its_secrets(address: str) -> None:
    with pytest.raises(FrameSourceError, match="is an address") as caught:
        stored_image(address)
    assert "hunter2" not in str(caught.value)
    assert "classifier.stream(address)" in caught.value.fix


def test_what_is_no_image_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(FrameSourceError, match=r"clip\.mp4 cannot be read") as caught:
        stored_image(tmp_path / "clip.mp4")
    assert caught.value.fix == "for the frames of a video: classifier.stream(path)"
    with pytest.raises(FrameSourceError, match="is a folder") as caught:
        stored_image(tmp_path)
    assert caught.value.fix == "classifier.stream(folder)"
    for path in (tmp_path / "gone.jpg", "", "a\0b.jpg", "x" * 5000, tmp_path / "clip.mp4" / "a.jpg"):
        with pytest.raises(FrameSourceError) as caught:
            stored_image(path)
        assert caught.value.expected


def test_a_pillow_image_is_told_by_its_class() -> None:
    image = pillow.fromarray(PIXELS)
    assert is_pillow_image(image)
    assert is_pillow_image(pillow.open(io.BytesIO(FILES["a.png"])))
    assert not any(map(is_pillow_image, (PIXELS, None, "a.jpg", pillow, pillow.Image)))
    stored = stored_image(image)
    assert stored is not None
    np.testing.assert_array_equal(stored.pixels, PIXELS)


def test_formats_may_be_registered_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in that the application imports in another thread registers its format while ours are listed."""
    monkeypatch.setattr(pillow, "OPEN", dict(pillow.OPEN))
    monkeypatch.setattr(pillow, "EXTENSION", dict(pillow.EXTENSION))
    stop = threading.Event()

    def register() -> None:
        for number in range(20_000):
            pillow.OPEN[f"X{number}"] = (None, None)
            pillow.EXTENSION[f".x{number}"] = f"X{number}"
            if stop.is_set():
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=register)
    thread.start()
    try:
        for _ in range(100):
            assert ".png" in image_suffixes()
            assert "PNG" in open_formats("a.png")
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
