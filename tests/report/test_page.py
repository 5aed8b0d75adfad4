"""The frame of every page: its title is text, and a browser lets it run and load nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vitedge.report.page import GLOSSARY, glossary, page, term
from vitedge.version import VERSION


class Head(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.policy = ""
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"] or ""

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_title_is_text_and_nothing_is_run_or_loaded() -> None:
    head = Head()
    head.feed(page("</title><script>alert(1)</script>\x1b[2J", ["<p>section</p>"]))
    assert head.tags == ["html", "head", "meta", "meta", "title", "meta", "style", "body", "h1", "p", "footer"]
    assert head.policy == "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    assert head.texts.count(r"</title><script>alert(1)</script>\x1b[2J") == 2


def test_a_page_says_where_and_when_it_was_written_and_with_what() -> None:
    (footer,) = re.findall("<footer>(.*?)</footer>", page("a", []))
    assert re.search(r"Written 20\d\d-\d\d-\d\d \d\d:\d\d UTC on .+, \d+ CPUs, ", footer)
    assert f"vitedge {VERSION}, Python 3" in footer
    assert "numpy " in footer


def test_terms_lead_to_their_lines_and_others_are_refused() -> None:
    for name in GLOSSARY:
        (anchor,) = re.findall(r'href="#([a-z0-9-]+)"', term(name))
        assert f'<dt id="{anchor}">{name}</dt>' in glossary(name)
    with pytest.raises(KeyError):
        glossary("loudness")


def test_every_term_is_explained_on_the_page_of_results() -> None:
    results = (Path(__file__).resolve().parents[2] / "docs" / "results.md").read_text("utf-8").lower()
    assert [name for name in GLOSSARY if name.lower() not in results] == []
