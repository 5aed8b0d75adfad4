"""The hardware that vitedge compiles for: one line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitedge.errors import UsageError, did_you_mean

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        name: what ``--target`` takes.
        description: one line for people.
        backend: what compiles for it and runs on it.
        precisions: what ``--precision`` may ask for.
        notes: what to know before choosing a precision.
        runs_here: whether the machine that converts can run and time it, which ``--precision auto`` does.
    """

    name: str
    description: str
    backend: str
    precisions: tuple[Precision, ...]
    notes: str
    runs_here: bool = False


TARGETS: tuple[Target, ...] = (
    Target(
        name="cpu",
        description="x86-64 and Arm CPUs, through OpenVINO",
        backend="openvino",
        precisions=("fp32", "fp16", "int8"),
        notes="fp16 runs as bf16 or f16, whichever the CPU computes natively, else as fp32; int8 pays with VNNI or AMX",
        runs_here=True,
    ),
)


def target_named(name: str) -> Target:
    """The target of that name.

    Raises:
        UsageError: no target has it; the message suggests close names.
    """
    for target in TARGETS:
        if target.name == name:
            return target
    names = [target.name for target in TARGETS]
    raise UsageError(f"unknown target {name!r}", expected=f"one of {', '.join(names)}", fix=did_you_mean(name, names))
