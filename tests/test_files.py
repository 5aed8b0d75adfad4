"""Files are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vitedge.errors import UsageError
from vitedge.files import check_report_path, write_report, write_whole


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_whole(path, "first")
    write_whole(path, "zweiter — ü")
    assert path.read_text(encoding="utf-8") == "zweiter — ü"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "report.json"
    write_whole(path, "old")

    def fail(partial: Path, text: str, **_: object) -> int:
        partial.write_bytes(text[:1].encode())
        raise error

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(type(error)):
        write_whole(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_for_a_report_is_checked_before_the_work(tmp_path: Path) -> None:
    check_report_path(tmp_path / "new.json")
    check_report_path(Path("new.json"))
    with pytest.raises(UsageError, match="is a folder"):
        check_report_path(tmp_path)
    with pytest.raises(UsageError, match="is not a folder") as caught:
        check_report_path(tmp_path / "no" / "new.json")
    assert caught.value.fix == f"mkdir -p {tmp_path / 'no'}"


def test_a_folder_that_takes_no_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UsageError, match="takes no files"):
        check_report_path(tmp_path / "new.json")


def test_a_report_that_the_disk_does_not_take_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match=r"o\.json cannot be written.*No space left"):
        write_report(tmp_path / "o.json", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["fifo", "device"])
def test_a_report_replaces_no_device(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/null")
    with pytest.raises(UsageError, match="is a device or a FIFO"):
        check_report_path(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 5_000, "a\0b"])
def test_what_is_no_name_is_one_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        check_report_path(tmp_path / name)


def test_a_command_to_copy_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check_report_path(tmp_path / "no; rm -rf x" / "new.json")
    assert caught.value.fix == f"mkdir -p '{tmp_path}/no; rm -rf x'"
