"""What a machine remembers is its user's own: nobody else's word counts, and nothing in it stops a program."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vitedge.runtime.system import cache
from vitedge.runtime.system.cache import cache_folder, is_private, make_private

KIND = "self-test"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that does not exist yet, below folders that do not either."""
    path = tmp_path / "home" / ".cache" / "vitedge"
    monkeypatch.setenv("VITEDGE_CACHE", str(path))
    return path


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_what_is_made_is_its_owners_alone(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert cache.put(KIND, "a", {"x": 1})
    finally:
        os.umask(before)
    for made in (folder.parent.parent, folder.parent, folder, folder / KIND):
        assert mode_of(made) == 0o700
    assert cache.get(KIND, "a") == {"x": 1}


@pytest.mark.parametrize("below", [True, False], ids=["the kind's folder", "the cache"])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_may_write_into_is_not_used(
    folder: Path, below: bool, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert cache.put(KIND, "a", {"x": 1})
    (folder / KIND if below else folder).chmod(mode)
    with caplog.at_level(logging.WARNING, "vitedge"):
        assert cache.get(KIND, "a") is None
        assert not cache.put(KIND, "b", {"x": 2})
        assert cache.get(KIND, "a") is None
    assert not (folder / KIND / "b.json").exists()
    (message,) = (record.getMessage() for record in caplog.records)
    assert "others may write into it" in message
    assert "VITEDGE_CACHE" in message


def test_a_folder_that_others_may_read_is_used(folder: Path) -> None:
    """As an earlier vitedge made it."""
    assert cache.put(KIND, "a", {"x": 1})
    folder.chmod(0o755)
    assert cache.get(KIND, "a") == {"x": 1}


def test_a_folder_of_another_user_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert cache.put(KIND, "a", {"x": 1})
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    with caplog.at_level(logging.WARNING, "vitedge"):
        assert cache.get(KIND, "a") is None
        assert not cache.put(KIND, "b", {"x": 2})
    assert ["another user owns it" in record.getMessage() for record in caplog.records] == [True]


def test_a_link_to_a_folder_of_the_user_is_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tmp_path / "disk")
    assert cache.put(KIND, "a", {"x": 1})
    assert (tmp_path / "disk" / KIND / "a.json").is_file()
    (tmp_path / "disk").chmod(0o777)
    assert cache.get(KIND, "a") is None


def put(path: Path, content: str | bytes) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)


ENTRIES: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "deep": lambda path: put(path, "[" * 100_000),
    "sparse": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40),
    "NaN": lambda path: put(path, '{"sqnr_db": NaN}'),
    "infinity": lambda path: put(path, '{"sqnr_db": 1e999}'),
    "half a pair": lambda path: put(path, '{"x": "\\ud800"}'),
    "bytes": lambda path: put(path, b"\xff\x00"),
    "an array": lambda path: put(path, "[1]"),
    "nothing": lambda path: put(path, ""),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("plant", ENTRIES.values(), ids=ENTRIES)
def test_an_entry_of_any_kind_is_absent_or_right(folder: Path, plant: Callable[[Path], object]) -> None:
    plant(make_private(KIND) / "a.json")
    assert cache.get(KIND, "a") is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_remembered(folder: Path, value: float) -> None:
    assert not cache.put(KIND, "a", {"x": value})
    assert cache.get(KIND, "a") is None
    assert list((folder / KIND).iterdir()) == []


def test_only_the_last_ones_are_kept(folder: Path) -> None:
    for number in range(5):
        assert cache.put(KIND, str(number), {"x": number}, most=3)
        os.utime(folder / KIND / f"{number}.json", ns=(number, number))
    assert cache.put(KIND, "5", {"x": 5}, most=3)
    assert sorted(path.name for path in (folder / KIND).iterdir()) == ["3.json", "4.json", "5.json"]


KILLED = """
import os, signal, sys
from pathlib import Path
from vitedge.runtime.system import cache
def killed(partial, text, **_):
    partial.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_text = killed
cache.put("self-test", "a", {"x": 1})
"""


def test_what_a_killed_program_left_is_removed_by_the_next(folder: Path) -> None:
    environment = {**os.environ, "VITEDGE_CACHE": str(folder)}
    assert subprocess.run([sys.executable, "-c", KILLED], env=environment, check=False).returncode == -9
    (left,) = (folder / KIND).iterdir()
    assert left.read_bytes() == b"half"
    assert cache.get(KIND, "a") is None
    assert cache.put(KIND, "b", {"x": 2})
    assert [path.name for path in (folder / KIND).iterdir()] == ["b.json"]
    assert json.loads((folder / KIND / "b.json").read_text(encoding="utf-8")) == {"x": 2}


def test_a_folder_that_does_not_exist_is_not_private(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        is_private(tmp_path / "none")


def test_without_a_place_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITEDGE_CACHE", "/proc/none")
    assert not cache.put(KIND, "a", {"x": 1})
    assert cache.get(KIND, "a") is None
    assert cache_folder() == Path("/proc/none")
