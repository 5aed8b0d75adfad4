"""The modules of ``benchmarks``, which are no package."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark_module() -> Iterator[Callable[[str], Any]]:
    """``benchmark_module("common.timing")`` imports a module; others can be imported until the tests of a file end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module


@pytest.fixture(scope="module")
def every_model(benchmark_module: Callable[[str], Any]) -> Any:
    """The models of the matrices."""
    return benchmark_module("common.families").FAMILIES
