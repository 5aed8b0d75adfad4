"""When and where something was measured."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import datetime, timezone

from vitedge.runtime.system.machine import machine_state, processor_name


@dataclass(frozen=True)
class Taken:
    """When and where something was measured.

    Attributes:
        date: ``YYYY-MM-DD``.
        processor: its name.
        cpus: number of processors that the benchmark could use.
        python: version of Python.
    """

    date: str
    processor: str
    cpus: int
    python: str


def taken_now() -> Taken:
    """Describe a measurement on this machine, today."""
    today = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    return Taken(today, processor_name(), machine_state().cpus, platform.python_version())


def load_now() -> str:
    """Return the load average of the last minute, with one digit; ``unavailable`` if it cannot be read."""
    load = machine_state().load_average
    return load if isinstance(load, str) else f"{load:.1f}"
