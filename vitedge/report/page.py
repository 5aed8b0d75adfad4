"""The frame of a report: one HTML page that loads nothing from elsewhere.

Every page begins with its verdict, explains its terms at the end, and says where and when it was written.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from vitedge.runtime.system.machine import processor_name, usable_cpus
from vitedge.safety.escape import html
from vitedge.version import VERSION

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
"""The content security policy: a browser shows pictures, videos and styles of the page, and runs and loads nothing."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #626a74; --grid: #d9dde2; --paper: #ffffff;
  --raised: #f3f5f7; --series0: #0b6bcb; --series1: #b64a14; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --faint: #9aa3ad; --grid: #343b43; --paper: #15181c;
  --raised: #1f242a; --series0: #5aa9f5; --series1: #f0925a; } }
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 912px;
  margin: 1.5em auto; padding: 0 1em; }
h1 { font-size: 1.4em; line-height: 1.25; } h2 { font-size: 1.1em; margin: 2em 0 .3em; }
h1, p, dd, li { overflow-wrap: anywhere; }
p { color: var(--faint); margin: .2em 0 .6em; }
a { color: inherit; text-decoration: underline dotted; text-underline-offset: .2em; }
.verdict { color: var(--ink); background: var(--raised); border-left: 4px solid var(--series0); padding: .6em .9em;
  font-size: 1.1em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25em .6em; border-bottom: 1px solid var(--grid); vertical-align: bottom; }
td { vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--paper); }
.series0 { color: var(--series0); } .series1 { color: var(--series1); }
.key { font-weight: 600; }
pre { overflow-x: auto; font-size: 12.5px; }
dt { font-weight: 600; } dd { margin: 0 0 .4em; color: var(--faint); }
dt:target, dt:target + dd { background: var(--raised); }
footer { border-top: 1px solid var(--grid); color: var(--faint); font-size: 13px; margin: 2.5em 0 1em;
  padding-top: .6em; }
@media (max-width: 600px) { th, td { padding: .25em .4em; font-size: 13.5px; white-space: normal; }
  td:first-child { overflow-wrap: anywhere; min-width: 9.5em; } }
"""

GLOSSARY = {
    "top-1": "percentage of the images whose true class is the best class",
    "agreement": "percentage of the images for which both choose the same class",
    "flip": "an image for which the two choose different classes",
    "near tie": "a flip for which the reference preferred its class by less than 10 points of probability",
    "95 % interval": "where the percentage lies if you measured many more images of the same kind",
    "calibration error": "how far scores are from the share of right predictions, in points; below 3 is good",
    "SQNR": "power of fp32's logits over the power of the error: 20 dB is an error of a tenth, 40 dB of a hundredth; "
    "25 dB and more is good for int8",
    "KL divergence": "how far the probabilities of the two are apart, in nats; below 0.01 on average is good",
    "p50": "latency that half of the calls do not exceed",
    "p99": "latency that 99 of 100 calls do not exceed; below twice p50 is good",
    "random weights": "no training: predictions mean nothing, but the latency is the trained model's",
}
"""What the terms of the pages mean, in a line each, and what is good."""

PACKAGES = ("numpy", "openvino", "onnxruntime", "torch", "timm")
"""Packages whose versions decide results."""


def page(title: str, sections: Iterable[str], *, style: str = "") -> str:
    """Render a page.

    Args:
        title: plain text.
        sections: HTML, in order.
        style: CSS beside the CSS of all pages.
    """
    escaped = html(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escaped}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{style}</style></head>\n'
        f"<body><h1>{escaped}</h1>\n" + "\n".join(sections) + f"\n{_footer()}</body></html>\n"
    )


def verdict(text: str) -> str:
    """Render the result in a sentence or two, which begins a page.

    Args:
        text: HTML.
    """
    return f'<p class="verdict">{text}</p>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Render a table that scrolls by itself where the page is narrow; its first column stays.

    Args:
        headings: HTML of each column.
        rows: HTML of each cell.
    """
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def term(name: str, shown: str = "") -> str:
    """Link a term to its line in the glossary of the page.

    Args:
        name: a key of ``GLOSSARY``.
        shown: plain text to show instead of the name.

    Raises:
        KeyError: the glossary lacks the term.
    """
    return f'<a href="#{_anchor(name)}" title="{html(GLOSSARY[name])}">{html(shown or name)}</a>'


def glossary(*names: str) -> str:
    """Render the meaning of some terms.

    Raises:
        KeyError: the glossary lacks a term.
    """
    lines = "".join(f'<dt id="{_anchor(name)}">{name}</dt><dd>{html(GLOSSARY[name])}</dd>' for name in names)
    return f"<h2>Terms</h2><dl>{lines}</dl>"


def _anchor(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _footer() -> str:
    """Render where and when the page was written, and with which versions."""
    taken = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    host = f"{processor_name()}, {usable_cpus()} CPUs, {platform.system()}"
    versions = ", ".join(f"{name} {number}" for name, number in _versions())
    return f"<footer>Written {taken} on {html(host)}. {html(versions)}.</footer>"


def _versions() -> Iterable[tuple[str, str]]:
    yield "vitedge", VERSION
    yield "Python", platform.python_version()
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            yield package, version(package)
