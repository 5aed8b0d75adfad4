"""Scripts write between a page's markers, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def pages(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.pages")


def test_only_what_is_between_the_markers_changes(pages: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- engines -->\nold\n<!-- /engines -->\nb\n", encoding="utf-8")
    pages.write_between(page, "engines", r"new \1")
    assert page.read_text(encoding="utf-8") == "a\n<!-- engines -->\n\nnew \\1\n\n<!-- /engines -->\nb\n"


PLACE = "<!-- engines -->\nold\n<!-- /engines -->\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- accuracy -->\n<!-- /accuracy -->\n",
        "<!-- engines -->\n",
        f"{PLACE}kept\n{PLACE}",
        f"<!-- /engines -->{PLACE}",
    ],
)
def test_a_page_with_no_place_or_several_is_left_alone(pages: Any, tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="no place for engines, or several"):
        pages.check_places(page, ["engines"])
    with pytest.raises(ValueError, match="no place for engines, or several"):
        pages.write_between(page, "engines", "new")
    assert page.read_text(encoding="utf-8") == text
