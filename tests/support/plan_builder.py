"""A builder of plans that names its graph in each, and what is found of them afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_tensorrt import FakeTensorrt

from vitedge.bundle.bundle import Bundle
from vitedge.runtime.engines.tensorrt.build.worker import BuildRequest
from vitedge.runtime.engines.tensorrt.fingerprint import fingerprint_of
from vitedge.runtime.engines.tensorrt.plan_store import StoredPlan, find_plan, graphs_of

GIBIBYTE = 1 << 30


class Builder:
    """Stands in for ``build_apart``: a plan names its graph."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.known_timings: list[bytes] = []
        self.errors: dict[str, BaseException] = {}
        self.hook: Callable[[], None] = lambda: None

    def __call__(self, request: BuildRequest, progress: Any) -> None:
        name, cache = Path(request.graph).name, Path(request.timing_cache)
        self.built.append(name)
        self.known_timings.append(cache.read_bytes() if cache.is_file() else b"")
        self.hook()
        if name in self.errors:
            raise self.errors[name]
        Path(request.plan).write_bytes(f"plan of {name}".encode())
        cache.write_bytes(self.known_timings[-1] + b"timed ")


def here(bundle: Bundle, module: FakeTensorrt) -> StoredPlan:
    found = find_plan(bundle, fingerprint_of(module, module.cuda.gpu(), graphs_of(bundle)))
    assert isinstance(found, StoredPlan), found
    return found


def files(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def slow(module: FakeTensorrt, plan: bytes) -> None:
    """Make one plan slower by far more than any noise."""
    answer = module.answers[plan]

    def slower(frame: Any) -> Any:
        time.sleep(0.02)
        return answer(frame)

    module.answers[plan] = slower
