"""Benchmarks share ``benchmarks/common``, and import nothing of each other."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def imported_by(path: Path) -> set[str]:
    """The first names of the modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(each.name.split(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_no_benchmark_imports_another() -> None:
    scripts = {path.stem: path for path in BENCHMARKS.glob("*.py")}
    assert len(scripts) > 10
    for name, path in [*scripts.items(), *((each.name, each) for each in BENCHMARKS.glob("common/*.py"))]:
        assert not imported_by(path) & (set(scripts) - {name}), name


def test_ratios_are_compared_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from common.timing import compared

    others = np.linspace(1.0, 100.0, 101)
    median, middle, low, high = compared(list(2 * others), list(others))
    assert (median, middle, low, high) == pytest.approx((2 * np.median(others), 2.0, 2.0, 2.0))
