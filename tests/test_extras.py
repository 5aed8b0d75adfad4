"""Packages that are installed and cannot be imported are one clear error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vitedge.errors import BrokenExtraError, MissingExtraError
from vitedge.extras import require

Plant = Callable[[str, str], None]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Make a package of a name whose import runs code."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return make


@pytest.mark.parametrize(
    ("code", "reason", "fix"),
    [
        (
            "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')",
            "libGL.so.1: cannot open shared object file",
            "sudo apt-get install libgl1",
        ),
        ("raise OSError('libnew.so.7: cannot open shared object file')", "libnew.so.7", "holds libnew.so.7"),
        (
            "raise ImportError('numpy.core.multiarray failed to import')",
            "multiarray failed",
            "NumPy and",
        ),
        ("raise AttributeError('_ARRAY_API not found')", "_ARRAY_API not found", "numpy<2"),
        ("raise ValueError('numpy.dtype size changed, may indicate binary incompatibility')", "dtype size", "numpy<2"),
        ("raise RuntimeError('module compiled against ABI version 0x1000009')", "ABI version", "numpy<2"),
        ("raise ImportError('undefined symbol: _ZN3foo')", "undefined symbol", "install broken_package again"),
        ("raise ImportError", "ImportError", "install broken_package again"),
        ("x = = 1", "invalid syntax", "install broken_package again"),
    ],
)
def test_a_package_that_does_not_load(plant: Plant, code: str, reason: str, fix: str) -> None:
    plant("broken_package", code)
    with pytest.raises(BrokenExtraError) as caught:
        require("broken_package", extra="camera", purpose="this test")
    assert caught.value.problem.startswith(
        "this test needs broken_package, which is installed and cannot be imported: "
    )
    assert reason in caught.value.problem
    assert fix in caught.value.fix
    assert caught.value.__cause__ is not None


def test_a_package_without_what_it_needs_is_missing(plant: Plant) -> None:
    plant("half_a_package", "import what_nobody_has_installed")
    with pytest.raises(MissingExtraError, match="what_nobody_has_installed, which is not installed"):
        require("half_a_package", extra="camera", purpose="this test")


def test_the_command_line_prints_no_traceback(
    plant: Plant, tmp_path: Path, tiny_bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitedge.cli import main

    plant("openvino", "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')")
    assert main(["run", str(tiny_bundle.path), "--source", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "error: the openvino engine needs openvino, which is installed and cannot be imported: libGL"
    )
    assert "fix: sudo apt-get install libgl1" in said
