"""A row of the matrix, and how a model compares with its peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def rows(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.matrix.rows")


@pytest.fixture(scope="module")
def comparison(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.matrix.comparison")


@pytest.fixture(scope="module")
def taken(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.taken")


@pytest.fixture
def row(rows: Any, comparison: Any, taken: Any) -> Any:
    """A model that converted but for int8."""
    full = rows.Conversion("", 5.0, 22.8, "fp32", 120.4, 118.2, 100.0, 8.1, 1.3, (1.2, 1.4))
    half = rows.Conversion("", 5.0, 11.5, "bf16", 120.4, 38.2, 99.0, 5.1, 2.1, (2.0, 2.2))
    failed = rows.Conversion(failed="a | b cannot be quantized")
    conversions = {"fp32": full, "fp16": half, "int8": failed}
    timed = {
        name: comparison.Contender("", 38.2, 99.0, (5.0, 5.2), comparison.Kernels(0, 0))
        for name in ("fp16", comparison.OPENVINO)
    }
    failing = comparison.Contender("no operator")
    compared = comparison.PeerComparison({**timed, comparison.NNCF: failing, comparison.NNCF_UNSMOOTHED: failing}, 64)
    return rows.Row(
        "deit_tiny_patch16_224",
        "DeiT",
        False,
        (224, 224),
        5_717_416,
        1_253_686_656,
        conversions,
        {"torch": "2"},
        compared,
        taken.Taken("2026-01-02", "Some CPU", 2, "3.11.7"),
    )


@pytest.fixture
def compared(comparison: Any) -> Any:
    """Int8 that is slower than NNCF without SmoothQuant, and faster than NNCF's default, which collapsed."""
    ours = comparison.Kernels(
        48, 46, {"a": "why", "b": "why"}, 1000.0, {"reference kernel": 200.0, "layout change": 40.0}
    )
    theirs = comparison.Kernels(48, 48, {}, 700.0, {"reference kernel": 10.0, "layout change": 35.0})

    def contender(sqnr_db: float, *rounds: float, kernels: Any = None) -> Any:
        return comparison.Contender("", sqnr_db, 98.0, rounds, kernels)

    contenders = {
        "fp32": contender(118.0, 4.0, 4.0, 4.0),
        "fp16": contender(38.0, 2.2, 2.2, 2.2),
        "int8": contender(33.0, 1.0, 2.0, 4.0, kernels=ours),
        comparison.NNCF: contender(7.3, 2.0, 2.0, 8.0, kernels=theirs),
        comparison.NNCF_UNSMOOTHED: contender(24.9, 0.5, 1.6, 2.0, kernels=theirs),
        comparison.OPENVINO: contender(38.5, 2.0, 2.0, 2.0),
        comparison.REFERENCE: contender(0.0, 5.0, 5.0, 5.0),
    }
    return comparison.PeerComparison(contenders, 64, discarded=3)
