"""``vitedge targets``: the hardware that vitedge converts for."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from vitedge.bundle.targets import MINIMUM_TENSORRT, JetpackRelease, Target
from vitedge.cli.reports import add_json_flag, write_result
from vitedge.records import encode
from vitedge.verbs.targets import targets

EPILOG = """\
examples:
  vitedge targets
  vitedge targets --json | jq '.targets[] | select(.refusal == "") | .name'
"""
HEADINGS = ("target", "precisions", "GPU, SM", "memory, GB", "DLA", "device")
RELEASE_HEADINGS = ("JetPack", "L4T", "TensorRT", "CUDA", "Python", "targets")


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser(
        "targets",
        help="what vitedge compiles for",
        description="List the targets, the precisions that each takes, its hardware, and the JetPacks that it needs.",
        epilog=EPILOG,
    )
    add_json_flag(parser, "the targets, each with its JetPacks")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the targets."""
    write_result(arguments.json, as_json, as_text)
    return 0


def as_json() -> dict[str, Any]:
    """Render the targets for JSON; keys are added, never renamed."""
    return {"version": 1, "targets": [encode(target) for target in targets()]}


def as_text() -> str:
    """Render a table of targets, notes on their precisions, and a table of JetPacks."""
    parts = (_table([HEADINGS, *map(_row, targets())]), _notes(), _table([RELEASE_HEADINGS, *release_rows()]))
    return "\n".join("\n".join(lines) + "\n" for lines in parts)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _row(target: Target) -> tuple[str, ...]:
    precisions = " ".join(target.precisions) or "refused"
    device = target.tensorrt
    if device is None:
        return (target.name, precisions, "", "", "", target.description)
    memory = ", ".join(map(str, device.memory_gb)) or "its own"
    return (
        target.name,
        precisions,
        ", ".join(device.compute_capabilities) or "any",
        memory,
        str(device.dla_cores),
        target.description,
    )


def _notes() -> list[str]:
    """List each note once, under the targets that share it."""
    sharing: dict[str, list[str]] = {}
    for target in targets():
        sharing.setdefault(f"refused: {target.refusal}" if target.refusal else target.notes, []).append(target.name)
    notes = [line for note, names in sharing.items() for line in (", ".join(names), f"  {note}")]
    return [*notes, "DLA", "  deep-learning accelerators run no Vision Transformer: engines use the GPU"]


def release_rows() -> Iterable[tuple[str, ...]]:
    """Yield a row for each JetPack: its components, and the targets that it runs on."""
    for release, names in _releases().items():
        targets = ", ".join(names) if release.supported else f"none: TensorRT {_dotted(MINIMUM_TENSORRT)} is the oldest"
        yield (release.jetpack, release.l4t, release.tensorrt, release.cuda, release.python, targets)


def _releases() -> dict[JetpackRelease, list[str]]:
    """Collect the JetPacks, oldest first, and the targets that each runs on."""
    found: dict[JetpackRelease, list[str]] = {}
    for target in targets():
        for release in target.tensorrt.releases if target.tensorrt else ():
            found.setdefault(release, []).append(target.name)
    return dict(sorted(found.items(), key=lambda item: [int(part) for part in item[0].l4t.split(".")]))


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))
