"""Runs seeds of chaos in a program of its own, and counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from endurance.chaos import drawn

WORKER = Path(__file__).resolve().parent / "chaos_worker.py"
SECONDS = 60.0
"""Bound of a run on a machine that is busy."""


@dataclass(frozen=True)
class ChaosResult:
    """What became of a run.

    Attributes:
        seed: its seed.
        problems: what was not clean; empty if all was.
        seconds: how long it took, to the end of its process.
    """

    seed: int
    problems: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        return "\n".join((f"seed {self.seed}: {drawn(self.seed)}", *self.problems))


def campaign(first: int, count: int, *, seconds: float = SECONDS) -> Iterator[ChaosResult]:
    """Run some seeds, one after the other, and yield what became of each."""
    command = [sys.executable, str(WORKER), str(first), str(count), str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            said = json.loads(line)
            yield ChaosResult(said["seed"], tuple(said["problems"]), said["seconds"])
    if worker.returncode != 0:
        raise RuntimeError(f"the worker of chaos ended with {worker.returncode}")
