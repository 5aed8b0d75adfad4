"""What is exported appears whole, and never in the place of something."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.converters.integrations.export import export
from vitedge.errors import BundleIntegrityError, UsageError


def test_an_unknown_tool(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exports nothing for 'deepstrem'") as caught:
        export(tiny_bundle, tool="deepstrem", output=tmp_path / "out")
    assert caught.value.fix == "did you mean deepstream?"


def test_nothing_is_overwritten(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        export(tiny_bundle, tool="triton", output=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_an_altered_bundle_is_refused(make_bundle: object, tiny_bundle: Bundle, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy.bundle"
    shutil.copytree(tiny_bundle.path, copy)
    (copy / "labels.txt").write_text("red\ngreen\nblur\n")
    with pytest.raises(BundleIntegrityError):
        export(copy, tool="triton", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_name_by_default(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert export(tiny_bundle.path, tool="triton").path == Path("tiny-triton")
    assert (tmp_path / "tiny-triton").is_dir()
