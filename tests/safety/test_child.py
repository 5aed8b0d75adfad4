"""Child interpreters: what they import, and what they inherit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitedge.safety import child

MODULE = "import json, sys\nprint(json.dumps([__name__, *sys.argv[1:], *sys.path]))\n"


@pytest.fixture(params=[each for each in ((3, 10, 0), (3, 11, 0)) if each <= sys.version_info])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...]:
    """Have commands made as for this version of Python."""
    monkeypatch.setattr(sys, "version_info", request.param)
    found: tuple[int, ...] = request.param
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules that raise."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("json", "runpy", "numpy", "sitecustomize", "told"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} of the current folder')\n", encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "told.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", "../here", str(elsewhere), ""]))
    return folder


def run(command: list[str]) -> list[str]:
    done = subprocess.run(command, env=child.environment(), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    told: list[str] = __import__("json").loads(done.stdout)
    return told


def test_a_module(here: Path, version: tuple[int, ...]) -> None:
    name, first, second, *path = run(child.module_command("told", "a b", "-m"))
    assert (name, first, second) == ("__main__", "a b", "-m")
    assert not {"", ".", str(here)} & set(path)


def test_code(here: Path, version: tuple[int, ...]) -> None:
    name, first, *path = run(child.code_command(MODULE, "-c"))
    assert (name, first) == ("__main__", "-c")
    assert not {"", ".", str(here)} & set(path)


def test_the_environment_names_no_folder_that_depends_on_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", ":/usr/bin:bin:/bin:.")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib:")  # what OpenCV leaves there
    monkeypatch.setenv("PYTHONPATH", ":src")
    found = child.environment({"ADDED": "1"})
    assert (found["PATH"], found["LD_LIBRARY_PATH"], found["ADDED"]) == ("/usr/bin:/bin", "/opt/lib", "1")
    assert "PYTHONPATH" not in found
    assert os.environ["PYTHONPATH"] == ":src"
