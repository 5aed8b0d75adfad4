"""Fixtures that all rooms share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vitedge.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # no test reports usage


def find_shared_data() -> Path | None:
    """The folder of trained models, photos and clips, or None where it is absent."""
    named = os.environ.get("VITEDGE_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if (folder / "models").is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Trained models, photos and clips outside the repository."""
    folder = find_shared_data()
    if folder is None:
        pytest.skip("no test data: put it at ../shared/data, or name its folder in VITEDGE_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-test results of one test must not spare another test its self-test."""
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Bundle]:
    """``make_bundle(path, **changes)`` writes a small real bundle; ``tests/support/bundles.py`` lists the changes."""
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    import bundles

    return bundles.make_bundle


@pytest.fixture(scope="session")
def tiny_bundle(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An fp32 bundle whose labels are ``red``, ``green`` and ``blue``, for 32×32 frames; do not write into it."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny.bundle")


@pytest.fixture(scope="session")
def colour_frame() -> Callable[..., NDArray[np.uint8]]:
    """``colour_frame("red", height=32, width=32, order="BGR", seed=0)``: a noisy frame in which it dominates."""
    import bundles

    return bundles.colour_frame
