"""When the current folder is taken off the search path, and when it is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vitedge.safety.search_path import leave_out_current_folder, started_as_module


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        (["python", "-m", "vitedge", "run", "-m"], ["-m", "run", "-m"], True),
        (["python", "-mvitedge", "run"], ["-m", "run"], True),
        (["python", "-W", "error", "-Bm", "vitedge"], ["-m"], True),
        (["python", "-Imvitedge.cli"], ["-m"], True),
        (["python", "-m", "vitedge.runtime.engines.tensorrt.build.worker", "{}"], ["-m", "{}"], True),
        (["python", "-m", "application", "vitedge"], ["-m", "vitedge"], False),
        (["python", "-m", "vitedge_app"], ["-m"], False),
        (["python", "-m", "pytest"], ["/site/pytest/__main__.py"], False),  # the module was found
        (["python", "-c", "import vitedge"], ["-c"], False),
        (["python", "vitedge"], ["vitedge"], False),
        (["python"], [""], False),
        ([], [], False),
    ],
)
def test_what_was_started(
    command: list[str], arguments: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", command)
    monkeypatch.setattr(sys, "argv", arguments)
    assert started_as_module("vitedge") == expected


def flags(monkeypatch: pytest.MonkeyPatch, *, safe_path: bool = False, isolated: int = 0) -> None:
    monkeypatch.setattr(sys, "flags", SimpleNamespace(safe_path=safe_path, isolated=isolated))


def test_only_the_entry_that_python_m_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags(monkeypatch)
    for first in (str(tmp_path), ""):
        monkeypatch.setattr(sys, "path", [first, "/lib", str(tmp_path)])
        leave_out_current_folder()
        assert sys.path == ["/lib", str(tmp_path)]
        leave_out_current_folder()
        assert sys.path == ["/lib", str(tmp_path)]


@pytest.mark.parametrize("flag", [{"safe_path": True}, {"isolated": 1}])
def test_nothing_where_python_added_none(
    flag: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags(monkeypatch, **flag)
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/lib"])
    leave_out_current_folder()
    assert sys.path == [str(tmp_path), "/lib"]


def test_a_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    flags(monkeypatch)
    monkeypatch.setattr(sys, "path", ["/lib"])
    leave_out_current_folder()
    assert sys.path == ["/lib"]
    os.chdir(tmp_path)


def test_an_application_keeps_its_own(tmp_path: Path) -> None:
    package = tmp_path / "application"
    package.mkdir()
    (package / "__init__.py").write_text("import vitedge\n", encoding="utf-8")
    (package / "__main__.py").write_text("import json, sys\nprint(json.dumps(sys.path))\n", encoding="utf-8")
    command = [sys.executable, "-m", "application", "vitedge"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)[0] == str(tmp_path)
