"""``build``: compile a bundle's graphs on this device, time them, and keep the fastest that passes its self-test.

    lock ─▶ check memory ─▶ build each graph in its own process ─▶ self-test ─▶ time in turns ─▶ replace the plan folder

The previous plan stays in place until the last step.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from vitedge.bundle.bundle import Bundle, data_of, open_bundle
from vitedge.bundle.signatures import Trust
from vitedge.errors import EngineError, UsageError
from vitedge.progress import Guarded, Progress, Silent, reporting
from vitedge.runtime.engines.self_test import self_test
from vitedge.runtime.engines.tensorrt.build.worker import BuildRequest, build_apart
from vitedge.runtime.engines.tensorrt.build_record import (
    SCHEMA_VERSION,
    BuildCandidate,
    BuildRecord,
    InferenceLatency,
    dump_record,
)
from vitedge.runtime.engines.tensorrt.device import Device, open_device
from vitedge.runtime.engines.tensorrt.engine import TensorrtEngine, open_plan
from vitedge.runtime.engines.tensorrt.fingerprint import Fingerprint, fingerprint_of
from vitedge.runtime.engines.tensorrt.layers import attention_blocks
from vitedge.runtime.engines.tensorrt.plan_store import (
    BUILD_JSON,
    MODEL_PLAN,
    NOTHING_YET,
    TIMING_CACHE,
    StoredPlan,
    build_lock,
    find_plan,
    graphs_of,
    known_timings,
    register_build,
    replace_plan_dir,
    tensorrt_of,
    timings_in,
    writable_plan_dir,
)
from vitedge.runtime.system.machine import read_memory
from vitedge.version import VERSION

MEBIBYTE = 1 << 20
MOST_WORKSPACE = 1024 * MEBIBYTE
LEAST_WORKSPACE = 64 * MEBIBYTE
WORKSPACE_SHARE = 4
"""The workspace is a quarter of the available memory, up to ``MOST_WORKSPACE``."""
BASE_BYTES = 1024 * MEBIBYTE
"""Memory of the CUDA and TensorRT libraries. An estimate, as is ``GRAPH_FACTOR``: NVIDIA does not document it."""
GRAPH_FACTOR = 4
"""Copies of the weights that a build holds: in the file, the network, the kernels and the plan."""

NOT_REGISTERED = (
    "warning: the cache cannot be written, so other programs do not know that this engine was built here and build it "
    "anew; set VITEDGE_CACHE to a folder of your own"
)

WARM_UP_RUNS = 20
ROUNDS = 20
RUNS_A_ROUND = 20


@dataclass(frozen=True)
class _Candidate:
    """A graph that was built, with its plan and the engine that runs it; None if it was refused."""

    record: BuildCandidate
    plan: Path
    engine: TensorrtEngine | None = None

    @property
    def median(self) -> float:
        return float("inf") if self.record.latency is None else self.record.latency.median


def build(
    bundle: Bundle | str | Path,
    *,
    workspace_mb: int | None = None,
    overwrite: bool = False,
    trust: Trust | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> BuildRecord:
    """Build a bundle's engine, unless it has one for this device.

    Args:
        bundle: a bundle for a Jetson, nvidia-gpu or rtx, or its path.
        workspace_mb: scratch memory limit of a layer, in MiB; by default a quarter of the available memory, at most
            1024.
        overwrite: build even if there is an engine for this device.
        trust: public keys, one of which must have signed the bundle.
        progress: receives the steps.

    Returns:
        The record of the build, or of the engine that was already there.

    Raises:
        BundleError: the bundle cannot be read, or no trusted key has signed it.
        UsageError: the bundle is for another backend, ``workspace_mb`` is less than 1, or ``trust`` is not a key.
        MissingExtraError: a package is not installed.
        EngineError: no TensorRT, driver or GPU; too little memory; a build failed; or no engine passes its self-test.
            The previous engine stays in place.
        BundleIntegrityError: a graph differs from its hash in the manifest, or the existing engine was altered;
            ``overwrite`` builds it again.
    """
    opened = open_bundle(bundle, trust=trust)
    if workspace_mb is not None and workspace_mb < 1:
        raise UsageError(f"the workspace is {workspace_mb} MiB", expected="1 or more")
    device = open_device(tensorrt_of(opened).module)
    workspace = None if workspace_mb is None else workspace_mb * MEBIBYTE
    return ensure_built(opened, device, workspace=workspace, overwrite=overwrite, progress=progress).record


def ensure_built(
    bundle: Bundle,
    device: Device,
    *,
    workspace: int | None = None,
    overwrite: bool = False,
    progress: Progress = Silent(),  # noqa: B008
) -> StoredPlan:
    """Return the bundle's plan for a device and build it if there is none; ``workspace`` is in bytes."""
    here = fingerprint_of(device.module, device.gpu, graphs_of(bundle))
    plan_dir = writable_plan_dir(bundle)
    guarded = Guarded(progress)
    try:
        with reporting(progress), build_lock(plan_dir, guarded) as work:
            found = find_plan(bundle, here)
            if isinstance(found, StoredPlan) and not overwrite:
                found.read()  # raises if the plan was altered
                return found
            if isinstance(found, str) and found != NOTHING_YET:
                guarded.step(f"building anew: {found}")
            allowed = check_memory(bundle, workspace)
            record = _build(bundle, device, here, work, known_timings(plan_dir, bundle), allowed, guarded)
            timings = timings_in(work)
            replace_plan_dir(work, plan_dir)
            if not register_build(record, timings):
                guarded.step(NOT_REGISTERED)
            return StoredPlan(plan_dir, record)
    except OSError as error:
        raise EngineError(
            f"{plan_dir} cannot be written: {error}", fix="free some space, or check permissions"
        ) from error


def check_memory(bundle: Bundle, workspace: int | None) -> int:
    """Return the workspace in bytes, and refuse a build that the system would kill for its memory.

    Raises:
        EngineError: the build of the largest graph is estimated to take more memory than is available.
    """
    available = read_memory().available
    if available is None:
        return MOST_WORKSPACE if workspace is None else workspace
    share = max(LEAST_WORKSPACE, min(MOST_WORKSPACE, available // WORKSPACE_SHARE))
    allowed = share if workspace is None else workspace
    files = bundle.manifest.files
    largest = max(
        sum(files[each].bytes for each in (name, data_of(name)) if each in files) for name in graphs_of(bundle)
    )
    needed = BASE_BYTES + GRAPH_FACTOR * largest + allowed
    if needed > available:
        raise EngineError(
            f"building {bundle.path} takes about {needed // MEBIBYTE} MiB of memory, and {available // MEBIBYTE} MiB "
            "are available",
            expected=f"{BASE_BYTES // MEBIBYTE} MiB for TensorRT, {GRAPH_FACTOR} times the graph of "
            f"{largest // MEBIBYTE} MiB, {allowed // MEBIBYTE} MiB of workspace; this is an estimate",
            fix="close other programs (on a Jetson, sudo init 3 ends the desktop), add swap, or give a smaller "
            "workspace_mb=",
        )
    return allowed


def _build(
    bundle: Bundle,
    device: Device,
    here: Fingerprint,
    work: Path,
    timings: bytes,
    workspace: int,
    progress: Progress,
) -> BuildRecord:
    """Build every graph and choose one; ``work`` then holds exactly the files of a plan folder."""
    if timings:
        (work / TIMING_CACHE).write_bytes(timings)
    candidates = [_built(bundle, device, name, work, workspace, progress) for name in here.graphs]
    with ExitStack() as engines:
        candidates = [_tested(bundle, device, each, engines, progress) for each in candidates]
        candidates = _timed(candidates, progress)
        best = min(candidates, key=lambda each: each.median)
        if best.engine is None:
            raise _none_passed(bundle, candidates)
        attention = attention_blocks(best.engine.layers)
    best.plan.rename(work / MODEL_PLAN)
    for candidate in candidates:
        candidate.plan.unlink(missing_ok=True)
    content = (work / MODEL_PLAN).read_bytes()
    record = BuildRecord(
        schema_version=SCHEMA_VERSION,
        vitedge_version=VERSION,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        fingerprint=here,
        kept=best.record.graph,
        plan_sha256=hashlib.sha256(content).hexdigest(),
        plan_bytes=len(content),
        workspace_bytes=workspace,
        candidates=tuple(candidate.record for candidate in candidates),
        attention=attention,
    )
    (work / BUILD_JSON).write_text(dump_record(record), encoding="utf-8")
    return record


def _built(bundle: Bundle, device: Device, name: str, work: Path, workspace: int, progress: Progress) -> _Candidate:
    """Build one graph; if that fails, return a refused candidate, because another graph may succeed."""
    progress.step(f"building {name} with {device.api.title} on {device.gpu.name}; the first build takes minutes")
    plan, graph = work / f"{name}.plan", work / name
    graph.write_bytes(bundle.read_graph(name))  # the worker reads the very bytes that were hashed
    weights, data = work / data_of(name), bundle.graph_data(name)
    if data is not None:
        data.tofile(weights)
    del data
    request = BuildRequest(
        module=tensorrt_of(bundle).module,
        graph=str(graph),
        plan=str(plan),
        timing_cache=str(work / TIMING_CACHE),
        workspace_bytes=workspace,
    )
    begun = time.monotonic()
    refusal = ""
    try:
        build_apart(request, progress)
    except EngineError as error:
        refusal = str(error).replace(str(graph), str(bundle.file(name)))
    seconds = time.monotonic() - begun
    graph.unlink()
    weights.unlink(missing_ok=True)
    size = plan.stat().st_size if plan.is_file() else 0
    return _Candidate(BuildCandidate(name, seconds, size, "unavailable", None, None, refusal), plan)


def _tested(
    bundle: Bundle, device: Device, candidate: _Candidate, engines: ExitStack, progress: Progress
) -> _Candidate:
    """Open the engine of a candidate, which ``engines`` closes, and run its self-test."""
    record = candidate.record
    if record.refusal:
        return candidate
    progress.step(f"self-test of {record.graph}")
    try:
        (engine,) = open_plan(device, bundle, candidate.plan.read_bytes(), candidate.plan, graph=record.graph)
        engines.callback(engine.close)
        reached = self_test(bundle, engine).sqnr_db
        record = replace(record, precision=engine.info.effective_precision, sqnr_db=reached)
    except EngineError as error:
        return replace(candidate, record=replace(record, refusal=str(error)))
    return replace(candidate, record=record, engine=engine)


def _timed(candidates: list[_Candidate], progress: Progress) -> list[_Candidate]:
    """Time the candidates that passed, in turns, so that heat and other programs affect all of them alike."""
    engines = {each.record.graph: each.engine for each in candidates if each.engine is not None}
    for engine in engines.values():
        for _ in range(WARM_UP_RUNS):
            engine.run()
    progress.step("timing, in turns" if len(engines) > 1 else "timing")
    nanoseconds: dict[str, list[int]] = {name: [] for name in engines}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            for _ in range(RUNS_A_ROUND):
                begun = time.perf_counter_ns()
                engine.run()
                nanoseconds[name].append(time.perf_counter_ns() - begun)
    return [_with_latency(each, nanoseconds) if each.engine is not None else each for each in candidates]


def _with_latency(candidate: _Candidate, nanoseconds: Mapping[str, Sequence[int]]) -> _Candidate:
    latency = _latency(nanoseconds[candidate.record.graph])
    return replace(candidate, record=replace(candidate.record, latency=latency))


def _latency(nanoseconds: Sequence[int]) -> InferenceLatency:
    low, median, high = np.percentile(nanoseconds, (10, 50, 90)) / 1e6
    return InferenceLatency(median=float(median), low=float(low), high=float(high), runs=len(nanoseconds))


def _none_passed(bundle: Bundle, candidates: list[_Candidate]) -> EngineError:
    reasons = "\n".join(f"  {each.record.graph}: {each.record.refusal}" for each in candidates)
    return EngineError(f"no engine of {bundle.path} could be built\n{reasons}")
