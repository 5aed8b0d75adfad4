"""Restrictions that a child process imposes on itself: before it imports libraries, and before it reads files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import resource
import struct
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitedge.safety import landlock, seccomp

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9
_CAPABILITIES_3 = 0x20080522
_KEPT_CAPABILITIES = 1 << 1 | 1 << 2
"""Access to files of other users, which Landlock restricts; root in a container needs it for mounted files."""
_CAPSET = {"x86_64": 126, "aarch64": 91}
OPEN_FILES = 512

_SYSTEM_FILES = (
    "/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime",
    "/usr/share/zoneinfo", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version",
    "/proc/sys/vm", "/sys/devices/system", "/sys/fs/cgroup", "/dev/null", "/dev/zero", "/dev/urandom",
)  # fmt: skip


@dataclass(frozen=True)
class Restrictions:
    """Restrictions that a kernel offers, beside the parent's limits on time and memory.

    Attributes:
        limits: the kernel limits memory, processor time and size of files.
        seccomp: no network, no programs, no other processes.
        landlock: writing only in one folder, reading only of libraries and named files.
    """

    limits: bool
    seccomp: bool
    landlock: bool


def available() -> Restrictions:
    """Return the restrictions that this machine's kernel offers."""
    return Restrictions(
        limits=sys.platform.startswith("linux"), seccomp=seccomp.is_available(), landlock=landlock.version() > 0
    )


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent's thread ends; exit at once if the parent has ended."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def forbid_writing(folder: Path) -> bool:
    """Take the first step, while there is one thread: no privileges, programs, TCP or writing outside a folder.

    Returns:
        Whether Landlock applies; privileges are dropped in any case.
    """
    _drop_capabilities()
    return landlock.forbid_writing(folder)


def restrict(readable: Sequence[Path], *, memory_bytes: int, seconds: float, file_bytes: int) -> None:
    """Take the second step, after the libraries are imported: restrict reading, network, processes and resources.

    Args:
        readable: files and folders that may be read, beside Python's own.
        memory_bytes: memory above the current use.
        seconds: processor time on each core, above the current use.
        file_bytes: greatest size of a file.
    """
    landlock.forbid_reading([*readable, *_software(), *map(Path, _SYSTEM_FILES)])
    _limit(memory_bytes, seconds, file_bytes)
    seccomp.apply()


def _drop_capabilities() -> None:
    """Give up all capabilities except root's access to files of other users."""
    number = _CAPSET.get(os.uname().machine) if sys.platform.startswith("linux") else None
    if number is None:
        return
    header = struct.pack("Ii", _CAPABILITIES_3, 0)
    kept = _effective_capabilities() & _KEPT_CAPABILITIES
    data = struct.pack("6I", kept, kept, 0, 0, 0, 0)
    ctypes.CDLL(None).syscall(ctypes.c_long(number), header, data)


def _effective_capabilities() -> int:
    return int(_status().get("CapEff", "0"), 16)


def _limit(memory_bytes: int, seconds: float, file_bytes: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    processor = int(used.ru_utime + used.ru_stime + seconds * (os.cpu_count() or 1)) + 1
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_NOFILE, OPEN_FILES)
    _set(resource.RLIMIT_CPU, processor)
    _set(resource.RLIMIT_FSIZE, file_bytes)
    if sys.platform.startswith("linux"):
        _set(resource.RLIMIT_DATA, _bytes(_status(), "VmData") + memory_bytes)


def _set(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    least = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (least, least))


def anonymous_bytes(process: int | Literal["self"] = "self") -> int:
    """Return the memory of a process that no file backs, in bytes; 0 if the system does not tell."""
    status = read_fields(Path(f"/proc/{process}/status"))
    return sum(_bytes(status, name) for name in ("RssAnon", "RssShmem", "VmSwap"))


def _bytes(status: dict[str, str], name: str) -> int:
    return int(status.get(name, "0 kB").split()[0]) * 1024


def _status() -> dict[str, str]:
    return read_fields(Path("/proc/self/status"))


def read_fields(path: Path) -> dict[str, str]:
    """Read the fields of a file of ``/proc``; return an empty mapping if the system has no such file."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    fields = (line.partition(":") for line in lines)
    return {name: value.strip() for name, _, value in fields}


def _software() -> Iterator[Path]:
    """Yield the folders of Python's modules and of the shared libraries that this process has loaded."""
    named = [*sysconfig.get_paths().values(), *sys.path]
    yield from (path for path in map(Path, named) if path.is_absolute() and not _holds_home(path))
    yield from _module_folders()
    yield from _library_folders()


def _module_folders() -> set[Path]:
    """Return the folder of each imported package, and the file of each imported module outside packages."""
    found = set()
    for name, module in list(sys.modules.items()):
        own = getattr(module, "__dict__", {})  # some modules invent attributes in __getattr__
        file = own.get("__file__")
        if "__path__" in own:
            found |= {os.path.realpath(each) for each in own["__path__"]}
        elif isinstance(file, str) and "." not in name:
            found.add(os.path.realpath(file))
    return {Path(each) for each in found if not _holds_home(Path(each))}


def _library_folders() -> set[Path]:
    found = set()
    with contextlib.suppress(OSError), Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            mapped = line.partition("/")[2].strip()
            if ".so" in mapped:
                found.add(Path("/", mapped).parent)
    return {each for each in found if not _holds_home(each)}


def _holds_home(path: Path) -> bool:
    """Return whether a folder is or holds a home folder, so that allowing it would allow all files of a user."""
    return any(path == home or path in home.parents for home in _homes())


def _homes() -> Iterable[Path]:
    yield Path("/")
    with contextlib.suppress(KeyError):
        yield Path(pwd.getpwuid(os.getuid()).pw_dir)
