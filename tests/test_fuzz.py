"""Five hundred mutated files: each ends in a VitedgeError or in a right answer, within 10 s and 1 GB.

``benchmarks/fuzz.py`` runs more of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from fuzz.campaign import SHARES, Worker, fuzz, shares

CASES = 500
SEED = 1
NEEDED = ("onnx", "onnxruntime", "openvino", "torch", "timm", "transformers", "safetensors", "av", "PIL")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    with Worker(SEED) as worker:
        yield worker


@pytest.mark.parametrize("name", SHARES)
def test_mutated_files(worker: Worker, name: str) -> None:
    tally = fuzz(worker, name, shares(CASES)[name])
    assert tally.findings == []
    assert tally.kinds["refused"] > 0
