"""Pages of the documentation site that are made when it is built: a hook of MkDocs.

The README and its neighbours become pages, and their links lead to other pages. The parser gives the page of commands,
and docstrings give the Python reference.
"""

from __future__ import annotations

import argparse
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import vitedge
from vitedge.cli import VERBS, build_parser

ROOT = Path(__file__).resolve().parents[2]
COPIED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security-policy.md",
}
"""Pages that lie in the root of the repository, and their names on the site."""

COMMANDS = "commands.md"
"""The page that the help of each command is added to."""

_LINK = re.compile(r"\[([^\[\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for source, name in COPIED.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text("utf-8")))
    files.append(File.generated(config, "python.md", content="\n".join(python())))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Turn links between files of the repository into links between pages; other files are named instead."""
    copied = {name: source for source, name in COPIED.items()}
    folder = posixpath.dirname(copied.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def turned(match: re.Match[str]) -> str:
        text, path, anchor = match[1], posixpath.normpath(posixpath.join(folder, match[2])), match[3] or ""
        if path not in COPIED and not path.startswith("docs/"):
            return f"{text} (`{path}`)"
        shown = _title(path) if text == path else text
        return f"[{shown}]({COPIED.get(path, path.removeprefix('docs/'))}{anchor})"

    whole = markdown if page.file.src_uri != COMMANDS else "\n".join([markdown, *commands()])
    return _LINK.sub(turned, whole)


def _title(path: str) -> str:
    return (ROOT / path).read_text("utf-8").partition("\n")[0].removeprefix("# ")


def commands() -> Iterator[str]:
    """Yield the help of each command."""
    parser, _ = build_parser()
    verbs = next(each for each in parser._actions if isinstance(each, argparse._SubParsersAction)).choices
    for name in VERBS:
        yield f"## {name}\n\n```text\n{verbs[name].format_help()}```\n"


MODULES = ("outputs", "testing")
GROUPS = {
    "Functions": "Each command of the command line is a function of its name.",
    "Classes": "Results, options and everything that a camera app holds.",
    "Errors": "All errors that vitedge explains are `VitedgeError`s.",
}


def python() -> Iterator[str]:
    """Yield the lines of the Python reference."""
    names = [name for name in vitedge.__all__ if not name.startswith("_")]
    grouped = dict.fromkeys(GROUPS, "")
    for name in names:
        if name not in (*MODULES, "errors"):
            grouped[_group(name)] += f"::: vitedge.{name}\n\n"
    yield "# Python\n\n```python\nimport vitedge\n```\n"
    for title, members in grouped.items():
        yield f"## {title}\n\n{GROUPS[title]}\n\n{members}"
    for module in MODULES:
        yield f"## vitedge.{module}\n\n::: vitedge.{module}\n    options: {{show_root_heading: false}}\n"


def _group(name: str) -> str:
    return "Errors" if name.endswith("Error") else "Functions" if name.islower() else "Classes"
