from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from vitedge.safety.archives import Entry, read_entry, stored_entries
from vitedge.safety.limits import ARCHIVE_DIRECTORY_BYTES

pytestmark = pytest.mark.timeout(60)


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return stream.getvalue()


def entries_of(folder: Path, content: bytes) -> dict[str, Entry]:
    (folder / "archive").write_bytes(content)
    with (folder / "archive").open("rb") as stream:
        return stored_entries(stream)


def test_entries_are_found_and_read(tmp_path: Path) -> None:
    contents = {"a": b"first", "b/c": b"", "b/d": bytes(range(256))}
    entries = entries_of(tmp_path, archive(contents))
    with (tmp_path / "archive").open("rb") as stream:
        assert {name: read_entry(stream, entry, limit=256) for name, entry in entries.items()} == contents
        with pytest.raises(ValueError, match="256 bytes; the limit is 255"):
            read_entry(stream, entries["b/d"], limit=255)


def test_an_entry_that_was_cut_off_meanwhile(tmp_path: Path) -> None:
    entries = entries_of(tmp_path, archive({"a": b"12345"}))
    (tmp_path / "archive").write_bytes(bytes(entries["a"].offset + 3))
    with (tmp_path / "archive").open("rb") as stream, pytest.raises(ValueError, match="cut off"):
        read_entry(stream, entries["a"], limit=5)


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' is compressed"):
        entries_of(tmp_path, archive({"a": bytes(1000)}, zipfile.ZIP_DEFLATED))


def test_encrypted_entries_are_refused(tmp_path: Path) -> None:
    content = bytearray(archive({"a": b"12345"}))
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1
    with pytest.raises(ValueError, match="'a' is encrypted"):
        entries_of(tmp_path, bytes(content))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("a", b"1")
        made.writestr("a", b"2")
    with pytest.raises(ValueError, match="one name"):
        entries_of(tmp_path, stream.getvalue())


def test_entries_that_overlap_are_refused(tmp_path: Path) -> None:
    """Many entries of the same bytes make a small file a large one."""
    content = archive({"a": bytes(1000)})
    place, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    record = content[place:end]
    second = record.replace(b"a", b"b")
    trailer = bytearray(content[end:])
    struct.pack_into("<HHII", trailer, 8, 2, 2, 2 * len(record), place)
    with pytest.raises(ValueError, match="overlaps another"):
        entries_of(tmp_path, content[:place] + record + second + bytes(trailer))


def test_a_size_beyond_the_file_is_refused(tmp_path: Path) -> None:
    content = bytearray(archive({"a": b"12345"}))
    place = content.index(b"PK\x01\x02")
    struct.pack_into("<II", content, place + 20, 1 << 30, 1 << 30)
    with pytest.raises(ValueError, match="overlaps another, or is cut off"):
        entries_of(tmp_path, bytes(content))


def test_a_large_directory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    content = bytearray(archive({"a": b"1"}))
    end = content.index(b"PK\x05\x06")
    padding = ARCHIVE_DIRECTORY_BYTES + 1
    struct.pack_into("<II", content, end + 12, padding, 0)
    with pytest.raises(ValueError, match="directory has"):
        entries_of(tmp_path, bytes(padding) + bytes(content[end:]))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), bytes(100)])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    if content.startswith(b"PK\x05\x06"):
        assert entries_of(tmp_path, content) == {}
        return
    with pytest.raises(ValueError, match="no zip archive"):
        entries_of(tmp_path, content)


def test_changed_bytes_give_entries_or_errors(tmp_path: Path) -> None:
    content = archive({"a": b"12345", "b": b"6789"})
    for position in range(len(content)):
        for flip in (0x01, 0x40, 0xFF):
            changed = bytearray(content)
            changed[position] ^= flip
            try:
                found = entries_of(tmp_path, bytes(changed))
            except (OSError, ValueError):
                continue
            assert all(entry.offset + entry.size <= len(content) for entry in found.values())
