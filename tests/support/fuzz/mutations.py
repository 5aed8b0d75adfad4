"""What a fuzzer does to good files. Every function takes its randomness from the ``Random`` that it is given."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np

Mutation = Callable[[Random, bytes], bytes]

LARGE = 1 << 12
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 255, 65_536, 10**7, 2**31, 2**32, 2**63, 2**64, 10**30, -(2**63)),
    *(0.0, -0.0, 1e-320, 1e308, -1e308, 0.5, float("nan"), float("inf"), float("-inf")),
)


def texts(marker: str) -> tuple[str, ...]:
    """Strings that mean something in a language that they may end up in; those that run create ``marker``."""
    code = f"__import__('os').system('touch {marker}')"
    return (
        *("", " ", "\n", "\x00", "\x1b]0;title\x07", "\x1b[2J", "\ud800", "\u202e", "a" * LARGE, "ﬀ", "lambda", "None"),
        *(
            code,
            f"');{code}#",
            f"'''):\n    pass\n{code}\ndef f(self, x):\n    pass #",
            f"{{{code}}}",
            f"$(touch {marker})",
        ),
        *(f"x\n[property]\ncustom-lib-path={marker}", "<script>alert(1)</script>", '"}\n', "%s%n", "{0.__class__}"),
        *("../../../etc/passwd", "/etc/passwd", "/dev/zero", "file:///etc/passwd", "http://127.0.0.1:9/", "hf-hub:a/b"),
        *("9**9**9", "1<<9999999", "nan", "inf", "1e999", "true", "con", "a/../b", "..\\b", "manifest.json", "."),
    )


def flip_bits(random: Random, data: bytes) -> bytes:
    """Change a few bits."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[_place(random, len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def write_integers(random: Random, data: bytes) -> bytes:
    """Write interesting integers of 1 to 8 bytes, in either order."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        width = random.choice((1, 2, 4, 8))
        if len(changed) > width:
            place = _place(random, len(changed) - width)
            value = random.choice(INTERESTING) & ((1 << 8 * width) - 1)
            changed[place : place + width] = value.to_bytes(width, random.choice(("little", "big")))
    return bytes(changed)


def cut(random: Random, data: bytes) -> bytes:
    """End too early, at any place."""
    return data[: random.randrange(len(data) + 1)]


def remove(random: Random, data: bytes) -> bytes:
    """Leave some bytes out."""
    begin = _place(random, len(data) + 1)
    return data[:begin] + data[begin + random.choice((1, 2, 7, 64, 4096)) :]


def repeat(random: Random, data: bytes) -> bytes:
    """Write a piece several times."""
    begin = _place(random, len(data) + 1)
    piece = data[begin : begin + random.choice((1, 4, 64, 512))]
    return data[:begin] + piece * random.choice((2, 3, 100)) + data[begin:]


def insert(random: Random, data: bytes) -> bytes:
    """Put random or repeated bytes in."""
    begin = _place(random, len(data) + 1)
    piece = random.choice((random.randbytes(8), b"\x00" * 64, b"\xff" * 64, b"[" * 2_000, b"\n" * 64))
    return data[:begin] + piece + data[begin:]


def append(random: Random, data: bytes) -> bytes:
    """Go on after the end."""
    return data + random.choice((b"\x00", random.randbytes(64), data))


BYTES: tuple[Mutation, ...] = (flip_bits, write_integers, cut, remove, repeat, insert, append)


def any_bytes(random: Random, data: bytes) -> bytes:
    """One or two mutations of bytes."""
    for _ in range(random.choice((1, 1, 2))):
        data = random.choice(BYTES)(random, data)
    return data


def _place(random: Random, length: int) -> int:
    """Somewhere; half of the time near the beginning, where headers are."""
    near = min(length, random.choice((16, 64, 512, length or 1, length or 1)))
    return random.randrange(near) if near else 0


class JsonMutator:
    """Changes values, keys and nesting of JSON.

    Args:
        marker: file that code within a string would create.
    """

    def __init__(self, marker: str) -> None:
        self._texts = texts(marker)

    def __call__(self, random: Random, data: bytes) -> bytes:
        """Mutate one to three places; bytes now and then."""
        if random.random() < 0.1:
            return any_bytes(random, data)
        value = json.loads(data)
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            value = self.changed(random, value)
        return json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")

    def changed(self, random: Random, value: Any) -> Any:
        """The value with one place changed."""
        places = list(_places(value))
        if not places:
            return self._other(random, value)
        leaves = [(holder, key) for holder, key in places if not isinstance(holder[key], (dict, list))]
        holder, key = random.choice(leaves if leaves and random.random() < 0.8 else places)
        kind = random.randrange(16)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[random.choice(self._texts)] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            nested = isinstance(holder[key], (dict, list))
            holder.extend([holder[key]] * random.choice((1, 10) if nested else (1, 10, 10_000)))
        elif kind == 3:
            for _ in range(random.choice((1, 60, 300))):
                holder[key] = [holder[key]] if random.random() < 0.5 else {"a": holder[key]}
        else:
            holder[key] = self._other(random, holder[key])
        return value

    def _other(self, random: Random, value: Any) -> Any:
        """Another value, most often of the same type: what gets past the first check is what finds the others."""
        if random.random() < 0.25:
            return random.choice((*NUMBERS, *self._texts[:20], None, True, [], {}, [[]], "", [value], {"a": value}))
        if isinstance(value, bool):
            return not value
        if isinstance(value, (int, float)):
            same = [each for each in NUMBERS if type(each) is type(value)]
            return random.choice((random.choice(same), random.choice(same), value + 1, value - 1, value * 2))
        if isinstance(value, str):
            return random.choice(
                (random.choice(self._texts), value + random.choice(self._texts), value[:-1], f"{value}x")
            )
        return random.choice(NUMBERS)


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        for key in list(value):
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for index in range(min(len(value), 50)):
            yield value, index
            yield from _places(value[index])


class ZipMutator:
    """Changes a zip archive: bytes of its members, their names and compression, its directory.

    Args:
        within: mutates the content of a member, which it is told by name.
    """

    def __init__(self, within: Callable[[Random, str, bytes], bytes]) -> None:
        self._within = within

    def __call__(self, random: Random, data: bytes) -> bytes:
        """Mutate a member, the structure, or the bytes of the archive."""
        kind = random.random()
        if kind < 0.15:
            return any_bytes(random, data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        place = random.randrange(len(members))
        name, content = members[place]
        if kind < 0.8:
            members[place] = (name, self._within(random, name, content))
        elif kind < 0.85:
            members[place] = (random.choice(("../up", "/abs", name + "/", "x", name.upper(), "a" * 300)), content)
        elif kind < 0.9:
            del members[place]
        else:
            members.append(random.choice(members) if random.random() < 0.5 else (f"{name}.more", b"\x00" * (8 << 20)))
        method = random.choice((zipfile.ZIP_STORED,) * 6 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
        return write_zip(members, method)


def write_zip(members: Sequence[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive, also of names that occur twice."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def npy(random: Random, name: str, data: bytes) -> bytes:
    """Another array, a header that promises another one, or changed bytes."""
    kind = random.randrange(4)
    if kind == 0:
        return any_bytes(random, data)
    if kind == 1:
        return _npy_header(random) + data[128:]
    array = np.load(io.BytesIO(data))
    stream = io.BytesIO()
    np.save(stream, _other_array(random, array), allow_pickle=False)
    return stream.getvalue()


def _npy_header(random: Random) -> bytes:
    shape = random.choice(
        ("(10**9, 10**9)", "(1<<40,)", "(-1, 3)", "()", "(8, 32, 32, 3)", "(1.5,)", "(True,)", "[1]", "(" * 300)
    )
    dtype = random.choice(
        ("|u1", "<f4", "<f8", "<c8", "|O", "<U9", "<M8[s]", ">f4", "|V4", "<f2", "[('a','<f4')]", "xx")
    )
    text = f"{{'descr': '{dtype}', 'fortran_order': {random.choice(('False', 'True', '1'))}, 'shape': {shape}, }}"
    padded = text.ljust(random.choice((118, 118, 60_000))) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded) & 0xFFFF) + padded.encode()


def _other_array(random: Random, array: Any) -> Any:
    dtypes = (
        np.uint8,
        np.int8,
        np.float16,
        np.float32,
        np.float64,
        np.complex64,
        np.bool_,
        np.int64,
        "M8[s]",
        "U3",
        ">f4",
    )
    with np.errstate(all="ignore"):
        choices: tuple[Callable[[], Any], ...] = (
            lambda: array.astype(random.choice(dtypes)),
            lambda: array[: random.choice((0, 1))],
            lambda: np.zeros_like(array),
            lambda: array.reshape(-1),
            lambda: np.asfortranarray(array),
            lambda: array[..., :1],
            lambda: array[()] * 0 - 1,
            lambda: np.full(array.shape, random.choice((np.nan, np.inf, -np.inf, 1e38, 0.0)), np.float32),
            lambda: _one_changed(random, array),
            lambda: np.concatenate([array] * 5),
        )
        return random.choice(choices)()


def _one_changed(random: Random, array: Any) -> Any:
    changed = array.astype(np.float64)
    changed.flat[random.randrange(changed.size)] = random.choice((np.nan, np.inf, 1e300, -7.0))
    return changed.astype(np.float32)


def safetensors(mutate_json: JsonMutator) -> Mutation:
    """Changes of the JSON header, its length, or the bytes."""

    def mutate(random: Random, data: bytes) -> bytes:
        if random.random() < 0.2:
            return any_bytes(random, data)
        (length,) = struct.unpack("<Q", data[:8])
        header = mutate_json(random, data[8 : 8 + length])
        said = random.choice((len(header),) * 60 + INTERESTING[3:])
        return struct.pack("<Q", said) + header + data[8 + length :]

    return mutate


class Command:
    """Runs a command where a pickle is loaded.

    Args:
        command: of a shell.
    """

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        import os

        return os.system, (self.command,)


def pickles(marker: str) -> Callable[[Random, str, bytes], bytes]:
    """Changes of a pickle within an archive of PyTorch: opcodes, sizes, other objects, code."""

    def mutate(random: Random, name: str, data: bytes) -> bytes:
        if not name.endswith(".pkl"):
            return any_bytes(random, data)
        kind = random.randrange(4)
        if kind == 0:
            return pickle.dumps({"weight": Command(f"touch {marker}")}, protocol=2)
        if kind == 1:
            found = [place for place in range(len(data)) if data[place : place + 1] in (b"K", b"M", b"J")]
            if found:
                place = random.choice(found)
                return data[: place + 1] + random.randbytes(1) + data[place + 2 :]
        return any_bytes(random, data)

    return mutate


def xml(marker: str) -> Mutation:
    """Changes of numbers, names and attributes of an IR, of its nesting, or of its bytes."""
    words = [text.replace("&", "").replace("<", "").replace('"', "") for text in texts(marker)]

    def mutate(random: Random, data: bytes) -> bytes:
        kind = random.randrange(5)
        if kind == 0:
            return any_bytes(random, data)
        if kind == 1:
            doctype = b'<!DOCTYPE a [<!ENTITY b "' + b"x" * 500 + b'"><!ENTITY c "&b;&b;&b;&b;">]>'
            return data.replace(b"<net", random.choice((doctype, b"<a>" * 20_000)) + b"<net", 1)
        parts = data.decode("utf-8", "replace").split('"')
        for _ in range(random.choice((1, 1, 2, 4))):
            place = random.randrange(1, len(parts), 2)
            numeric = parts[place].lstrip("-").isdigit()
            parts[place] = str(random.choice(NUMBERS)) if numeric else random.choice((*words, "i64", "boolean", "4,-1"))
        return '"'.join(parts).encode("utf-8", "surrogatepass")

    return mutate


def text(marker: str) -> Mutation:
    """Changes of lines: others, more, very long ones, or bytes."""
    words = [each.encode("utf-8", "surrogatepass") for each in texts(marker)]

    def mutate(random: Random, data: bytes) -> bytes:
        if random.random() < 0.4:
            return any_bytes(random, data)
        lines = data.split(b"\n")
        lines[random.randrange(len(lines))] = random.choice(words)
        ending = random.choice((b"\n", b"\n", b"\r\n", b"\r", b"\x0b", b"\x85"))
        return random.choice((b"", b"\xef\xbb\xbf", b"\xff\xfe")) + ending.join(lines)

    return mutate
