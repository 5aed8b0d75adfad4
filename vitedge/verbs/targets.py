"""``vitedge.targets``: the hardware that vitedge converts for."""

from __future__ import annotations

from vitedge.bundle.targets import TARGETS, Target


def targets() -> tuple[Target, ...]:
    """List the targets, each with its precisions, its hardware and its JetPack releases."""
    return TARGETS
