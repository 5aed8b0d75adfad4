"""What runs: every layer of a quantized graph, with the precision and the kernel that the engine gave it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

UNAVAILABLE = "unavailable"
INT8 = "int8"
EIGHT_BITS = (INT8, "fp8")
NAMED = 3
"""Layers or operators that a line names; the others are counted."""

OverheadKind: TypeAlias = Literal["reference kernel", "precision switch", "layout change", "float32 kernel"]


@dataclass(frozen=True)
class AuditedLayer:
    """A layer with weights, or a product of two quantized tensors, in a compiled engine.

    Attributes:
        name: module of the checkpoint, such as ``blocks.3.mlp.fc2``, or else the name of its operator in the graph.
        operator: its kind, in the words of the graph that was compiled.
        quantized: whether the graph quantizes its input and its weights to 8 bits.
        precision: ``int8``, ``fp8``, ``bf16``, ``fp16`` or ``fp32``, read back from the engine; ``unavailable`` if the
            engine does not tell it.
        kernel: the engine's name of the code that computes it; empty if the engine does not tell it.
        reason: why a quantized layer is not computed in int8, as far as the engine tells; empty for other layers.
        microseconds: mean time of its kernel over the profiled runs, with everything that is fused into it; None
            without a profile.
    """

    name: str
    operator: str
    quantized: bool
    precision: str
    kernel: str = ""
    reason: str = ""
    microseconds: float | None = None


@dataclass(frozen=True)
class Overhead:
    """Operators of one kind that take time only because of how the engine runs the graph.

    Attributes:
        kind: a kernel without optimization for this processor, a change of precision, a change of memory layout, or a
            kernel that computes in float32 where the engine was told to compute in 16 bits.
        operator: the engine's name of their kind.
        kernel: the engine's name of the code that computes them.
        change: precisions before and after, such as ``bf16 → int8``; one precision if it stays.
        names: of the operators, in the order of execution.
        microseconds: mean times over the profiled runs, added up; None without a profile.
    """

    kind: OverheadKind
    operator: str
    kernel: str
    change: str
    names: tuple[str, ...]
    microseconds: float | None = None


@dataclass(frozen=True)
class Audit:
    """The layers of a compiled engine, and what costs time beside them.

    Attributes:
        engine: name and version of the engine; empty if the device compiles the graph, and this host cannot.
        device: name of the processor; empty likewise.
        layers: in the order of the graph.
        overheads: the most expensive first.
        microseconds: mean times of all operators, added up; None without a profile.
        runs: number of profiled runs, without the runs that warm the engine.
        asked: type of 8 bits that the graph quantizes to.
    """

    engine: str
    device: str
    layers: tuple[AuditedLayer, ...]
    overheads: tuple[Overhead, ...] = ()
    microseconds: float | None = None
    runs: int = 0
    asked: Literal["int8", "fp8"] = "int8"

    @property
    def quantized(self) -> tuple[AuditedLayer, ...]:
        """Return the layers that the graph quantizes to int8 or fp8."""
        return tuple(layer for layer in self.layers if layer.quantized)

    @property
    def executed(self) -> tuple[AuditedLayer, ...]:
        """Return the quantized layers that the engine computes in 8 bits."""
        return tuple(layer for layer in self.quantized if layer.precision in EIGHT_BITS)

    @property
    def fallbacks(self) -> tuple[AuditedLayer, ...]:
        """Return the quantized layers that the engine computes in floating point."""
        return tuple(layer for layer in self.quantized if layer.precision not in (*EIGHT_BITS, UNAVAILABLE))

    @property
    def unknown(self) -> tuple[AuditedLayer, ...]:
        """Return the quantized layers whose precision the engine does not report."""
        return tuple(layer for layer in self.quantized if layer.precision == UNAVAILABLE)

    @property
    def in_floating_point(self) -> tuple[AuditedLayer, ...]:
        """Return the layers that the graph itself leaves in floating point."""
        return tuple(layer for layer in self.layers if not layer.quantized)

    @property
    def summary(self) -> str:
        """Say how many int8 layers run in int8, and which do not, with the reasons."""
        layers, ran = _layers(len(self.quantized), self.asked), len(self.executed)
        verb = "runs" if 1 in (ran, len(self.quantized)) else "run"
        if not self.quantized:
            return f"the graph has no {self.asked} layers"
        if not self.engine:
            return f"{layers}, which the device compiles"
        if len(self.unknown) == len(self.quantized):
            return f"{layers}; the engine does not tell in which precision they run"
        ran_text = f"{ran} of {layers} {verb} in {self.asked}"
        return "; ".join([ran_text, *_fallback_phrases(self.fallbacks), *_unknown_phrase(self.unknown)])

    def lines(self, *, least_share: float = 0.0) -> list[str]:
        """Describe the audit for people, a fact a line.

        Args:
            least_share: share of all time, 0…1, that an overhead must take to be named; those without times are.
        """
        floats = self.in_floating_point
        lines = [self.summary]
        if floats:
            lines.append(f"in floating point by the graph: {_named([each.name for each in floats])}{_time(floats)}")
        lines += [
            f"{each.kind}: {len(each.names)} {each.operator}, {each.kernel}, {each.change}"
            f"{_share(each.microseconds, self.microseconds)}: {_named(each.names)}"
            for each in self.overheads
            if each.microseconds is None or not each.microseconds < least_share * (self.microseconds or 0.0)
        ]
        if self.microseconds is not None:
            lines.append(f"all operators {self.microseconds:.0f} µs, each the mean of {self.runs} runs")
        return lines


def differences(recorded: Audit, here: Audit) -> list[str]:
    """Say which layers run in another precision here than where the bundle was converted.

    Layers whose precision one of the engines does not tell are left out. Different engines are not compared.
    """
    if recorded.engine.partition(" ")[0] != here.engine.partition(" ")[0]:
        return []
    before = {layer.name: layer.precision for layer in recorded.layers if layer.precision != UNAVAILABLE}
    changed: dict[tuple[str, str], list[str]] = {}
    for layer in here.layers:
        known = before.get(layer.name, UNAVAILABLE)
        if UNAVAILABLE not in (known, layer.precision) and known != layer.precision:
            changed.setdefault((known, layer.precision), []).append(layer.name)
    return [
        f"{_layers(len(names))} ran in {known} on the converting host and {'runs' if len(names) == 1 else 'run'} in "
        f"{now} here: {_named(names)}"
        for (known, now), names in changed.items()
    ]


def _fallback_phrases(fallbacks: Sequence[AuditedLayer]) -> list[str]:
    grouped: dict[tuple[str, str], list[str]] = {}
    for layer in fallbacks:
        grouped.setdefault((layer.precision, layer.reason), []).append(layer.name)
    return [
        f"{len(names)} fell back to {precision}: {_named(names)}{f', because {reason}' if reason else ''}"
        for (precision, reason), names in grouped.items()
    ]


def _unknown_phrase(unknown: Sequence[AuditedLayer]) -> list[str]:
    if not unknown:
        return []
    names = _named([each.name for each in unknown])
    return [f"the engine does not tell the precision of {len(unknown)}: {names}"]


def _layers(count: int, kind: str = "") -> str:
    return f"{count} {f'{kind} ' if kind else ''}layer{'' if count == 1 else 's'}"


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _time(layers: Iterable[AuditedLayer]) -> str:
    times = [layer.microseconds for layer in layers if layer.microseconds is not None]
    return f", {sum(times):.0f} µs" if times else ""


def _share(microseconds: float | None, total: float | None) -> str:
    if microseconds is None or not total:
        return ""
    return f", {microseconds:.0f} µs, {100 * microseconds / total:.1f} % of all"
