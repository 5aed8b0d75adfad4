"""The frame of a report: one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from vitedge.safety.escape import html

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The content security policy: a browser shows pictures and styles of the page itself, and runs and loads nothing."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #68707a; --grid: #d9dde2; --paper: #ffffff;
  --series0: #0b6bcb; --series1: #c2541b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --faint: #9aa3ad; --grid: #343b43; --paper: #15181c;
  --series0: #5aa9f5; --series1: #f0925a; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 880px;
  margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.05em; margin: 2em 0 .3em; } p { color: var(--faint); margin: .2em 0 .6em; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25em .6em; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; }
.series0 { color: var(--series0); } .series1 { color: var(--series1); }
.key { font-weight: 600; }
pre { overflow-x: auto; font-size: 12.5px; }
"""


def page(title: str, sections: Iterable[str], *, style: str = "") -> str:
    """Render a page.

    Args:
        title: plain text.
        sections: HTML, in order.
        style: CSS beside that of all pages.
    """
    escaped = html(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escaped}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{style}</style></head>\n'
        f"<body><h1>{escaped}</h1>\n" + "\n".join(sections) + "\n</body></html>\n"
    )
