"""The filter of system calls, run here by an interpreter of its instructions, for both processors."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping

import pytest

from vitedge.safety import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSED, UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
OWN = 4321
MACHINES = ("x86_64", "aarch64")
NETWORK = {"socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "sendto": (44, 206), "accept4": (288, 242)}
PROCESSES = {"execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117), "process_vm_writev": (311, 271)}
KERNEL = {
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "unshare": (272, 97),
    "mount": (165, 40),
    "keyctl": (250, 219),
}
FILES = {"fchmodat": (268, 53), "symlinkat": (266, 36), "mkdirat": (258, 34), "memfd_create": (319, 279)}
USED = {
    "read": (0, 63),
    "write": (1, 64),
    "openat": (257, 56),
    "mmap": (9, 222),
    "futex": (202, 98),
    "exit_group": (231, 94),
}


def decide(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter says to a system call."""
    described = seccomp._MACHINES[machine]
    given = [*arguments, *[0] * (6 - len(arguments))]
    audit = described.audit if architecture is None else architecture
    data = struct.pack("<IIQ6Q", number, audit, 0, *(each % (1 << 64) for each in given))
    code = list(struct.iter_unpack("<HBBI", seccomp.program(described, OWN)))
    accumulator = at = 0
    while True:
        operation, then, otherwise, operand = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif operation == 0x06:
            return operand
        else:
            tests = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: accumulator & operand}
            at += then if tests[operation] else otherwise


def decisions(machine: str, calls: Mapping[str, tuple[int | None, int | None]]) -> dict[str, int]:
    numbers = {name: each[MACHINES.index(machine)] for name, each in calls.items()}
    return {name: decide(machine, number) for name, number in numbers.items() if number is not None}


@pytest.mark.parametrize("column", range(2), ids=MACHINES)
def test_calls_by_number(column: int) -> None:
    machine = MACHINES[column]
    for calls in (NETWORK, PROCESSES, KERNEL, FILES):
        assert {name: decide(machine, numbers[column]) for name, numbers in calls.items()} == dict.fromkeys(
            calls, REFUSED
        )
    assert {name: decide(machine, numbers[column]) for name, numbers in USED.items()} == dict.fromkeys(USED, ALLOW)
    for numbers in seccomp._REFUSED.values():
        number = numbers[column]
        assert number is None or decide(machine, number) == REFUSED


@pytest.mark.parametrize("column", range(2), ids=MACHINES)
def test_calls_by_argument(column: int) -> None:
    machine = MACHINES[column]
    clone, kill, prlimit, prctl, ioctl = ((56, 220), (62, 129), (302, 261), (157, 167), (16, 29))
    assert decide(machine, clone[column], 0x3D0F00) == ALLOW  # a thread, as glibc starts it
    assert decide(machine, clone[column], 17) == REFUSED
    assert decide(machine, kill[column], OWN, 9) == ALLOW
    assert decide(machine, kill[column], OWN + 1, 9) == REFUSED
    assert decide(machine, kill[column], -1, 9) == REFUSED
    assert decide(machine, prlimit[column], 0) == ALLOW
    assert decide(machine, prlimit[column], OWN + 1) == REFUSED
    assert decide(machine, prctl[column], 15) == ALLOW  # a thread's name
    assert decide(machine, prctl[column], 1) == REFUSED  # to outlive the parent
    assert decide(machine, ioctl[column], 0, 0x5401) == ALLOW
    assert decide(machine, ioctl[column], 0, 0x5412) == REFUSED  # to type into a terminal


@pytest.mark.parametrize("machine", MACHINES)
def test_unknown_calls_and_other_processors(machine: str) -> None:
    assert decide(machine, 435) == UNKNOWN  # clone3: its flags cannot be seen
    assert decide(machine, 463) == UNKNOWN
    assert decide(machine, 0x40000000 + 41) == UNKNOWN  # x32
    assert decide(machine, 102, architecture=0x40000003) == KILL  # socketcall of 32 bits


def test_jumps_end_within_the_program() -> None:
    for machine in seccomp._MACHINES.values():
        code = list(struct.iter_unpack("<HBBI", seccomp.program(machine, OWN)))
        assert len(code) < 4096
        for at, (operation, then, otherwise, _) in enumerate(code):
            assert operation not in (0x15, 0x35, 0x45) or at + 1 + max(then, otherwise) < len(code)
