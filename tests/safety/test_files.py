from __future__ import annotations

import os
from pathlib import Path

import pytest

from vitedge.safety.files import (
    UnsafeFileError,
    folded_path,
    is_file,
    is_folder,
    parse_json,
    read_bytes,
    read_json,
    read_lines,
    read_text,
    walk_files,
)
from vitedge.safety.limits import FOLDER_DEPTH, JSON_DEPTH

LIMIT = 1 << 20


def test_a_regular_file_is_read_through_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", limit=7) == b"content"
    assert read_text(tmp_path / "file", limit=7) == "content"


def test_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(UnsafeFileError, match="7 bytes; vitedge reads at most 6"):
        read_bytes(tmp_path / "file", limit=6)


@pytest.mark.timeout(10)
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, kind in ((tmp_path / "fifo", "a FIFO"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(UnsafeFileError, match=f"it is {kind}, not a file"):
            read_bytes(path, limit=LIMIT)


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(100 << 30)
    with pytest.raises(UnsafeFileError, match="sparse"):
        read_bytes(tmp_path / "sparse", limit=200 << 30)


def test_a_file_system_that_counts_no_blocks_is_no_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").write_bytes(b"x" * 2 * LIMIT)
    real = os.fstat

    def without_blocks(descriptor: int) -> os.stat_result:
        return os.stat_result(tuple(real(descriptor)), {"st_blocks": 0})

    monkeypatch.setattr(os, "fstat", without_blocks)
    assert len(read_bytes(tmp_path / "whole", limit=4 * LIMIT)) == 2 * LIMIT


def test_a_link_to_itself_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=r"[Ll]evels of symbolic links"):
        read_bytes(tmp_path / "loop", limit=LIMIT)


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "-Infinity", "1e999", '{"a": -1e999}', '"\\ud800"', '{"\\udfff": 1}']
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not JSON|double|surrogate"):
        parse_json(text)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("levels", [JSON_DEPTH + 1, 5_000, 100_000])
def test_deep_json_is_refused(opening: str, levels: int) -> None:
    closing = "]" if opening == "[" else "}"
    with pytest.raises(ValueError, match="nested deeper than 50"):
        parse_json(opening * levels + "1" + closing * levels)


def test_json_within_the_bounds() -> None:
    value = parse_json("[" * JSON_DEPTH + '"\\ud83d\\ude00"' + "]" * JSON_DEPTH)
    for _ in range(JSON_DEPTH):
        (value,) = value
    assert value == "\N{GRINNING FACE}"


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "config.json") == {"a": 1}


def test_folders_are_walked_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "below" / "more").mkdir(parents=True)
    (tmp_path / "below" / "more" / "a").touch()
    (tmp_path / "b").touch()
    (tmp_path / ".hidden").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("b")
    (tmp_path / "below" / "up").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert sorted(entry.name for entry in walk_files(tmp_path)) == ["a", "b", "link"]


def test_deep_folders_are_refused(tmp_path: Path) -> None:
    tmp_path.joinpath(*["d"] * (FOLDER_DEPTH + 1)).mkdir(parents=True)
    with pytest.raises(UnsafeFileError, match="65 folders deep"):
        list(walk_files(tmp_path))


def test_lines_end_at_line_breaks_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes("\ufeffa\r\nb\x0b\x1c\u2028\x85b\rc\n\n".encode())
    assert read_lines(path, limit=LIMIT, lines=9) == ["a", "b\x0b\x1c\u2028\x85b", "c", ""]
    path.write_bytes(b"")
    assert read_lines(path, limit=LIMIT, lines=9) == [""]


def test_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"a\n" * 10)
    assert len(read_lines(tmp_path / "lines", limit=LIMIT, lines=10)) == 10
    with pytest.raises(UnsafeFileError, match="more than 9 lines"):
        read_lines(tmp_path / "lines", limit=LIMIT, lines=9)


def test_no_path_is_refused_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert (is_file(tmp_path / "file"), is_folder(tmp_path / "file")) == (True, False)
    assert (is_file(tmp_path), is_folder(tmp_path)) == (False, True)
    for path in ("a" * 5000, "a\0b", "\ud800", tmp_path / "file" / "below", ""):
        assert not is_file(path)
        assert not is_folder(path)


def test_a_path_is_folded_as_file_systems_fold_it() -> None:
    assert folded_path("A/./Door.mp4") == folded_path("a/door.MP4")
    assert folded_path("caf\u00e9") == folded_path("cafe\u0301")
    assert folded_path("door") != folded_path("doors")
