"""The frame of every page: its title is text, and a browser lets it run and load nothing."""

from __future__ import annotations

from html.parser import HTMLParser

from vitedge.report.page import page


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
    assert head.tags == ["html", "head", "meta", "meta", "title", "meta", "style", "body", "h1", "p"]
    assert head.policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert head.texts.count(r"</title><script>alert(1)</script>\x1b[2J") == 2
