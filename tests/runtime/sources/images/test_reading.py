"""Image files: the same pixels as timm's data sets give, and one error for each that is damaged or hostile."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitedge.errors import FrameSourceError, MissingExtraError
from vitedge.runtime.sources.images.pillow import COMMON_SUFFIXES
from vitedge.runtime.sources.images.reading import find_images, list_images, open_image, read_image
from vitedge.safety.limits import IMAGE_HEADER_BYTES, IMAGE_PARTS, IMAGE_PIXELS, IMAGE_READS, IMAGE_SCANS

pillow = pytest.importorskip("PIL.Image")

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    pillow.fromarray(COLOURS).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image, COLOURS)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), COLOURS)
    assert image.dtype == np.uint8
    image[...] = 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    image = pillow.fromarray(COLOURS).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = pillow.fromarray(np.asarray(image).astype(np.uint16))
    image.save(tmp_path / "a.png")
    with pillow.open(tmp_path / "a.png") as reopened:
        assert reopened.mode == mode
        expected = np.asarray(reopened.convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_jpeg_in_cmyk_becomes_rgb(tmp_path: Path) -> None:
    pillow.fromarray(COLOURS).convert("CMYK").save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").shape == (20, 30, 3)


def test_the_pixels_are_read_as_they_are_stored_and_the_orientation_beside_them(tmp_path: Path) -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6
    pillow.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    with pillow.open(tmp_path / "a.png") as image:
        assert image.getexif()[0x0112] == 6
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOURS)
    assert open_image(tmp_path / "a.png").decode().orientation == 6


def test_a_tiff_is_turned_by_pillow_itself_as_in_timm(tmp_path: Path) -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6
    pillow.fromarray(COLOURS).save(tmp_path / "a.tif", exif=exif)
    stored = open_image(tmp_path / "a.tif").decode()
    np.testing.assert_array_equal(stored.pixels, np.rot90(COLOURS, 3))
    assert stored.orientation == 1


@pytest.mark.parametrize(("suffix", "kept"), [("jpg", 0.7), ("jpg", 0.02), ("png", 0.5), ("png", 0.0), ("bmp", 0.9)])
def test_a_truncated_file_is_named(suffix: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{suffix}"
    pillow.fromarray(np.tile(COLOURS, (20, 20, 1))).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(FrameSourceError, match=rf"cut\.{suffix} cannot be read") as caught:
        read_image(path)
    assert caught.value.fix


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(FrameSourceError, match=r"notes\.jpg cannot be read"):
        read_image(tmp_path / "notes.jpg")
    with pytest.raises(FrameSourceError, match="cannot be read"):
        read_image(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FrameSourceError, match=r"there is no image .*gone\.jpg"):
        read_image(tmp_path / "gone.jpg")


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"vitedge\[camera\]"):
        read_image(tmp_path / "a.png")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_are_listed_in_order_from_all_folders(tmp_path: Path) -> None:
    wanted = [tmp_path / name for name in ("b.PNG", "a/2.jpeg", "a/1.jpg", "a/deep/er/3.webp", "c/x.y.tiff")]
    touch(*wanted, tmp_path / "a/readme.txt", tmp_path / ".hidden.jpg", tmp_path / ".cache/4.jpg", tmp_path / "jpg")
    assert list_images(tmp_path) == tuple(sorted(wanted))
    assert list_images(str(tmp_path)) == tuple(sorted(wanted))


def test_links_to_images_are_followed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere/1.jpg", tmp_path / "set/own/2.jpg")
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/own/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/own/3.jpg").symlink_to(tmp_path / "elsewhere/1.jpg")
    (tmp_path / "set/own/gone.jpg").symlink_to(tmp_path / "elsewhere/gone.jpg")
    assert list_images(tmp_path / "set") == (tmp_path / "set/own/2.jpg", tmp_path / "set/own/3.jpg")
    (tmp_path / "named").symlink_to(tmp_path / "set")
    assert len(list_images(tmp_path / "named")) == 2


@pytest.mark.timeout(10)
def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    """22 levels with two links each are four million paths of one image."""
    touch(tmp_path / "level22/a.jpg")
    for level in range(22):
        (tmp_path / f"level{level}").mkdir()
        for name in "ab":
            (tmp_path / f"level{level}" / name).symlink_to(tmp_path / f"level{level + 1}")
    assert list_images(tmp_path / "level0") == ()
    assert list_images(tmp_path) == (tmp_path / "level22/a.jpg",)


@pytest.mark.timeout(10)
def test_pipes_and_devices_are_not_listed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    touch(tmp_path / "b.jpg")
    assert list_images(tmp_path) == (tmp_path / "b.jpg",)


def test_an_empty_folder_has_no_images(tmp_path: Path) -> None:
    assert list_images(tmp_path) == ()


@pytest.mark.parametrize("name", ["gone", "file.jpg"])
def test_what_is_no_folder_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.jpg").touch()
    with pytest.raises(FrameSourceError, match=name):
        list_images(tmp_path / name)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # timm leaves the files to the garbage collector
def test_flowers_are_read_as_by_timm(shared_data: Path) -> None:
    dataset: Any = pytest.importorskip("timm.data").ImageDataset(str(shared_data / "flowers" / "val"))
    paths = list_images(shared_data / "flowers" / "val")
    assert len(paths) == len(dataset) == 376
    by_path = {Path(dataset.filename(index, absolute=True)): index for index in range(len(dataset))}
    for path in paths[::60]:
        image, _ = dataset[by_path[path]]
        np.testing.assert_array_equal(read_image(path), np.asarray(image))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["fifo", "zero", "sparse"])
def test_what_is_no_regular_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.jpg"
    if name == "fifo":
        os.mkfifo(path)
    elif name == "zero":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 100 << 30)
    with pytest.raises(FrameSourceError, match=r"cannot be read: it (is|has)"):
        read_image(path)


def test_the_bytes_that_are_hashed_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pillow.fromarray(COLOURS).save(path)
    content = path.read_bytes()
    image = open_image(path)
    path.write_bytes(b"something else")
    assert image.sha256 == hashlib.sha256(content).hexdigest()
    assert image.size == COLOURS.shape[:2]
    np.testing.assert_array_equal(image.decode().pixels, COLOURS)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_the_contents_decide_the_format(kind: str, tmp_path: Path) -> None:
    for suffix in COMMON_SUFFIXES:
        pillow.fromarray(COLOURS).save(tmp_path / f"a{suffix}", kind)
        with pillow.open(tmp_path / f"a{suffix}") as opened:
            np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), np.asarray(opened.convert("RGB")))


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
(marked) print
%%EOF
"""


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``gs`` on the PATH; the path of the mark that it leaves where it is run."""
    mark, program = tmp_path / "ran", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 10.0 | tee {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return mark


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "eps", "ps"])
def test_no_program_is_run_for_postscript(suffix: str, ghostscript: Path, tmp_path: Path) -> None:
    eps = pytest.importorskip("PIL.EpsImagePlugin")
    eps.gs_binary = None  # where Pillow remembers that it found none
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(EPS)
    with pytest.raises(FrameSourceError, match="does not begin like an image"):
        read_image(path)
    assert not ghostscript.exists()
    with pillow.open(path) as image, pytest.raises(Exception):  # noqa: B017, PT011 - the fake writes no picture
        image.load()
    assert ghostscript.exists(), "Pillow no longer runs gs: this test proves nothing"


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *((".jpe", "JPEG"), (".mpo", "MPO"), (".apng", "PNG"), (".dib", "DIB"), (".pbm", "PPM"), (".jp2", "JPEG2000")),
        *((".j2k", "JPEG2000"), (".avif", "AVIF"), (".ico", "ICO"), (".icns", "ICNS"), (".pcx", "PCX")),
        *((".tga", "TGA"), (".sgi", "SGI"), (".dds", "DDS"), (".qoi", "QOI")),
    ],
)
def test_every_format_that_pillow_decodes_is_an_image(suffix: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    try:
        pillow.fromarray(COLOURS).resize((32, 32)).save(path, kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {kind}")
    with pillow.open(path) as opened:
        np.testing.assert_array_equal(read_image(path), np.asarray(opened.convert("RGB")))
    assert list_images(tmp_path) == (path,)


@pytest.mark.parametrize("suffix", [".eps", ".ps", ".pdf", ".mpg", ".mpeg", ".h5", ".wmf", ".iim", ".txt", ""])
def test_what_pillow_cannot_decode_or_decodes_with_a_program_is_no_image(suffix: str, tmp_path: Path) -> None:
    touch(tmp_path / f"a{suffix}")
    assert list_images(tmp_path) == ()


def test_a_format_without_a_magic_number_is_read_by_its_suffix_alone(tmp_path: Path) -> None:
    """TGA accepts nearly any bytes: no damaged JPEG may become noise."""
    pillow.fromarray(COLOURS).save(tmp_path / "a.jpg", "TGA")
    with pytest.raises(FrameSourceError, match="does not begin like an image"):
        read_image(tmp_path / "a.jpg")


def test_other_files_are_counted_by_suffix(tmp_path: Path) -> None:
    names = ("a.jpg", "b/1.TXT", "b/2.txt", "c.json", "README", ".hidden.png", ".git/config")
    touch(*(tmp_path / name for name in names))
    (tmp_path / "link").symlink_to(tmp_path / "b")
    os.mkfifo(tmp_path / "fifo.jpg")
    found = find_images(tmp_path)
    assert found.paths == (tmp_path / "a.jpg",)
    assert found.notice == (
        "8 files are no images and were not read: 2 .txt, 2 hidden, 1 .json, 1 device or FIFO, "
        "1 link to a folder or to nothing, 1 without a suffix"
    )
    assert find_images(tmp_path / "b").paths == ()


def test_a_folder_of_images_alone_has_no_notice(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "b/c.avif")
    assert find_images(tmp_path).notice == ""


def encoded(kind: str, image: Any = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or pillow.fromarray(COLOURS)).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))


def png(width: int, height: int, *, before: bytes = b"", after: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = zlib.compress(b"".join(b"\0" * (width + 1) for _ in range(min(height, 8))))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", rows) + after + chunk(b"IEND", b"")


def segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def jpeg_with(*segments: bytes) -> bytes:
    """A JPEG that begins with these segments, without the one that tells its resolution."""
    whole = encoded("JPEG")
    return whole[:2] + b"".join(segments) + whole[4 + int.from_bytes(whole[4:6], "big") :]


def scans(count: int, *, between: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan is repeated, behind other segments."""
    whole = encoded("JPEG", pillow.fromarray(COLOURS).convert("L"), progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + between + last * count + whole[-2:]


def tiff(tags: list[tuple[int, int, int, int]], body: bytes = b"") -> bytes:
    """An 8-pixel grey image of one row, with more tags: (tag, type, count, value or place)."""
    basic = [
        (256, 3, 1, 8),
        (257, 3, 1, 1),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, 8),
    ]
    known = {tag for tag, *_ in tags}
    entries = sorted([each for each in basic if each[0] not in known] + tags)
    directory = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    body = body.ljust(8, b"\0")
    return b"II*\0" + struct.pack("<L", 8 + len(body)) + body + struct.pack("<H", len(entries)) + directory + bytes(4)


def directories(count: int) -> bytes:
    """A chain of TIFF directories, each with one tag that holds the place of the next."""
    places = [8 + 18 * number for number in range(count + 1)]
    chain = b"".join(struct.pack("<HHHLL", 1, 34665, 4, 1, place) + bytes(4) for place in places[1:])
    return b"II*\0" + struct.pack("<L", 8) + chain


def compressed_text(megabytes: int) -> bytes:
    text = zlib.compress(bytes(1000000))
    return b"".join(chunk(b"zTXt", b"%d\0\0" % number + text) for number in range(megabytes))


def big_tiff(entries: int) -> bytes:
    return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, entries) + bytes(20 * entries) + bytes(8)


def shared_tags(count: int, size: int) -> bytes:
    """A TIFF with tags that all have the same bytes."""
    return tiff([(40000 + number, 1, size, 8) for number in range(count)], bytes(size))


def exif(directory: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + directory)


def bmp_runs(width: int, height: int, *, compression: int = 1) -> bytes:
    rows = b"\1\1\0\0" * height
    header = struct.pack("<LllHHLLllLL", 40, width, height, 1, 8, compression, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<LHHL", 1078 + len(rows), 0, 0, 1078) + header + bytes(1024) + rows


GIF_FRAME = b",\0\0\0\0\x08\0\x08\0\0\x08\1\0;"


def gif_blocks(count: int) -> bytes:
    whole = encoded("GIF", pillow.new("P", (8, 8)))
    place = whole.index(b"\x2c\0\0\0\0\x08\0")
    return whole[:place] + b"\x21\xfe" + b"\1a" * count + b"\0" + whole[place:]


PIXELS, PIECES, HEADER, SHARED = "pixels; [0-9]+ are the most", "too many pieces", "header is too long", "tags share"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG of many pixels": (lambda: png(IMAGE_PIXELS // 1000, 1001), PIXELS),
    "TIFF of many pixels": (lambda: tiff([(256, 4, 1, 12000), (257, 4, 1, 12000)]), PIXELS),
    "BMP of many pixels": (lambda: bmp_runs(12000, 12000, compression=0), PIXELS),
    "PPM of many pixels": (lambda: b"P6 12000 12000 255\n", PIXELS),
    "GIF of many pixels": (lambda: b"GIF89a" + struct.pack("<HH", 12000, 12000) + b"\0\0\0" + GIF_FRAME, PIXELS),
    "JPEG of many pixels": (lambda: encoded("JPEG").replace(b"\0\x14\0\x1e", b"\x30\0\x30\0"), PIXELS),
    "WebP of many pixels": (lambda: encoded("WEBP", pillow.new("RGB", (9000, 6000)), method=0, quality=1), PIXELS),
    "PPM of text": (lambda: b"P3 2000 2001 255\n" + b"1 " * 100, PIXELS),
    "PPM of odd depth": (lambda: b"P6 2000 2001 200\n" + b"1" * 100, PIXELS),
    "BMP of run lengths": (lambda: bmp_runs(2000, 2001), PIXELS),
    "far more pixels": (lambda: png(1 << 16, 1 << 16), "exceeds limit"),
    "empty chunks before the pixels": (lambda: png(8, 8, before=chunk(b"abCd", b"") * IMAGE_READS), PIECES),
    "empty chunks after the pixels": (lambda: png(8, 8, after=chunk(b"abCd", b"") * IMAGE_READS), PIECES),
    "empty chunks of pixels": (lambda: png(8, 8, before=chunk(b"IDAT", b"") * IMAGE_READS), PIECES),
    "compressed text": (lambda: png(8, 8, before=compressed_text(80)), "text chunks"),
    "scans": (lambda: scans(IMAGE_SCANS + 1), "more than 100 scans"),
    "segments": (lambda: jpeg_with(segment(0xE5, b"") * (IMAGE_PARTS + 1)), HEADER),
    "segments between scans": (lambda: scans(1, between=segment(0xFE, b"") * (IMAGE_PARTS + 1)), HEADER),
    "a long header": (lambda: jpeg_with(exif(bytes(65000)) * (IMAGE_HEADER_BYTES // 65000 + 2)), HEADER),
    "padding": (lambda: jpeg_with(b"\xff" * (2 * IMAGE_READS)), PIECES),
    "tags of Exif that share their values": (lambda: jpeg_with(exif(shared_tags(500, 1 << 15))), SHARED),
    "tags that share their values": (lambda: shared_tags(500, 1 << 16), SHARED),
    "numbers of a tag": (lambda: tiff([(282, 5, IMAGE_PARTS + 1, 8)]), "tag 282 has 100001 values"),
    "strips": (lambda: tiff([(273, 1, IMAGE_PARTS + 1, 8)]), "tag 273 has 100001 values"),
    "tags of a directory": (lambda: big_tiff(IMAGE_PARTS + 1), "too many tags"),
    "directories": (lambda: directories(100), "too many tags"),
    "a comment of a PPM": (lambda: b"P6\n#" + b"a" * (2 * IMAGE_READS) + b"\n1 1 255\nabc", PIECES),
    "spaces of a PPM": (lambda: b"P6" + b" " * (2 * IMAGE_READS) + b"1 1 255\nabc", PIECES),
    "blocks of a GIF": (lambda: gif_blocks(IMAGE_READS), PIECES),
    "nothing between the blocks of a GIF": (lambda: b"GIF89a\x08\0\x08\0\0\0\0" + bytes(2 * IMAGE_READS), PIECES),
}


@pytest.mark.timeout(30)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_asks_for_much_is_refused(name: str, tmp_path: Path) -> None:
    make, reason = BOMBS[name]
    path = tmp_path / "a.img"
    path.write_bytes(make())
    with pytest.raises(FrameSourceError, match=rf"a\.img cannot be read: .*{reason}"):
        read_image(path)


@pytest.mark.parametrize(
    "content",
    [
        scans(IMAGE_SCANS // 2),
        jpeg_with(*(segment(0xE1, b"other" + bytes(60000)) for _ in range(100))),
        jpeg_with(exif(tiff([]))),
        png(8, 8, before=chunk(b"tEXt", b"a\0b") * 1000),
        tiff([(40000, 1, 1 << 16, 8), (282, 5, 1, 8)], bytes(1 << 16)),
        gif_blocks(1000),
        b"P6\n# made by a program\n8 8 255\n" + bytes(192),
        b"P3 100 100 255\n" + b"1 " * 30000,
        b"P6 300 300 200\n" + bytes(270000),
        bmp_runs(1000, 1000),
    ],
)
def test_what_real_files_hold_passes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.img").write_bytes(content)
    assert read_image(tmp_path / "a.img").shape[2] == 3


@pytest.mark.timeout(60)
def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [pillow.fromarray(COLOURS + np.uint8(each)) for each in range(3)]
    for kind in ("PNG", "GIF", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        frames[0].save(tmp_path / "a.img", kind, save_all=True, append_images=frames[1:], **options)
        with pillow.open(tmp_path / "a.img") as opened:
            np.testing.assert_array_equal(read_image(tmp_path / "a.img"), np.asarray(opened.convert("RGB")))
