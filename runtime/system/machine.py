"""The processor, memory and load of this machine; a value that cannot be read is ``unavailable``."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from vitedge.runtime.system.cgroups import ROOT, cpu_limit, memory_limit
from vitedge.threads import allowed_threads

UNAVAILABLE = "unavailable"

CPUINFO = Path("/proc/cpuinfo")
CPUFREQ = Path("/sys/devices/system/cpu")
KIBIBYTE = 1024

_NAME_KEYS = ("model name", "Model", "Hardware")


@dataclass(frozen=True)
class MachineState:
    """The state of the machine that affects its latencies from day to day.

    Attributes:
        governors: the active CPU frequency governors, sorted and joined by commas.
        load_average: average number of processes that ran or waited during the last minute.
        cpus: number of processors that this process may use, as in ``usable_cpus``.
    """

    governors: str
    load_average: float | str
    cpus: int


@dataclass(frozen=True)
class Memory:
    """Memory that this process may use, in bytes; None if it cannot be read.

    Attributes:
        total: memory of the machine.
        available: what can be allocated without swapping, and without reaching the limit.
        limit: the tightest limit of the control groups, as of a container or a service; None if there is none.
        swap: free swap; 0 if there is a limit, because swap does not raise it.
    """

    total: int | None
    available: int | None
    limit: int | None = None
    swap: int = 0


def read_memory(root: Path = ROOT) -> Memory:
    """Read the memory from ``/proc/meminfo``, and the limit of the control groups.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    lines = re.findall(r"^(\w+):\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    sizes = {key: int(kib) * KIBIBYTE for key, kib in lines}
    limited = memory_limit(root)
    free = [size for size in (sizes.get("MemAvailable"), limited.available) if size is not None]
    swap = sizes.get("SwapFree", 0) if limited.limit is None else 0
    return Memory(sizes.get("MemTotal"), min(free, default=None), limited.limit, swap)


def resident_bytes(root: Path = ROOT) -> int:
    """Return the memory that this process holds now; 0 if it cannot be read."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", _read(root / "proc/self/status"), re.MULTILINE)
    return int(found[1]) * KIBIBYTE if found else 0


def usable_cpus(root: Path = ROOT) -> int:
    """Return the number of threads that can compute at once: processors that this process may use, 1 or more.

    That is the least of its affinity, the set of its control group, and the whole processors in its quota. A thread
    more than those would use the quota up before its period ends, and every thread would then wait for the next one.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    limited = cpu_limit(root)
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    counts += [] if limited.cpus is None else [limited.cpus]
    counts += [] if limited.quota is None else [int(limited.quota)]
    return max(1, min(counts))


def threads_for_engine(asked: int | None) -> int | None:
    """Return the number of threads to give to an inference library: as asked, or else as many as are allowed.

    Returns:
        None if this process may use the whole machine: the library then decides. No library reads quotas.
    """
    asked = allowed_threads() if asked is None else asked
    usable = usable_cpus()
    if asked is not None or usable >= (os.cpu_count() or 1):
        return asked
    return min(usable, _cores(CPUFREQ) or usable)


def _cores(folder: Path) -> int:
    """Return the number of physical cores of the machine; 0 if the kernel does not say it."""
    return len({_read(path).strip() for path in folder.glob("cpu[0-9]*/topology/thread_siblings_list")} - {""})


def processor_name() -> str:
    """Return the name of the processor from the kernel, or else the instruction set."""
    facts = _cpuinfo(CPUINFO)
    return next((facts[key] for key in _NAME_KEYS if key in facts), platform.processor() or platform.machine())


def machine_state() -> MachineState:
    """Read the governors, the load and the number of processors."""
    return MachineState(governors=_governors(CPUFREQ), load_average=_load_average(), cpus=usable_cpus())


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


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
