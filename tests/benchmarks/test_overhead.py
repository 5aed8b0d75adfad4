"""The benchmark of what vitedge adds to the engine imports what an application imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any


def test_the_timed_import_is_no_empty_package(benchmark_module: Callable[[str], Any]) -> None:
    runtime, numpy = benchmark_module("overhead").IMPORTED
    code = f"import sys, {runtime}; print({numpy!r} in sys.modules, 'vitedge.runtime.classifier' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"
