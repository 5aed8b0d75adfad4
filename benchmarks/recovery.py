"""How soon a stream delivers again when its camera is back.

    python benchmarks/recovery.py --page docs/runtime.md

Each fault happens many times to one stream with its default options. The time counts from the moment at which the
camera can be reached again to the first prediction of a frame that the camera took after it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common.pages import write_between

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from camera_servers.encoded_clip import EncodedClip  # noqa: E402
from camera_servers.encoding import encode, moving_pictures  # noqa: E402
from camera_servers.proxy import Proxy  # noqa: E402
from camera_servers.servers import RtspServer, missing_packages, rtsp_server  # noqa: E402
from camera_servers.watched import Watched  # noqa: E402

TARGET_SECONDS = 2.0
LONG = 8.0
"""Seconds of silence after which every stream has given up its connection."""
SHORT = 3.0
SLOW = 4.0
STEADY_PREDICTIONS = 15


@dataclass
class Camera:
    """A camera behind a proxy.

    Attributes:
        server: the camera.
        proxy: the proxy.
        clips: clips of two sizes; the camera sends the first.
    """

    server: RtspServer
    proxy: Proxy
    clips: list[EncodedClip]


def killed(camera: Camera) -> float:
    """Switch the camera off and on."""
    camera.server.kill()
    time.sleep(SHORT)
    camera.server.start()
    return time.monotonic()


def stopped(camera: Camera) -> float:
    """Stop the camera's program (SIGSTOP), and let it go on."""
    camera.server.stop()
    time.sleep(LONG)
    camera.server.resume()
    return time.monotonic()


def half_open(camera: Camera) -> float:
    """Forward nothing for a while; then forget the old connections, as a router that was started again."""
    camera.proxy.hold()
    time.sleep(LONG)
    camera.proxy.abandon()
    return time.monotonic()


def refused(camera: Camera) -> float:
    """Refuse connections for a while."""
    camera.proxy.refuse()
    time.sleep(SHORT)
    camera.proxy.listen()
    return time.monotonic()


def slow(camera: Camera) -> float:
    """Break the connection, and let the next ones wait for their answers."""
    camera.proxy.delay(SLOW)
    camera.proxy.reset()
    back = time.monotonic() + SLOW
    time.sleep(SLOW)
    camera.proxy.forward()
    return back


def resized(camera: Camera) -> float:
    """Switch the camera off and on; it comes back with another size."""
    camera.server.kill()
    time.sleep(SHORT)
    camera.clips.reverse()
    camera.server.start(mounts={"/cam": [str(camera.clips[0].path)]})
    return time.monotonic()


FAULTS: dict[str, Callable[[Camera], float]] = {
    "the camera is switched off and on": killed,
    "its program stops (SIGSTOP) and goes on": stopped,
    "the network forgets the connection (half-open)": half_open,
    "connections are refused": refused,
    f"answers take {SLOW:g} s": slow,
    "the camera comes back with another size": resized,
}


def main() -> int:
    """Measure, print, and write the page if there is one; 1 if a recovery took longer than the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50, help="of each fault")
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    if missing_packages():
        print(f"no RTSP server: {missing_packages()}", file=sys.stderr)
        return 1
    measured: dict[str, list[float]] = {}
    for name, fault in FAULTS.items():
        measured[name] = recoveries(fault, arguments.times)
        print(row(name, measured[name]), flush=True)
    text = table(measured)
    if arguments.page is not None:
        write_between(arguments.page, "recovery", text)
    return int(max(seconds for each in measured.values() for seconds in each) > TARGET_SECONDS)


def recoveries(fault: Callable[[Camera], float], times: int) -> list[float]:
    """Return the seconds of each recovery of one stream."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        large = encode(folder / "large", moving_pictures(300), gop=15)
        small = encode(folder / "small", moving_pictures(300, 160, 96), gop=15, first=300)
        server = rtsp_server(folder, {"/cam": [large]}, seconds=times * 60)
        opened.enter_context(server)
        proxy = opened.enter_context(Proxy(server.port))
        camera = Camera(server, proxy, [large, small])
        watched = opened.enter_context(Watched(server.url("/cam", port=proxy.port)))
        return [recovery(fault, camera, watched) for _ in range(times)]


def recovery(fault: Callable[[Camera], float], camera: Camera, watched: Watched) -> float:
    """Break a camera once, and return the seconds of the recovery."""
    watched.until_predictions(STEADY_PREDICTIONS)
    back = fault(camera)
    newest = slice(-STEADY_PREDICTIONS, None)
    watched.until(
        lambda: any(each.captured_ns / 1e9 > back for each in watched.predictions[newest]), "a fresh prediction"
    )
    return time.monotonic() - back


def table(measured: Mapping[str, Sequence[float]]) -> str:
    """Return the table of the page."""
    head = f"| fault | times | within {TARGET_SECONDS:g} s | median, s | longest, s |\n|---|---|---|---|---|"
    return "\n".join((head, *(row(name, seconds) for name, seconds in measured.items())))


def row(name: str, seconds: Sequence[float]) -> str:
    """Return a line of the table."""
    within = sum(each <= TARGET_SECONDS for each in seconds)
    return f"| {name} | {len(seconds)} | {within} | {np.median(seconds):.2f} | {max(seconds):.2f} |"


if __name__ == "__main__":
    sys.exit(main())
