"""Arrays of strangers: what NumPy writes is read as NumPy reads it, and nothing else is."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from vitedge.safety.limits import ARRAY_HEADER_BYTES
from vitedge.safety.npz import read_npz

KINDS = {"frames": ("u1", 4), "logits": ("f4", 2)}
LIMIT = 1 << 20
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
LOGITS = np.random.default_rng(0).normal(size=(2, 7)).astype(np.float32)

Save = Callable[..., None]


def saved(save: Save = np.savez, **changes: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, **({"frames": FRAMES, "logits": LOGITS} | changes))
    return stream.getvalue()


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def npy(array: NDArray[Any], version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


def with_header(header: bytes, data: bytes = b"", magic: bytes = b"\x93NUMPY\x01\x00") -> bytes:
    return magic + struct.pack("<H", len(header)) + header + data


def read(content: bytes, limit: int = LIMIT) -> dict[str, NDArray[Any]]:
    return read_npz(content, KINDS, limit=limit)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_what_numpy_writes_is_read_as_numpy_reads_it(save: Save, order: Any, byte_order: str) -> None:
    content = saved(
        save, frames=np.array(FRAMES, order=order), logits=np.array(LOGITS, dtype=f"{byte_order}f4", order=order)
    )
    found = read(content)
    with np.load(io.BytesIO(content)) as expected:
        for name in KINDS:
            assert np.array_equal(found[name], expected[name])
            assert found[name].dtype == expected[name].dtype.newbyteorder("=")
            assert found[name].flags.c_contiguous


@given(arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(0, 4)), elements=st.floats(width=32)))
def test_every_bit_arrives(logits: NDArray[np.float32]) -> None:
    found = read(saved(logits=logits))["logits"]
    assert (found.shape, found.tobytes()) == (logits.shape, logits.tobytes())


def test_a_header_of_the_second_version_is_read() -> None:
    content = zipped({"logits.npy": npy(LOGITS, version=(2, 0))})
    assert np.array_equal(read(content)["logits"], LOGITS)


WRONG_TYPE = "expected f4|NumPy does not write"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"logits": LOGITS.astype(np.float64)}, WRONG_TYPE),
        ({"logits": LOGITS.astype(np.float16)}, WRONG_TYPE),
        ({"logits": LOGITS.astype(np.complex64)}, WRONG_TYPE),
        ({"logits": LOGITS.astype(np.int32)}, WRONG_TYPE),
        ({"logits": LOGITS > 0}, WRONG_TYPE),
        ({"logits": LOGITS.astype("U8")}, WRONG_TYPE),
        ({"logits": LOGITS.astype("S8")}, WRONG_TYPE),
        ({"logits": np.zeros((2, 7), "datetime64[s]")}, WRONG_TYPE),
        ({"logits": np.zeros((2, 7), "timedelta64[s]")}, WRONG_TYPE),
        ({"logits": np.zeros((2, 7), [("x", "f4")])}, WRONG_TYPE),
        ({"logits": np.array([[None]])}, WRONG_TYPE),
        ({"logits": LOGITS[0]}, "with 2 axes"),
        ({"logits": LOGITS[None]}, "with 2 axes"),
        ({"logits": np.float32(3)}, "with 2 axes"),
        ({"frames": FRAMES.astype(np.int8)}, "expected u1"),
        ({"frames": FRAMES[0]}, "with 4 axes"),
        ({"evil": LOGITS}, "may hold"),
        ({"frames": np.zeros((LIMIT, 1, 1, 3), np.uint8)}, "the limit is"),
    ],
)
def test_other_types_shapes_and_names_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read(saved(**changes))


HEADERS = {
    "code": b"{'descr': __import__('os').system('id'), 'fortran_order': False, 'shape': (2, 7), }\n",
    "deep": b"(" * 1000,
    "no end": b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 7",
    "a token": b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 7L), }\n",
    "a negative axis": b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 7), }\n",
    "a number of thousands of digits": b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s, 7), }\n" % (b"9" * 800),
    "many numbers": b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }\n" % (b"1, " * 200),
    "truth of another type": b"{'descr': '<f4', 'fortran_order': 1, 'shape': (2, 7), }\n",
    "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 7), }\n",
    "bytes": bytes(range(256)),
    "a shape that wraps around": b"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }\n",
    "digits without end": b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s" % (b"1" * 900),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_are_not_believed(header: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|bytes, which does not fit its shape|of type"):
        read(zipped({"logits.npy": with_header(header, LOGITS.tobytes())}))


def test_a_long_header_is_refused_before_it_is_read() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 7), }" + b" " * ARRAY_HEADER_BYTES + b"\n"
    with pytest.raises(ValueError, match="header of"):
        read(zipped({"logits.npy": with_header(header, LOGITS.tobytes())}))


def test_a_shape_is_held_against_the_size_before_anything_is_read() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"
    with pytest.raises(ValueError, match="does not fit its shape"):
        read(zipped({"logits.npy": with_header(header)}))


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY\x03\x00\x00\x00\x00\x00", b"PK", b"\x80\x04pickle."]
)
def test_what_is_no_array_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"no array|no \.npz"):
        read(zipped({"logits.npy": content}))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(method: int) -> None:
    with pytest.raises(ValueError, match="another method"):
        read(zipped({"logits.npy": npy(LOGITS)}, method))


def test_encrypted_arrays_are_refused() -> None:
    content = bytearray(zipped({"logits.npy": npy(LOGITS)}))
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(signature) + offset] |= 1
    with pytest.raises(ValueError, match="encrypted"):
        read(bytes(content))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice_is_refused() -> None:
    """Readers differ in which of the two they take."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for logits in (LOGITS, 2 * LOGITS):
            archive.writestr("logits.npy", npy(logits))
    with pytest.raises(ValueError, match="twice"):
        read(stream.getvalue())


@pytest.mark.timeout(20)
def test_a_small_file_that_inflates_is_refused_before_it_does() -> None:
    bomb = saved(np.savez_compressed, frames=np.zeros((1, 10_000, 10_000, 3), np.uint8))
    assert len(bomb) < LIMIT
    with pytest.raises(ValueError, match="the limit is"):
        read(bomb)


@pytest.mark.timeout(20)
def test_a_size_that_is_declared_too_small_is_not_exceeded() -> None:
    """The directory says that little comes out of the compressed data."""
    content = bytearray(saved(np.savez_compressed, logits=np.zeros((1, 10_000_000), np.float32)))
    position = content.index(b"PK\x01\x02", content.index(b"logits.npy") - 46)
    while content[position + 46 : position + 56] != b"logits.npy":
        position = content.index(b"PK\x01\x02", position + 1)
    content[position + 24 : position + 28] = struct.pack("<I", 1000)
    with pytest.raises(ValueError, match=r"does not fit its shape|damaged"):
        read(bytes(content))


@pytest.mark.timeout(20)
def test_a_directory_of_a_million_entries_is_refused_before_it_is_read() -> None:
    one = b"PK\x01\x02" + bytes(42)
    directory = one * 1_000_000
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, len(directory), 0, 0)
    with pytest.raises(ValueError, match="directory has"):
        read(directory + end)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_of_any_kind_is_refused_or_does_no_harm(save: Save) -> None:
    good, rng = saved(save), random.Random(13)
    expected = read(good)
    for _ in range(2000):
        bad = bytearray(good)
        for _ in range(rng.choice((1, 1, 3))):
            at = rng.randrange(len(bad))
            change = rng.choice(("flip", "cut", "zero", "repeat"))
            if change == "flip":
                bad[at] ^= 1 << rng.randrange(8)
            elif change == "cut":
                del bad[at : at + rng.randrange(1, 40)]
            elif change == "zero":
                bad[at : at + 4] = rng.choice((bytes(4), b"\xff" * 4))
            else:
                bad[at:at] = bad[at : at + 30]
        try:
            found = read(bytes(bad))
        except ValueError:
            continue
        for name, array in found.items():
            assert np.array_equal(array.ravel(), expected[name].ravel())
