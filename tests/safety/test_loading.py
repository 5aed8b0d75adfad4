"""Where libraries are loaded."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import pytest

from vitedge.safety import loading
from vitedge.safety.loading import away_from_current_folder


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no other thread: other tests may have left some."""
    monkeypatch.setattr(loading.threading, "active_count", lambda: 1)


def test_away_and_back_even_after_an_error(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen = []

    def fail() -> None:
        seen.append(Path.cwd())
        raise ImportError

    with pytest.raises(ImportError), away_from_current_folder():
        fail()
    assert seen == [Path("/")]
    assert Path.cwd() == tmp_path


def test_a_folder_that_is_renamed_meanwhile(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tmp_path / "before"
    before.mkdir()
    monkeypatch.chdir(before)
    with away_from_current_folder():
        before.rename(tmp_path / "after")
    assert Path.cwd() == tmp_path / "after"
    monkeypatch.chdir(tmp_path)


def test_other_threads_keep_the_folder_that_they_count_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = Event()
    other = Thread(target=done.wait)
    other.start()
    with away_from_current_folder():
        assert Path.cwd() == tmp_path
    done.set()
    other.join()
