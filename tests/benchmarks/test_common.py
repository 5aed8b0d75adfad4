"""Benchmarks share ``benchmarks/common``, and import nothing of each other."""

from __future__ import annotations

import ast
from pathlib import Path

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
    for name, path in [*scripts.items(), *((each.name, each) for each in BENCHMARKS.glob("common/**/*.py"))]:
        assert not imported_by(path) & (set(scripts) - {name}), name
