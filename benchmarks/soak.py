"""Streams that run long: ``python benchmarks/soak.py --page docs/runtime.md``.

A million frames as fast as they are taken, half under each policy; then a camera by RTSP that is switched off and on
again every few minutes. After the warm-up, the first tenth, resident memory may grow by less than 5 MB, the numbers of
threads and descriptors stay as they are, and every captured frame is a prediction or was dropped by a cause.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.pages import write_between

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from camera_servers.encoding import encode, moving_pictures  # noqa: E402
from camera_servers.servers import RtspServer, missing_packages, rtsp_server  # noqa: E402
from endurance.soak import Soaked, soak_camera, soak_frames  # noqa: E402

FRAMES = 1_000_000
LEAST_FRAMES = 200
"""With fewer, a run may end before its memory is read."""
MINUTES = 30.0
OFF_SECONDS = 3.0
MOST_GROWTH_MB = 5.0


def main() -> int:
    """Run, print, and write the page if there is one; 1 if a run is missing, or anything grew or was not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=FRAMES, help="of the fast engine; 0 for none")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of RTSP; 0 for none")
    parser.add_argument("--restarts", type=int, default=9, help="of the camera")
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    missing = why_not(arguments.frames, arguments.minutes)
    if missing:
        print(missing, file=sys.stderr)
        return 1
    runs = {}
    fast = (("`latest`, a live source", True), ("`every`, a file", False))
    for name, live in fast if arguments.frames else ():
        runs[name] = soak_frames(arguments.frames // 2, live=live)
        print(row(name, runs[name]), flush=True)
    if arguments.minutes:
        name = f"RTSP, 30 frames/s, {arguments.minutes:g} minutes, {arguments.restarts} restarts of the camera"
        runs[name] = camera(60 * arguments.minutes, arguments.restarts)
    text = table(runs)
    print(text)
    if arguments.page is not None:
        write_between(arguments.page, "soak", text)
    return int(not all(is_flat(each) for each in runs.values()))


def why_not(frames: int, minutes: float) -> str:
    """Say why the runs that are asked for cannot be made; empty if they can."""
    if not frames and not minutes:
        return "nothing to run: both --frames and --minutes are 0"
    if frames and frames < LEAST_FRAMES:
        return f"--frames {frames} is too few: at least {LEAST_FRAMES}, half under each policy, or 0 for none"
    lacks = missing_packages() if minutes else ""
    return f"no RTSP server: {lacks}; --minutes 0 runs without" if lacks else ""


def camera(seconds: float, restarts: int) -> Soaked:
    """Run a stream of a camera that is switched off and on again."""
    with tempfile.TemporaryDirectory() as folder:
        clip = encode(Path(folder) / "clip", moving_pictures(300))
        with rtsp_server(Path(folder), {"/cam": [clip]}, seconds=seconds + 600) as server:
            over = threading.Event()
            switch = threading.Thread(target=switch_off_and_on, args=(server, seconds / (restarts + 1), restarts, over))
            switch.start()
            try:
                return soak_camera(server.url("/cam"), seconds)
            finally:
                over.set()
                switch.join()


def switch_off_and_on(server: RtspServer, every: float, times: int, over: threading.Event) -> None:
    """Kill a server, and start it again after a while."""
    for _ in range(times):
        if over.wait(every - OFF_SECONDS):
            return
        server.kill()
        over.wait(OFF_SECONDS)
        server.start()


def is_flat(soaked: Soaked) -> bool:
    """Decide whether nothing grew, and every frame is counted. A camera that is off costs threads for a while."""
    first, last = soaked.footprints[0], soaked.footprints[-1]
    grew = last.threads > first.threads or last.descriptors > first.descriptors
    return soaked.is_exact and soaked.growth_mb < MOST_GROWTH_MB and not grew


def table(runs: Mapping[str, Soaked]) -> str:
    """Return the table of the page."""
    columns = (
        *("run", "captured", "predicted", "dropped", "counts"),
        *("RSS after warm-up", "growth", "threads", "descriptors", "minutes"),
    )
    head = (f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}")
    return "\n".join((*head, *(row(name, each) for name, each in runs.items())))


def row(name: str, soaked: Soaked) -> str:
    """Return a line of the table."""
    stats, first = soaked.stats, soaked.footprints[0]
    cells = (
        name,
        f"{stats.captured:,}",
        f"{stats.predicted:,}",
        ", ".join(f"{count:,} {cause}" for cause, count in stats.dropped.items() if count) or "0",
        "exact" if soaked.is_exact else "WRONG",
        f"{first.megabytes:.0f} MB",
        f"{soaked.growth_mb:+.1f} MB",
        spread([each.threads for each in soaked.footprints]),
        spread([each.descriptors for each in soaked.footprints]),
        f"{soaked.seconds / 60:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def spread(numbers: Sequence[int]) -> str:
    """Return a number, or the least and the most."""
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


if __name__ == "__main__":
    sys.exit(main())
