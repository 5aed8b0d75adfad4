"""Every bound says what it bounds, and stands in docs/security.md."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from vitedge.safety import limits

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "security.md"


@pytest.fixture(scope="module")
def limits_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("limits_table", ROOT / "docs" / "limits_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_limit_says_what_it_bounds(limits_table: ModuleType) -> None:
    meanings = limits_table.meanings()
    assert set(meanings) == {name for name in dir(limits) if name.isupper()} - set(limits_table.UNITS)
    assert [name for name, meaning in meanings.items() if not meaning] == []


def test_the_page_has_the_limits_of_this_version(limits_table: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == limits_table.written(page), "python docs/limits_table.py writes them"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("A_BYTES", 1 << 20, "1 MiB"),
        ("A_BYTES", 64 << 10, "64 KiB"),
        ("A_BYTES", 1 << 40, "1 TiB"),
        ("A_SECONDS", 120.0, "120 s"),
        ("NODES", 200_000, "200,000"),
    ],
)
def test_how_a_limit_is_written(limits_table: ModuleType, name: str, value: float, text: str) -> None:
    assert limits_table.formatted(name, value) == text
