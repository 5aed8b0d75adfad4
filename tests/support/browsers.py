"""Chromium, which says what it makes of a video: size, duration, and the colour of a place in it at a time."""

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
PAGE = """<!doctype html><video id="video" muted preload="auto" src="/video"></video><script>
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


def seen_by_chromium(path: Path, times: Sequence[float]) -> Seen:
    """What Chromium sees at some times of a video; the test skips where there is no Chromium, and fails on an error."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed")
    said: Queue[dict] = Queue()
    with (
        _served(path, PAGE % json.dumps(list(times)), said) as address,
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
    colours = tuple(tuple(each) for each in report["colours"])
    return Seen(report["width"], report["height"], report["duration"], colours)


@contextmanager
def _served(path: Path, page: str, said: Queue[dict]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/video":
                self._send_part(path.read_bytes())
            else:
                self._send(200 if self.path == "/" else 404, "text/html", page.encode())

        def do_POST(self) -> None:
            said.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._send(200, "text/plain", b"")

        def _send_part(self, content: bytes) -> None:
            asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            begin, end = int(asked[0]), int(asked[2] or len(content) - 1)
            part = f"bytes {begin}-{end}/{len(content)}"
            self._send(206, "application/octet-stream", content[begin : end + 1], {"Content-Range": part})

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
