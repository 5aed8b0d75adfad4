"""Pages that scripts write parts of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vitedge.files import write_atomic

TENSORRT_PAGE = Path(__file__).resolve().parents[2] / "docs" / "tensorrt.md"


def write_between(page: Path, name: str, text: str) -> None:
    """Put a text between the page's markers ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises:
        ValueError: the page has no such markers, or several.
    """
    before, after = _around(page, name)
    write_atomic(page, f"{before}\n\n{text}\n\n{after}")


def check_places(page: Path, names: Iterable[str]) -> None:
    """Check that ``write_between`` can write each of the names, before they are measured.

    Raises:
        ValueError: the page has no markers of a name, or several.
    """
    for name in names:
        _around(page, name)


def _around(page: Path, name: str) -> tuple[str, str]:
    """Return the page before and after a place, with its markers."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, *rest = page.read_text("utf-8").split(opening)
    if len(rest) != 1 or rest[0].count(closing) != 1 or closing in before:
        raise ValueError(f"{page} has no place for {name}, or several; it needs one {opening} and one {closing}")
    return before + opening, closing + rest[0].split(closing)[1]
