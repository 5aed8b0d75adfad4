"""Starts, stops and kills the programs that send clips."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import ClassVar
from urllib.parse import quote

import pytest

from camera_servers.encoded_clip import EncodedClip
from camera_servers.send_times import SendTimes

FOLDER = Path(__file__).resolve().parent
SYSTEM_PYTHON = "/usr/bin/python3"
SYSTEM_PACKAGES = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
)
ELEMENTS = (
    "appsrc h264parse h265parse jpegparse rtph264pay rtph265pay rtpjpegpay rtppcmapay alawenc audiotestsrc identity"
)
START_SECONDS = 30.0
LIFE_SECONDS = 600.0
"""After which a server ends by itself, whatever became of its test."""


@cache
def missing_packages() -> str:
    """Say what an RTSP server lacks on this machine; empty if nothing."""
    probe = (
        "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')\n"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None)\n"
        f"print(*(each for each in {ELEMENTS.split()} if not Gst.ElementFactory.find(each)))"
    )
    if shutil.which(SYSTEM_PYTHON) is None:
        return f"there is no {SYSTEM_PYTHON}"
    found = subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, text=True)
    if found.returncode != 0:
        return found.stderr.strip().splitlines()[-1]
    return f"GStreamer lacks {found.stdout.strip()}" if found.stdout.strip() else ""


def skip_without_rtsp() -> None:
    """Skip the test where no RTSP server can be had."""
    if missing_packages():
        pytest.skip(f"no RTSP server: {missing_packages()}. fix: apt-get install {SYSTEM_PACKAGES}")


@dataclass(frozen=True)
class RtspOptions:
    """What ``rtsp_server.py`` is told.

    Attributes:
        mounts: clips by the path of their address, one after the other; no clip for sound without a picture.
        times: file of the table of send times.
        port: 0 for a free one.
        user: name that is asked for; empty for none.
        password: of the user.
        loss: share of the RTP packets that is lost, 0…1.
        seconds: life of the program.
    """

    mounts: Mapping[str, Sequence[str]]
    times: str
    port: int = 0
    user: str = ""
    password: str = ""
    loss: float = 0.0
    seconds: float = LIFE_SECONDS


@dataclass(frozen=True)
class WebOptions:
    """What ``web_server.py`` is told.

    Attributes:
        times: file of the table of send times.
        clips: live clips by the path of their address.
        files: files by the path of their address.
        datagrams: clips of MPEG-TS by the UDP port that they are sent to.
        port: 0 for a free one.
        user: name that is asked for; empty for none.
        password: of the user.
        certificate: file with a key and a certificate, to serve HTTPS; empty for HTTP.
        seconds: life of the program.
    """

    times: str
    clips: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    datagrams: Mapping[int, str] = field(default_factory=dict)
    port: int = 0
    user: str = ""
    password: str = ""
    certificate: str = ""
    seconds: float = LIFE_SECONDS


class Server:
    """A program that serves; leaving the context kills it.

    Attributes:
        port: the port that it listens on, which stays the same when it is started again.
        times: file of the table of send times.
        sent: when the frame of each number was due to be sent.
    """

    command: ClassVar[tuple[str, ...]]

    @property
    def scheme(self) -> str:
        """Of its addresses."""
        return "rtsp"

    def __init__(self, options: RtspOptions | WebOptions) -> None:
        self._options = options
        self.times = Path(options.times)
        self.sent = SendTimes(self.times)
        self.port = options.port
        self.start()

    def start(self, **changes: object) -> None:
        """Start the program with other options, and wait until it listens."""
        options = json.dumps({**asdict(self._options), "port": self.port, **changes})
        self._child = subprocess.Popen(
            [*self.command, options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment()
        )
        assert self._child.stdout is not None
        said = self._child.stdout.readline()
        assert said, f"{self.command[-1]} ended with {self._child.wait(START_SECONDS)}"
        self.port = int(said)

    def kill(self) -> None:
        """End the program at once, as a power cut does; a second call does nothing."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                stream.close()

    def stop(self) -> None:
        """Stop the program, which keeps its connections and says nothing."""
        os.kill(self._child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a stopped program go on."""
        os.kill(self._child.pid, signal.SIGCONT)

    def url(self, path: str, *, user: str = "", password: str = "", port: int | None = None) -> str:
        """Return an address of the server, with escaped user and password, or of a proxy's port before it."""
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        return f"{self.scheme}://{login}127.0.0.1:{port or self.port}{path}"

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        with contextlib.suppress(BufferError):
            self.sent.close()


class RtspServer(Server):
    """``rtsp_server.py``."""

    command = (SYSTEM_PYTHON, str(FOLDER / "rtsp_server.py"))


class WebServer(Server):
    """``web_server.py``."""

    command = (sys.executable, str(FOLDER / "web_server.py"))

    @property
    def scheme(self) -> str:
        """``https`` with a certificate."""
        assert isinstance(self._options, WebOptions)
        return "https" if self._options.certificate else "http"


def rtsp_server(
    folder: Path,
    mounts: Mapping[str, Sequence[EncodedClip]],
    *,
    user: str = "",
    password: str = "",
    loss: float = 0.0,
    seconds: float = LIFE_SECONDS,
) -> RtspServer:
    """Start an RTSP server; ``folder`` keeps its table of send times."""
    paths = {mount: [str(clip.path) for clip in clips] for mount, clips in mounts.items()}
    times = str(folder / f"times-{time.monotonic_ns()}")
    return RtspServer(RtspOptions(paths, times, user=user, password=password, loss=loss, seconds=seconds))


def web_server(folder: Path, **options: object) -> WebServer:
    """Start a web server with fields of ``WebOptions``; ``folder`` keeps its table of send times."""
    return WebServer(WebOptions(str(folder / f"times-{time.monotonic_ns()}"), **options))  # type: ignore[arg-type]


def _environment() -> dict[str, str]:
    """The test's environment without its Python, which the system's Python does not share."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
