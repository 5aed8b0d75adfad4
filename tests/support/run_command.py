"""The command ``vitedge run`` in a process of its own."""

from __future__ import annotations

import sys

from vitedge.bundle.bundle import Bundle

PATIENCE = 60.0
"""Seconds within which a process ends."""


def command(bundle: Bundle, *arguments: object) -> list[str]:
    """Return the command, in an interpreter where warnings are errors."""
    return [sys.executable, "-W", "error", "-m", "vitedge", "run", str(bundle.path), *map(str, arguments)]
