"""Landlock: an unprivileged process restricts its own access to files. Linux 5.13 and newer."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from vitedge.safety.seccomp import no_new_privileges

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_SPECIAL_FILES = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 1 << 0 | 1 << 1
_ABSTRACT_SOCKETS_AND_SIGNALS = 1 << 0 | 1 << 1

_READ = _READ_FILE | _READ_DIR
_WRITE = _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE


def version() -> int:
    """Return the version of Landlock in this kernel; 0 without Landlock."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION)))


def forbid_writing(folder: Path) -> bool:
    """Forbid writing outside a folder, running programs, TCP, and signals to other processes; return whether it worked.

    The restriction applies to the calling thread and to threads that it starts later.
    """
    known = version()
    handled = _known(_WRITE | _REMOVE_DIR | _MAKE_DIR | _REFER | _EXECUTE | _SPECIAL_FILES | _IOCTL_DEV, known)
    return _restrict(known, handled, [(folder, _known(_WRITE, known)), (Path(os.devnull), _WRITE_FILE)], beyond=True)


def forbid_reading(folders: Iterable[Path]) -> bool:
    """Forbid reading outside these folders and files; return whether it worked. Missing paths are skipped.

    The restriction applies to the calling thread and to threads that it starts later.
    """
    return _restrict(version(), _READ, [(path, _READ) for path in folders], beyond=False)


def _known(rights: int, version: int) -> int:
    """Return the rights that a version of Landlock knows."""
    newer = (_REFER if version < 2 else 0) | (_TRUNCATE if version < 3 else 0) | (_IOCTL_DEV if version < 5 else 0)
    return rights & ~newer


def _restrict(version: int, handled: int, allowed: Iterable[tuple[Path, int]], *, beyond: bool) -> bool:
    """Restrict the handled rights to the allowed paths; with ``beyond``, forbid TCP, abstract sockets and signals."""
    if version == 0 or not no_new_privileges():
        return False
    network = _TCP if beyond and version >= 4 else 0
    scoped = _ABSTRACT_SOCKETS_AND_SIGNALS if beyond and version >= 6 else 0
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("QQQ", handled, network, scoped)[:size]
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    try:
        for path, rights in allowed:
            with suppress(OSError):
                _allow(ruleset, path, rights)
        return _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments))
