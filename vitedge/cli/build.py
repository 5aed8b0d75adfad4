"""``vitedge build``: compile on this device what could not be compiled on the host."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.cli import output
from vitedge.cli.flags import call
from vitedge.cli.trust import add_trust_options, trusted
from vitedge.safety.escape import terminal_lines

if TYPE_CHECKING:
    from vitedge.runtime.engines.tensorrt.build_record import BuildCandidate, BuildRecord
    from vitedge.runtime.engines.tensorrt.layers import AttentionBlock

EPILOG = """\
The graph and its 16-bit twin are both built and timed, and the faster one that passes the bundle's self-test is kept,
in the bundle or, where that cannot be written, in the cache. It takes minutes; vitedge run and vitedge.load do the same
where it was not done before. What is there stays until the new engine is whole.

examples:
  vitedge build deit.bundle
  vitedge build deit.bundle --workspace-mb 256
  vitedge build deit.bundle --overwrite
"""


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
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
        help="most scratch memory of a layer (default: a quarter of what is available, up to 1024)",
    )
    parser.add_argument("--overwrite", action="store_true", help="build again, and replace the engine for this device")
    add_trust_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Build, and describe the engine."""
    from vitedge.runtime.engines.tensorrt.build.build import build

    record = call(build, arguments, trust=trusted(arguments))
    output.tell(terminal_lines([str(arguments.bundle), *(f"  {line}" for line in record_lines(record))]))
    return 0


def record_lines(record: BuildRecord) -> list[str]:
    """Describe a build for people."""
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
    """Tell how many attention blocks run as one kernel, and why the others do not."""
    if not blocks:
        return "unavailable: TensorRT names no attention in its layers"
    reasons = sorted({block.reason for block in blocks if not block.fused})
    fused = sum(block.fused for block in blocks)
    return "; ".join([f"{fused} of {len(blocks)} in one kernel", *reasons])
