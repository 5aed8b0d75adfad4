"""Chromium, which says what it makes of a video or of a page.

Of a video: its size, its duration, and the colour of a place in it at a time. Of a page: what is wider than its window,
which labels of a plot cover each other or are cut off, which words of a table are broken, and whether its video can be
played.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue

import pytest

PATIENCE = 90.0
VIDEO = """<!doctype html><video id="video" muted preload="auto" src="/file"></video><script>
const video = document.getElementById("video");
const times = %s;
const report = (said) => fetch("/report", {method: "POST", body: JSON.stringify(said)});
const event = (name) => new Promise((done, failed) => {
  video.addEventListener(name, done, {once: true});
  video.addEventListener("error", () => failed(new Error(video.error.message)), {once: true});
});
const colour = () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  return [...context.getImageData(canvas.width - 9, canvas.height - 9, 1, 1).data.slice(0, 3)];
};
(async () => {
  if (video.readyState < 2) await event("loadeddata");
  const colours = [];
  for (const time of times) {
    const sought = event("seeked");
    video.currentTime = time;
    await sought;
    colours.push(colour());
  }
  const {videoWidth: width, videoHeight: height, duration} = video;
  await report({width, height, duration, colours});
})().catch((error) => report({error: String(error)}));
</script>"""
LAYOUT = """<!doctype html><body><script>
const report = (said) => fetch("/report", {method: "POST", body: JSON.stringify(said)});
const event = (target, name) => new Promise((done) => target.addEventListener(name, done, {once: true}));
const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
const collisions = (svg) => {
  const texts = [...svg.querySelectorAll("text")].map((each) => [each.textContent, each.getBoundingClientRect()]);
  const found = [];
  texts.forEach(([one, box], at) => texts.slice(at + 1).forEach(([other, second]) => {
    if (meet(box, second)) found.push(`${one} | ${other}`);
  }));
  return found;
};
const cut = (svg) => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((each) => {
    const box = each.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
      || box.bottom > frame.bottom + 1;
  }).map((each) => each.textContent);
};
const broken = (document) => [...document.querySelectorAll("td, th")].flatMap((cell) => {
  const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), found = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    for (const word of node.data.matchAll(/[^\\s-]+/g)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].map((box) => box.top));
      if (lines.size > 1 && word[0].length <= 12) found.push(word[0]);
    }
  }
  return found;
});
const looked = async (width) => {
  const frame = document.createElement("iframe");
  Object.assign(frame.style, {width: `${width}px`, height: "900px", border: "0"});
  frame.src = "/file";
  document.body.append(frame);
  await event(frame, "load");
  const inner = frame.contentDocument, plots = [...inner.querySelectorAll("svg")];
  const video = inner.querySelector("video");
  if (video) { video.load(); await Promise.race([event(video, "loadeddata"), event(video, "error")]); }
  const text = [...inner.querySelectorAll("svg text")].map((each) => parseFloat(getComputedStyle(each).fontSize)
    * each.ownerSVGElement.getBoundingClientRect().width / each.ownerSVGElement.viewBox.baseVal.width);
  return {
    width, content: inner.documentElement.scrollWidth, collisions: plots.flatMap(collisions), broken: broken(inner),
    cut: plots.flatMap(cut), letters: text.length ? Math.min(...text) : null,
    seconds: video && video.readyState >= 2 ? video.duration : null,
  };
};
(async () => {
  const found = [];
  for (const width of %s) found.push(await looked(width));
  await report({found});
})().catch((error) => report({error: String(error)}));
</script>"""


@dataclass(frozen=True)
class Seen:
    """A video as the browser plays it.

    Attributes:
        width: columns.
        height: rows.
        duration: seconds.
        colours: at each time, red, green and blue of the pixel 9 columns and rows from the lower right corner.
    """

    width: int
    height: int
    duration: float
    colours: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Layout:
    """A page in a window of some width, in pixels.

    Attributes:
        width: of the window.
        content: width of the page, which is larger if something sticks out.
        collisions: labels of plots that cover each other.
        broken: words of tables that go on in the next line.
        cut: labels of plots that are not wholly within their plot.
        letters: height of the smallest letters of plots; None without plots.
        seconds: duration of the page's video; None if there is none that plays.
    """

    width: int
    content: int
    collisions: list[str]
    broken: list[str]
    cut: list[str]
    letters: float | None
    seconds: float | None


def seen_by_chromium(path: Path, times: Sequence[float]) -> Seen:
    """What Chromium sees at some times of a video; the test skips where there is no Chromium, and fails on an error."""
    report = _report_of_chromium(path, VIDEO % json.dumps(list(times)), "application/octet-stream")
    colours = tuple(tuple(each) for each in report["colours"])
    return Seen(report["width"], report["height"], report["duration"], colours)


def laid_out_by_chromium(path: Path, widths: Sequence[int] = (1280, 390)) -> list[Layout]:
    """How Chromium lays out a page in windows of some widths; skips and fails like ``seen_by_chromium``."""
    report = _report_of_chromium(path, LAYOUT % json.dumps(list(widths)), "text/html; charset=utf-8")
    return [Layout(**each) for each in report["found"]]


def check_layout(path: Path) -> list[Layout]:
    """Check that a page is readable in a wide and in a narrow window."""
    layouts = laid_out_by_chromium(path)
    for layout in layouts:
        assert layout.content <= layout.width, layout
        assert (layout.collisions, layout.broken, layout.cut) == ([], [], []), layout
        assert layout.letters is None or layout.letters >= 9.5, layout
    return layouts


def _report_of_chromium(path: Path, page: str, kind: str) -> dict:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed")
    said: Queue[dict] = Queue()
    with (
        _served(path, kind, page, said) as address,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
        browser = subprocess.Popen(
            [chromium, *options, f"--user-data-dir={profile}", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            report = said.get(timeout=PATIENCE)
        except Empty:
            pytest.fail(f"Chromium said nothing about {path.name} for {PATIENCE:g} s")
        finally:
            browser.terminate()
            browser.wait()
    assert "error" not in report, report
    return report


@contextmanager
def _served(path: Path, kind: str, page: str, said: Queue[dict]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/file" and "Range" in self.headers:
                self._send_part(path.read_bytes())
            elif self.path == "/file":
                self._send(200, kind, path.read_bytes())
            else:
                self._send(200 if self.path == "/" else 404, "text/html", page.encode())

        def do_POST(self) -> None:
            said.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._send(200, "text/plain", b"")

        def _send_part(self, content: bytes) -> None:
            asked = self.headers["Range"].removeprefix("bytes=").partition("-")
            begin, end = int(asked[0]), int(asked[2] or len(content) - 1)
            part = f"bytes {begin}-{end}/{len(content)}"
            self._send(206, kind, content[begin : end + 1], {"Content-Range": part})

        def _send(self, code: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for name, value in {
                "Content-Type": kind,
                "Content-Length": str(len(body)),
                "Accept-Ranges": "bytes",
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:  # the browser has what it wants
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
