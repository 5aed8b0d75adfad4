"""Write the table of limits in docs/security.md from vitedge/safety/limits.py: python docs/limits_table.py."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from vitedge.safety import limits

PAGE = Path(__file__).with_name("security.md")
BEGIN, END = "<!-- limits -->", "<!-- /limits -->"
UNITS = ("KIB", "MIB", "GIB")
BINARY = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def table() -> str:
    """Return one row for each constant: its name, its value, and what it limits."""
    rows = [f"| `{name}` | {formatted(name, getattr(limits, name))} | {text} |" for name, text in meanings().items()]
    return "\n".join(["| constant | limit | meaning |", "|---|---|---|", *rows])


def meanings() -> dict[str, str]:
    """Read the text of each constant, in the order of the module."""
    body = ast.parse(Path(limits.__file__).read_text(encoding="utf-8")).body
    found: dict[str, str] = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name not in UNITS:
                found[name] = _text(following)
    return found


def _text(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).replace("``", "`").split()).removesuffix(".")
    return ""


def formatted(name: str, value: float) -> str:
    """Format a value with its unit."""
    if isinstance(value, float) or name.endswith("SECONDS"):
        return f"{value:g} s"
    if name.endswith(("_BYTES", "_MEMORY", "_SPARE", "_RATE")) and value >= BINARY[-1][0]:
        unit, symbol = next(each for each in BINARY if value >= each[0])
        return f"{value / unit:.4g} {symbol}"
    return f"{value:,}"


def written(page: str) -> str:
    """Return the page with the table of this version."""
    text, count = re.subn(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table()}\n{END}", page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{PAGE} has no place for the limits")
    return text


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
