"""The cold start: how long a fresh process takes to its first prediction."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vitedge.safety import child

COLD_START_TIMEOUT = 300.0

COLD_START = """\
import sys
import time
stamps = [time.perf_counter_ns()]
from vitedge.runtime.load import load
import numpy
stamps.append(time.perf_counter_ns())
path, engine, threads, height, width = sys.argv[1:]
classifier = load(path, engine=engine or None, threads=int(threads) or None)
stamps.append(time.perf_counter_ns())
frame = numpy.zeros((int(height), int(width), 3), numpy.uint8)
before = time.perf_counter_ns()
classifier.classify(frame)
stamps.append(stamps[-1] + time.perf_counter_ns() - before)
print([later - earlier for earlier, later in zip(stamps, stamps[1:])])
"""


@dataclass(frozen=True)
class ColdStart:
    """Milliseconds of a fresh process, from its first import to its first prediction.

    Attributes:
        import_ms: import of the runtime and numpy.
        load_ms: hashes, import of the engine's library, compilation, and the self-test unless its result is cached.
        first_ms: the first prediction.
    """

    import_ms: float
    load_ms: float
    first_ms: float

    @property
    def total_ms(self) -> float:
        """Return the sum of the three parts."""
        return self.import_ms + self.load_ms + self.first_ms


def cold_start(
    path: Path, frame_size: tuple[int, ...], *, engine: str | None = None, threads: int | None = None
) -> ColdStart | None:
    """Time a fresh Python process from import to first prediction; None if the process fails.

    A machine that has just booted is slower, because the bundle's files are not in the system's cache yet.
    """
    height, width = frame_size
    arguments = [str(path), engine or "", str(threads or 0), str(height), str(width)]
    try:
        done = subprocess.run(
            child.code_command(COLD_START, *arguments),
            env=child.environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=COLD_START_TIMEOUT,
        )
        nanoseconds = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return ColdStart(*(each / 1e6 for each in nanoseconds))
