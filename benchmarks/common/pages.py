"""Pages that scripts write parts of."""

from __future__ import annotations

import re
from pathlib import Path

from vitedge.files import write_atomic

TENSORRT_PAGE = Path(__file__).resolve().parents[2] / "docs" / "tensorrt.md"


def write_between(page: Path, name: str, text: str) -> None:
    """Put a text between the page's markers ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises:
        ValueError: the page has no such markers, or several.
    """
    before, after = f"<!-- {name} -->", f"<!-- /{name} -->"
    whole, count = re.subn(
        f"{before}.*{after}", lambda _: f"{before}\n\n{text}\n\n{after}", page.read_text("utf-8"), flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"{page} has no place for {name}")
    write_atomic(page, whole)
