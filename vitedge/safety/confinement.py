"""How a child gives up what it does not need, in two steps: before it imports libraries, and before it reads a file."""

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
"""Reading and writing files of others, which Landlock restricts; a container's root needs it for mounted files."""
_CAPSET = {"x86_64": 126, "aarch64": 91}
OPEN_FILES = 512

_SYSTEM_FILES = (
    "/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime",
    "/usr/share/zoneinfo", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version",
    "/proc/sys/vm", "/sys/devices/system", "/sys/fs/cgroup", "/dev/null", "/dev/zero", "/dev/urandom",
)  # fmt: skip


@dataclass(frozen=True)
class Layers:
    """What holds a child, beside its time limit and the watch on its memory.

    Attributes:
        limits: of memory, processor time and size of files, kept by the kernel.
        seccomp: no network, no programs, no other processes.
        landlock: no writing outside its folder, reading only of libraries and what it was given.
    """

    limits: bool
    seccomp: bool
    landlock: bool


def available() -> Layers:
    """What this machine's kernel can hold a child with."""
    return Layers(
        limits=sys.platform.startswith("linux"), seccomp=seccomp.is_available(), landlock=landlock.version() > 0
    )


def die_with(parent: int) -> None:
    """Have this process killed when the thread that started it ends; end now if it has ended."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def forbid_writing(folder: Path) -> bool:
    """First step, while there is one thread: give up privileges, programs, TCP and writing outside a folder.

    Returns:
        Whether Landlock holds; privileges are dropped in any case.
    """
    _drop_capabilities()
    return landlock.forbid_writing(folder)


def lock(readable: Sequence[Path], *, memory_bytes: int, seconds: float, file_bytes: int) -> None:
    """Second step, once the libraries are imported: reading, network, processes, memory, time and size of files."""
    landlock.forbid_reading([*readable, *_software(), *map(Path, _SYSTEM_FILES)])
    _limit(memory_bytes, seconds, file_bytes)
    seccomp.apply()


def _drop_capabilities() -> None:
    """Give up all capabilities but those on files, which root has; others have none."""
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
    """Memory of a process that is no file's, in bytes; 0 where the system does not tell."""
    status = read_fields(Path(f"/proc/{process}/status"))
    return sum(_bytes(status, name) for name in ("RssAnon", "RssShmem", "VmSwap"))


def _bytes(status: dict[str, str], name: str) -> int:
    return int(status.get(name, "0 kB").split()[0]) * 1024


def _status() -> dict[str, str]:
    return read_fields(Path("/proc/self/status"))


def read_fields(path: Path) -> dict[str, str]:
    """Fields of a file of ``/proc`` about a process; none where the system has no such file."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    fields = (line.partition(":") for line in lines)
    return {name: value.strip() for name, _, value in fields}


def _software() -> Iterator[Path]:
    """Folders that Python's modules and the shared libraries of this process come from."""
    named = [*sysconfig.get_paths().values(), *sys.path]
    yield from (path for path in map(Path, named) if path.is_absolute() and not _holds_home(path))
    yield from _module_folders()
    yield from _library_folders()


def _module_folders() -> set[Path]:
    """The folder of each package that is imported, and the file of each module outside of packages."""
    found = set()
    for name, module in list(sys.modules.items()):
        own = getattr(module, "__dict__", {})  # some modules make up any attribute
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
    """Whether a folder is a home or holds one, so that allowing it would allow everything of a user."""
    return any(path == home or path in home.parents for home in _homes())


def _homes() -> Iterable[Path]:
    yield Path("/")
    with contextlib.suppress(KeyError):
        yield Path(pwd.getpwuid(os.getuid()).pw_dir)
