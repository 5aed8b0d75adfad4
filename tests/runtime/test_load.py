"""``load``: every file of a bundle is checked, and none is hashed twice."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from numpy.typing import NDArray

from vitedge.bundle.bundle import GOLDEN, MODEL_ONNX, Bundle
from vitedge.errors import BundleError, BundleIntegrityError
from vitedge.runtime.engines.open import ENGINES
from vitedge.runtime.load import load

Frame = NDArray[np.uint8]
ColourFrame = Callable[..., Frame]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was opened to be read and hashed."""
    counted: Counter[str] = Counter()
    opened = Bundle._opened

    @contextmanager
    def counting(self: Bundle, name: str, limit: int) -> Iterator[BinaryIO]:
        counted[name] += 1
        with opened(self, name, limit) as stream:
            yield stream

    monkeypatch.setattr(Bundle, "_opened", counting)
    return counted


@pytest.mark.parametrize("engine", [*(name for name in ENGINES if name != "tensorrt"), None])
def test_each_file_is_hashed_once(
    tiny_bundle: Bundle, engine: str | None, reads: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path / "cache"))
    once = dict.fromkeys(tiny_bundle.manifest.files, 1)
    for self_test in ("runs", "is in the cache"):
        reads.clear()
        load(tiny_bundle.path, engine=engine).close()
        assert dict(reads) == once, self_test


def test_golden_vectors_are_checked_also_where_the_self_test_is_in_the_cache(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "copy.bundle"
    shutil.copytree(tiny_bundle.path, folder)
    load(folder).close()
    content = bytearray((folder / GOLDEN).read_bytes())
    content[-1] ^= 1
    (folder / GOLDEN).write_bytes(content)
    with pytest.raises(BundleIntegrityError, match="was altered"):
        load(folder)


def test_load_checks_hashes_before_anything_runs(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "copy.bundle"
    shutil.copytree(tiny_bundle.path, folder)
    load(folder).close()
    content = bytearray((folder / MODEL_ONNX).read_bytes())
    content[-1] ^= 1
    (folder / MODEL_ONNX).write_bytes(content)
    with pytest.raises(BundleIntegrityError, match="was altered"):
        load(folder)


def test_load_of_nothing_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        load(tmp_path / "none.bundle")


def test_the_front_door_loads_the_same(tiny_bundle: Bundle, colour_frame: ColourFrame) -> None:
    import vitedge

    with vitedge.load(tiny_bundle, threads=1) as classifier:
        assert classifier.classify(colour_frame("green"), topk=1).label == "green"
