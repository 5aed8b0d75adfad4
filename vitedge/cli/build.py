"""``vitedge build``: compile on this device what could not be compiled on the host."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.targets import target_named
from vitedge.cli import output
from vitedge.cli.trust import add_trust_options, trusted
from vitedge.errors import BundleIntegrityError, BundleSchemaError, VitedgeError
from vitedge.progress import Terminal
from vitedge.safety.escape import shell, terminal_lines

if TYPE_CHECKING:
    from vitedge.runtime.engines.tensorrt.build_record import BuildRecord, BuildCandidate
    from vitedge.runtime.engines.tensorrt.layers import AttentionBlock
    from vitedge.runtime.engines.tensorrt.plan_store import StoredPlan

EPILOG = """\
The graph and its 16-bit twin are both built and timed, and the faster one that passes the bundle's self-test is kept,
in the bundle or, where that cannot be written, in the cache. It takes minutes; vitedge run and vitedge.load do the same
where it was not done before. What is there stays until the new engine is whole.

examples:
  vitedge build deit.bundle
  vitedge build deit.bundle --workspace-mb 256
  vitedge build deit.bundle --force
"""
MEBIBYTE = 1 << 20

State = Literal["not built", "built", "built elsewhere", "built for another device", "altered", "unreadable"]


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "build",
        help="compile a bundle on this device, for TensorRT",
        description="Compile a bundle for a Jetson, nvidia-gpu or rtx on the device that runs it.",
        epilog=EPILOG,
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that vitedge convert wrote")
    parser.add_argument(
        "--workspace-mb",
        type=int,
        metavar="N",
        help="most scratch memory of a layer; by default a quarter of what is available, up to 1024",
    )
    parser.add_argument("--force", action="store_true", help="build even if there is an engine for this device")
    add_trust_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Build, and say what came out."""
    from vitedge.runtime.engines.tensorrt.build.build import build

    record = build(
        arguments.bundle,
        workspace_mb=arguments.workspace_mb,
        force=arguments.force,
        trust=trusted(arguments),
        progress=Terminal(),
    )
    output.write(terminal_lines([str(arguments.bundle), *(f"  {line}" for line in record_lines(record))]))
    return 0


def record_lines(record: BuildRecord) -> list[str]:
    """What was built, for people."""
    lines = [f"built for   {record.fingerprint.described}"]
    lines += [f"{each.graph:<16}{_candidate(each, kept=each.graph == record.kept)}" for each in record.candidates]
    return [*lines, f"attention   {attention_text(record.attention)}"]


def _candidate(candidate: BuildCandidate, *, kept: bool) -> str:
    if candidate.refusal or candidate.latency is None:
        return f"refused: {candidate.refusal.splitlines()[0] if candidate.refusal else 'not timed'}"
    latency = candidate.latency
    return (
        f"{'kept, ' if kept else ''}{latency.median:.3f} ms ({latency.low:.3f} to {latency.high:.3f}), runs in "
        f"{candidate.precision}, {candidate.bytes / 1e6:.1f} MB, self-test {candidate.sqnr_db:.1f} dB, built in "
        f"{candidate.seconds:.0f} s"
    )


def attention_text(blocks: Sequence[AttentionBlock]) -> str:
    """How many attention blocks are one kernel, and why the others are not."""
    if not blocks:
        return "unavailable: TensorRT names no attention in its layers"
    reasons = sorted({block.reason for block in blocks if not block.fused})
    fused = sum(block.fused for block in blocks)
    return "; ".join([f"{fused} of {len(blocks)} in one kernel", *reasons])


@dataclass(frozen=True)
class EngineState:
    """Whether a bundle has an engine for this device.

    Attributes:
        state: in a word or a few.
        reason: why it is none for this device, or why that cannot be told; empty where it is one.
        record: what was built; None where nothing was, or it cannot be read.
    """

    state: State
    reason: str
    record: BuildRecord | None


def engine_state(bundle: Bundle) -> EngineState | None:
    """Of a bundle for TensorRT; None for any other."""
    if target_named(bundle.manifest.target).tensorrt is None:
        return None
    from vitedge.runtime.engines.tensorrt.plan_store import stored_plans

    found = stored_plans(bundle)
    if not found:
        return EngineState("not built", f"vitedge build {shell(str(bundle.path))} does that, on the device", None)
    states = [_state(bundle, each) for each in found]
    return min(states, key=lambda each: each.state != "built")


def _state(bundle: Bundle, found: StoredPlan | BundleSchemaError) -> EngineState:
    if isinstance(found, BundleSchemaError):
        return EngineState("unreadable", found.problem, None)
    try:
        found.read()
    except BundleIntegrityError as error:
        return EngineState("altered", error.problem, found.record)
    return _fit(bundle, found)


def _fit(bundle: Bundle, found: StoredPlan) -> EngineState:
    from vitedge.runtime.engines.tensorrt.device import open_device
    from vitedge.runtime.engines.tensorrt.fingerprint import difference, fingerprint_of
    from vitedge.runtime.engines.tensorrt.plan_store import graphs_of, tensorrt_of

    try:
        device = open_device(tensorrt_of(bundle).module)
        here = fingerprint_of(device.module, device.gpu, graphs_of(bundle))
    except VitedgeError as error:
        return EngineState("built for another device", f"this one cannot run it: {error.problem}", found.record)
    changed = difference(found.record.fingerprint, here)
    if changed:
        return EngineState("built for another device", changed, found.record)
    if not found.is_built_here:
        reason = "not by this user on this machine, where it is built anew"
        return EngineState("built elsewhere", reason, found.record)
    return EngineState("built", "", found.record)
