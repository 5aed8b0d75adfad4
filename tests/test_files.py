"""Files are whole or absent."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vitedge.errors import OutputError, UsageError
from vitedge.files import (
    check_report_path,
    create_file,
    holding,
    is_partial,
    remove_abandoned,
    replace_folder,
    write_atomic,
    write_report,
)


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_atomic(path, "first")
    write_atomic(path, "zweiter — ü")
    assert path.read_text(encoding="utf-8") == "zweiter — ü"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "report.json"
    write_atomic(path, "old")

    def fail(partial: Path, text: str, **_: object) -> int:
        partial.write_bytes(text[:1].encode())
        raise error

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(type(error)):
        write_atomic(path, "new")
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
    with pytest.raises(UsageError, match="cannot be written to"):
        check_report_path(tmp_path / "new.json")


def test_a_report_that_the_disk_does_not_take_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match=r"o\.json cannot be written.*No space left"):
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


def held(path: Path) -> subprocess.Popen[str]:
    """Another process that holds a file or folder."""
    code = (
        "import sys; from pathlib import Path; from vitedge.files import holding\n"
        "with holding(Path(sys.argv[1])) as ours: print(ours, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


@pytest.mark.parametrize("make", [Path.touch, lambda path: (path / "below").mkdir(parents=True)])
def test_what_is_held_stays_until_its_process_ends(tmp_path: Path, make: Callable[[Path], object]) -> None:
    left = tmp_path / ".report.json.partial-0a1b2c3d"
    make(left)
    with held(left) as process:
        remove_abandoned(tmp_path, is_partial)
        assert left.exists()
        process.kill()
    remove_abandoned(tmp_path, is_partial)
    assert not left.exists()


def test_what_another_took_for_abandoned_is_not_held(tmp_path: Path) -> None:
    with holding(tmp_path / "gone") as ours:
        assert not ours
    (tmp_path / "taken").touch()
    with held(tmp_path / "taken") as process, holding(tmp_path / "taken") as ours:
        assert not ours
        process.kill()


def test_a_write_that_is_overtaken_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["00000000", "11111111"]
    monkeypatch.setattr("vitedge.files.secrets.token_hex", lambda _: names.pop(0))
    close = os.close

    def overtaken(descriptor: int) -> None:
        close(descriptor)
        (tmp_path / ".report.json.partial-00000000").unlink(missing_ok=True)

    monkeypatch.setattr("vitedge.files.os.close", overtaken)
    write_atomic(tmp_path / "report.json", "text")
    assert names == []
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_only_what_was_left_of_this_file_is_removed(tmp_path: Path) -> None:
    ours = ".report.json.partial-0a1b2c3d"
    others = (
        ".other.json.partial-0a1b2c3d",
        ".report.json.partial-",
        ".report.json.partial-0A1B2C3D",
        "report.json.bak",
    )
    for name in (ours, *others):
        (tmp_path / name).touch()
    write_atomic(tmp_path / "report.json", "text")
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", *others}


def test_where_nothing_can_be_locked_everything_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / ".report.json.partial-0a1b2c3d").touch()
    write_atomic(tmp_path / "report.json", "text")
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == "text"
    assert (tmp_path / ".report.json.partial-0a1b2c3d").exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("target", ["/dev/zero", ".", "none"])
def test_no_link_is_followed(tmp_path: Path, target: str) -> None:
    left = tmp_path / ".report.json.partial-0a1b2c3d"
    left.symlink_to(target)
    write_atomic(tmp_path / "report.json", "text")
    assert left.is_symlink()


@pytest.mark.timeout(20)
def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".report.json.partial-0a1b2c3d")
    write_atomic(tmp_path / "report.json", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("length", [250, 300])
def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path: Path, length: int):
    """The partial file beside a report has a longer name than the report."""
    with pytest.raises(UsageError, match="too long"):
        check_report_path(tmp_path / ("x" * length))
    assert list(tmp_path.iterdir()) == []


class TestCreateFile:
    def test_a_new_file(self, tmp_path: Path) -> None:
        os.close(create_file(tmp_path / "new", overwrite=False))
        assert [each.name for each in tmp_path.iterdir()] == ["new"]

    def test_an_old_file_is_kept_or_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "old"
        path.write_text("old")
        with path.open() as reader:
            with pytest.raises(FileExistsError):
                create_file(path, overwrite=False)
            os.close(create_file(path, overwrite=True))
            assert reader.read() == "old", "whoever reads it goes on"
        assert path.read_text() == ""
        assert [each.name for each in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_takes_the_place_of_another(exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchanges:
        monkeypatch.setattr("vitedge.files._exchange", lambda *_: False)
    for name in ("old", "finished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").touch()
    replace_folder(tmp_path / "finished", tmp_path / "old")
    assert sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")) == ["old", "old/finished.txt"]


def test_the_old_folder_keeps_its_name_if_the_new_one_cannot_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitedge.files._exchange", lambda *_: False)
    (tmp_path / "old").mkdir()
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "missing", tmp_path / "old")
    assert [each.name for each in tmp_path.iterdir()] == ["old"]
