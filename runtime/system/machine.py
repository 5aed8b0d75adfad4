"""The processor, memory and load of this machine; a value that cannot be read is ``unavailable``."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

UNAVAILABLE = "unavailable"

CPUINFO = Path("/proc/cpuinfo")
CPUFREQ = Path("/sys/devices/system/cpu")
MEMINFO = Path("/proc/meminfo")
KIBIBYTE = 1024

_NAME_KEYS = ("model name", "Model", "Hardware")


@dataclass(frozen=True)
class MachineState:
    """The state of the machine that affects its latencies from day to day.

    Attributes:
        governors: the active CPU frequency governors, sorted and joined by commas.
        load_average: average number of processes that ran or waited during the last minute.
        cpus: number of processors that this process may use.
    """

    governors: str
    load_average: float | str
    cpus: int


@dataclass(frozen=True)
class Memory:
    """Memory of the machine in bytes; None if it cannot be read."""

    total: int | None
    available: int | None


def read_memory(path: Path = MEMINFO) -> Memory:
    """Read the total and available memory from ``/proc/meminfo``."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB", _read(path), re.MULTILINE)
    sizes = {key: int(kib) * KIBIBYTE for key, kib in lines}
    return Memory(total=sizes.get("MemTotal"), available=sizes.get("MemAvailable"))


def processor_name() -> str:
    """Return the name of the processor from the kernel, or else the instruction set."""
    facts = _cpuinfo(CPUINFO)
    return next((facts[key] for key in _NAME_KEYS if key in facts), platform.processor() or platform.machine())


def machine_state() -> MachineState:
    """Read the governors, the load and the number of processors."""
    return MachineState(governors=_governors(CPUFREQ), load_average=_load_average(), cpus=_usable_cpus())


def _cpuinfo(path: Path) -> dict[str, str]:
    """Parse the first value of each key."""
    facts: dict[str, str] = {}
    for line in _read(path).splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts


def _governors(folder: Path) -> str:
    found = {_read(path).strip() for path in folder.glob("cpu*/cpufreq/scaling_governor")} - {""}
    return ", ".join(sorted(found)) or UNAVAILABLE


def _load_average() -> float | str:
    try:
        return os.getloadavg()[0]
    except OSError:
        return UNAVAILABLE


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
