"""A seccomp filter for a child that reads an untrusted model: no network, no programs, no other processes.

Linux on x86-64 and AArch64. The filter is a deny list, because PyTorch and ONNX Runtime use hundreds of system calls,
and each version uses others. Calls that are newer than the list are refused too. Landlock restricts files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_FILTER_FLAG_TSYNC = 1
_GET_ACTION_AVAIL = 2

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000

_CLONE_THREAD = 0x00010000
_PR_SET_PDEATHSIG = 1
_TIOCSTI = 0x5412


@dataclass(frozen=True)
class _Machine:
    """System call numbers of a processor.

    Attributes:
        audit: number of the processor in the filter's input.
        column: index into the pairs of ``_REFUSED``.
        seccomp: number of the call ``seccomp``.
    """

    audit: int
    column: int
    seccomp: int


_MACHINES: Mapping[str, _Machine] = {
    "x86_64": _Machine(0xC000003E, 0, 317),
    "aarch64": _Machine(0xC00000B7, 1, 277),
}

_FIRST_UNKNOWN = 463
"""First call number that is newer than these lists; the numbers of the x32 ABI are larger too."""

_REFUSED: Mapping[str, tuple[int | None, int | None]] = {
    # network
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    # programs and processes; the flags of clone decide about threads
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "kcmp": (312, 272), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # memory that escapes the limits
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180),
    # calls through which kernels were attacked
    "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "unshare": (272, 97), "setns": (308, 268), "modify_ldt": (154, None),
    "personality": (135, 92), "lookup_dcookie": (212, 18), "uselib": (134, None), "nfsservctl": (180, 42),
    # the machine
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "move_mount": (429, 429),
    "open_tree": (428, 428), "mount_setattr": (442, 442), "swapon": (167, 224), "swapoff": (168, 225),
    "reboot": (169, 142), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "iopl": (172, None), "ioperm": (173, None),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161),
    "setdomainname": (171, 162), "syslog": (103, 116), "vhangup": (153, 58),
    # file operations that Landlock does not restrict; links and folders, for kernels without Landlock
    "mkdir": (83, None), "mkdirat": (258, 34),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "symlink": (88, None), "symlinkat": (266, 36), "link": (86, None), "linkat": (265, 37), "mknod": (133, None),
    "mknodat": (259, 33), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    # privileges
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159), "setfsuid": (122, 151),
    "setfsgid": (123, 152), "capset": (126, 91),
}  # fmt: skip
_CLONE3 = 435
_CLONE = (56, 220)
_ONLY_SELF: Mapping[str, tuple[int, int]] = {"kill": (62, 129), "tgkill": (234, 131)}
_PRLIMIT = (302, 261)
_PRCTL = (157, 167)
_IOCTL = (16, 29)


def is_available() -> bool:
    """Return whether this kernel and processor support the filter; change nothing."""
    machine = _machine()
    if machine is None:
        return False
    action = ctypes.c_uint32(_ERRNO)
    return _call(machine.seccomp, _GET_ACTION_AVAIL, 0, ctypes.byref(action)) == 0


def apply() -> bool:
    """Install the filter on every thread of this process, irrevocably; return False if it is not supported."""
    machine = _machine()
    if machine is None or not no_new_privileges():
        return False
    code = program(machine, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    filters = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    return _call(machine.seccomp, _SET_MODE_FILTER, _FILTER_FLAG_TSYNC, filters) == 0


def no_new_privileges() -> bool:
    """Forbid this process to gain privileges by running a program; return whether the system supports it."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def _machine() -> _Machine | None:
    return _MACHINES.get(platform.machine()) if sys.platform == "linux" and sys.maxsize > 1 << 32 else None


def _call(number: int, operation: int, flags: int, argument: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(ctypes.c_long(number), ctypes.c_uint(operation), ctypes.c_uint(flags), argument))


def program(machine: _Machine, own: int) -> bytes:
    """Assemble the filter.

    Args:
        machine: the processor.
        own: ID of the process that may be signalled.

    Returns:
        Classic BPF instructions, 8 bytes each.
    """
    column = machine.column
    refused = [numbers[column] for numbers in _REFUSED.values()]
    return b"".join(
        [
            *_unless(machine.audit, at=_ARCHITECTURE, action=_KILL_PROCESS),
            _instruction(_LOAD, _NUMBER),
            *_when(_AT_LEAST, _FIRST_UNKNOWN, _ERRNO | errno.ENOSYS),
            *_when(_EQUAL, _CLONE3, _ERRNO | errno.ENOSYS),  # filters cannot see its flags; libraries use clone
            *_each(number for number in refused if number is not None),
            *_where(_CLONE[column], _test(0, _ANY_BIT, _CLONE_THREAD)),
            *[part for calls in _ONLY_SELF.values() for part in _where(calls[column], _test(0, _EQUAL, own))],
            *_where(_PRLIMIT[column], _test(0, _EQUAL, 0)),
            *_where(_PRCTL[column], _test(0, _EQUAL, _PR_SET_PDEATHSIG, refuse=True)),
            *_where(_IOCTL[column], _test(1, _EQUAL, _TIOCSTI, refuse=True)),
            _instruction(_RETURN, _ALLOW),
        ]
    )


def _instruction(code: int, operand: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("<HBBI", code, then, otherwise, operand)


def _unless(value: int, *, at: int, action: int) -> list[bytes]:
    return [_instruction(_LOAD, at), _instruction(_EQUAL, value, 1, 0), _instruction(_RETURN, action)]


def _when(test: int, value: int, action: int) -> list[bytes]:
    return [_instruction(test, value, 0, 1), _instruction(_RETURN, action)]


def _each(numbers: Iterable[int]) -> list[bytes]:
    return [part for number in numbers for part in _when(_EQUAL, number, _ERRNO | errno.EPERM)]


def _test(argument: int, test: int, value: int, *, refuse: bool = False) -> list[bytes]:
    """Allow a call if the low half of an argument passes a test, or refuse it then."""
    passed, failed = (_ERRNO | errno.EPERM, _ALLOW) if refuse else (_ALLOW, _ERRNO | errno.EPERM)
    return [
        _instruction(_LOAD, _ARGUMENTS + 8 * argument),
        _instruction(test, value, 0, 1),
        _instruction(_RETURN, passed),
        _instruction(_RETURN, failed),
    ]


def _where(number: int, decision: list[bytes]) -> list[bytes]:
    return [_instruction(_EQUAL, number, 0, len(decision)), *decision]
