"""Commands that see file systems of their own; other processes notice nothing of it."""

from __future__ import annotations

import subprocess

import pytest

REFUSED = 77
"""Exit code of a script that may not mount."""


def run_apart(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of bash in a mount namespace; skip the test where this machine allows none."""
    command = ["unshare", "--mount", "bash", "-c", script, "bash", *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"not root with a mount namespace: {error}")
    if done.returncode == REFUSED or done.stderr.startswith("unshare:"):
        pytest.skip(f"not root with a mount namespace: {done.stderr.strip()}")
    return done
