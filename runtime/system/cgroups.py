"""The limits that control groups set for this process: what containers and systemd's services may use.

A process is in one group of each hierarchy. The limits of all groups above it hold as well, so the tightest counts.
Version 2 has one hierarchy, version 1 has one per controller, and a system may have both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
MOUNTED = "sys/fs/cgroup"
"""Where the hierarchies are mounted if the system does not say it."""
UNLIMITED_BYTES = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit."""


@dataclass(frozen=True)
class CpuLimit:
    """What control groups leave of the processors.

    Attributes:
        quota: processor time per time, such as 1.5; None if it is not limited.
        cpus: number of processors of the group's set; None if it has none of its own.
    """

    quota: float | None
    cpus: int | None


@dataclass(frozen=True)
class MemoryLimit:
    """What control groups leave of the memory.

    Attributes:
        limit: the smallest limit in bytes; None if it is not limited.
        available: bytes until the first limit is reached, if files are dropped from the page cache; None without limit.
    """

    limit: int | None
    available: int | None


def cpu_limit(root: Path = ROOT) -> CpuLimit:
    """Read the quota and the set of processors.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    quotas = [quota for group in _groups(root, "cpu") if (quota := _quota(group)) is not None]
    sets = [count for group in _groups(root, "cpuset") if (count := _set_size(group)) is not None]
    return CpuLimit(min(quotas, default=None), min(sets, default=None))


def memory_limit(root: Path = ROOT) -> MemoryLimit:
    """Read the memory limit and what is left of it.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    limited = [(limit, group) for group in _groups(root, "memory") if (limit := _memory(group)) is not None]
    return MemoryLimit(
        limit=min((limit for limit, _ in limited), default=None),
        available=min((max(0, limit - _in_use(group)) for limit, group in limited), default=None),
    )


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's groups that may hold files of a controller, each with those above it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield from _upwards(root, path, ("cgroup2", ""), (MOUNTED, f"{MOUNTED}/unified"))
        elif controller in controllers.split(","):
            standard = (f"{MOUNTED}/{controllers}", f"{MOUNTED}/{controller}")
            yield from _upwards(root, path, ("cgroup", controller), standard)


def _upwards(root: Path, path: str, kind: tuple[str, str], standard: tuple[str, ...]) -> Iterator[Path]:
    """Yield the folder of a group and those above it, up to the mount point."""
    mounts = _mounts(root, *kind) or [(root / each, "/") for each in standard]
    for mount, shown in mounts:
        yield mount
        below = path[len(shown.rstrip("/")) :] if _is_below(path, shown) else ""
        folder = mount
        for name in below.split("/"):
            if name in ("", ".", ".."):  # ".." leads out of a namespace, to groups that cannot be seen
                continue
            folder /= name
            yield folder


def _is_below(path: str, shown: str) -> bool:
    return f"{path.rstrip('/')}/".startswith(f"{shown.rstrip('/')}/")


def _mounts(root: Path, kind: str, controller: str) -> list[tuple[Path, str]]:
    """Return the mount points of a hierarchy, and which of its groups is mounted there; from ``mountinfo``."""
    found = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, described = before.split(), after.split()
        if len(fields) < 5 or len(described) < 3 or described[0] != kind:
            continue
        if not controller or controller in described[2].split(","):
            found.append((root / _unescaped(fields[4]).lstrip("/"), _unescaped(fields[3])))
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _quota(group: Path) -> float | None:
    """Return the processors that a group may use; None if it is not limited."""
    quota, _, period = _text(group / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    microseconds, each = _number(quota), _number(period)
    return microseconds / each if microseconds and each else None


def _set_size(group: Path) -> int | None:
    names = ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus")
    text = next((text for name in names if (text := _text(group / name).strip())), "")
    ranges = re.findall(r"(\d+)(?:-(\d+))?", text)
    return sum(int(last or first) - int(first) + 1 for first, last in ranges) or None


def _memory(group: Path) -> int | None:
    """Return the memory limit of a group; beyond ``memory.high`` the kernel slows its processes down to a crawl."""
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    limits = [limit for name in names if (limit := _number(_text(group / name))) is not None]
    return min((limit for limit in limits if limit < UNLIMITED_BYTES), default=None)


def _in_use(group: Path) -> int:
    """Return the memory that a group uses, without the files that the kernel drops first."""
    used = _number(_text(group / "memory.current") or _text(group / "memory.usage_in_bytes")) or 0
    counts = dict(re.findall(r"^(\w+) (\d+)$", _text(group / "memory.stat"), re.MULTILINE))
    return used - int(counts.get("total_inactive_file") or counts.get("inactive_file") or 0)


def _number(text: str) -> int | None:
    """Return a count; None for ``max``, ``-1`` and text that is no number."""
    return int(text) if text.strip().isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
