"""``build``: compile a bundle's graphs on this device, time them, keep the faster one that passes its self-test.

    lock ─▶ memory ─▶ each graph in a process of its own ─▶ self-test ─▶ timed in turns ─▶ published as one folder

Until the last step the plan that was there before stays as it was.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from vitedge.bundle.bundle import Bundle, open_bundle
from vitedge.errors import EngineError, UsageError
from vitedge.progress import Progress, Silent
from vitedge.runtime.system.machine import read_memory
from vitedge.runtime.engines.self_test import self_test
from vitedge.runtime.engines.tensorrt.device import Device, open_device
from vitedge.runtime.engines.tensorrt.engine import TensorrtEngine, open_plan
from vitedge.runtime.engines.tensorrt.fingerprint import Fingerprint, fingerprint_of
from vitedge.runtime.engines.tensorrt.layers import attention_blocks
from vitedge.runtime.engines.tensorrt.build_record import SCHEMA_VERSION, BuildRecord, Candidate, Latency, dump_record
from vitedge.runtime.engines.tensorrt.plan_store import (BUILD_JSON, MODEL_PLAN, NOTHING_YET, TIMING_CACHE, Stored, building, find_plan, graphs_of, known_timings, place_to_write, publish, remember_build, tensorrt_of, timings_in)
from vitedge.runtime.engines.tensorrt.build.worker import Request, build_apart
from vitedge.bundle.signatures import Trust
from vitedge.version import VERSION

MEBIBYTE = 1 << 20
MOST_WORKSPACE = 1024 * MEBIBYTE
LEAST_WORKSPACE = 64 * MEBIBYTE
WORKSPACE_SHARE = 4
"""The workspace is a quarter of the memory that is available, up to the most."""
BASE_BYTES = 1024 * MEBIBYTE
"""For CUDA and TensorRT's libraries themselves. An estimate, like the next: what a build takes is not documented."""
GRAPH_FACTOR = 4
"""Copies of the weights that a build holds: the file, the network's, the kernels', the plan's."""

FORGOTTEN = (
    "warning: the cache cannot be written, so other programs do not know that this engine was built here and build it "
    "anew; set VITEDGE_CACHE to a folder of your own"
)

WARM_UP_RUNS = 20
ROUNDS = 20
RUNS_A_ROUND = 20


@dataclass(frozen=True)
class _Trial:
    """A candidate on its way."""

    candidate: Candidate
    plan: Path
    runner: TensorrtEngine | None = None

    @property
    def median(self) -> float:
        return float("inf") if self.candidate.latency is None else self.candidate.latency.median


def build(
    bundle: Bundle | str | Path,
    *,
    workspace_mb: int | None = None,
    force: bool = False,
    trust: Trust | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> BuildRecord:
    """Build a bundle's engine, unless it has one for this device.

    Args:
        bundle: a bundle for a Jetson, nvidia-gpu or rtx, or the path of one.
        workspace_mb: most scratch memory of a layer, in MiB; by default a quarter of what is available, up to 1024.
        force: build even if there is an engine for this device.
        trust: public keys, of which one has to have signed the bundle.
        progress: receives the steps.

    Returns:
        What was built, or is there.

    Raises:
        BundleError: the bundle cannot be read, or no trusted key has signed it.
        UsageError: it is for another backend, ``workspace_mb`` is less than 1, or what is trusted is no key.
        MissingExtraError: a package is not installed.
        EngineError: no TensorRT, driver or GPU; too little memory; a build failed; or no engine passes its self-test.
            The engine that was there before is still there.
        BundleIntegrityError: a graph has another hash than the manifest says; or the engine that is there was altered:
            ``force`` builds it anew.
    """
    opened = open_bundle(bundle, trust=trust)
    if workspace_mb is not None and workspace_mb < 1:
        raise UsageError(f"the workspace is {workspace_mb} MiB", expected="1 or more")
    device = open_device(tensorrt_of(opened).module)
    workspace = None if workspace_mb is None else workspace_mb * MEBIBYTE
    return ensure_built(opened, device, workspace=workspace, force=force, progress=progress).record


def ensure_built(
    bundle: Bundle,
    device: Device,
    *,
    workspace: int | None = None,
    force: bool = False,
    progress: Progress = Silent(),  # noqa: B008
) -> Stored:
    """The plan of a bundle for a device, which is built if it is not there; ``workspace`` is in bytes."""
    here = fingerprint_of(device.module, device.gpu, graphs_of(bundle))
    place = place_to_write(bundle)
    try:
        with building(place, progress) as work:
            found = find_plan(bundle, here)
            if isinstance(found, Stored) and not force:
                found.read()  # an altered plan is not what was built
                return found
            if isinstance(found, str) and found != NOTHING_YET:
                progress.step(f"building anew: {found}")
            allowed = check_memory(bundle, workspace)
            record = _build(bundle, device, here, work, known_timings(place, bundle), allowed, progress)
            timings = timings_in(work)
            publish(work, place)
            if not remember_build(record, timings):
                progress.step(FORGOTTEN)
            return Stored(place, record)
    except OSError as error:
        raise EngineError(f"{place} cannot be written: {error}", fix="free some space, or check permissions") from error


def check_memory(bundle: Bundle, workspace: int | None) -> int:
    """The workspace in bytes; refuses to begin what the system would kill.

    Raises:
        EngineError: less memory is available than the build of the largest graph is estimated to take.
    """
    available = read_memory().available
    if available is None:
        return MOST_WORKSPACE if workspace is None else workspace
    share = max(LEAST_WORKSPACE, min(MOST_WORKSPACE, available // WORKSPACE_SHARE))
    allowed = share if workspace is None else workspace
    largest = max(bundle.manifest.files[name].bytes for name in graphs_of(bundle))
    needed = BASE_BYTES + GRAPH_FACTOR * largest + allowed
    if needed > available:
        raise EngineError(
            f"building {bundle.path} takes about {needed // MEBIBYTE} MiB of memory, and {available // MEBIBYTE} MiB "
            "are available",
            expected=f"{BASE_BYTES // MEBIBYTE} MiB for TensorRT, {GRAPH_FACTOR} times the graph of "
            f"{largest // MEBIBYTE} MiB, {allowed // MEBIBYTE} MiB of workspace; this is an estimate",
            fix="close other programs (on a Jetson, sudo init 3 ends the desktop), add swap, or give --workspace-mb "
            "a smaller number",
        )
    return allowed


def _build(
    bundle: Bundle,
    device: Device,
    here: Fingerprint,
    work: Path,
    timed: bytes,
    workspace: int,
    progress: Progress,
) -> BuildRecord:
    """Build and choose; leaves exactly the files of a published folder in ``work``."""
    if timed:
        (work / TIMING_CACHE).write_bytes(timed)
    trials = [_built(bundle, device, name, work, workspace, progress) for name in here.graphs]
    with ExitStack() as opened:
        trials = [_tested(bundle, device, trial, opened, progress) for trial in trials]
        trials = _timed(trials, progress)
        best = min(trials, key=lambda trial: trial.median)
        if best.runner is None:
            raise _refused(bundle, trials)
        attention = attention_blocks(best.runner.layers)
    best.plan.rename(work / MODEL_PLAN)
    for trial in trials:
        trial.plan.unlink(missing_ok=True)
    content = (work / MODEL_PLAN).read_bytes()
    record = BuildRecord(
        schema_version=SCHEMA_VERSION,
        vitedge_version=VERSION,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        fingerprint=here,
        kept=best.candidate.graph,
        plan_sha256=hashlib.sha256(content).hexdigest(),
        plan_bytes=len(content),
        workspace_bytes=workspace,
        candidates=tuple(trial.candidate for trial in trials),
        attention=attention,
    )
    (work / BUILD_JSON).write_text(dump_record(record), encoding="utf-8")
    return record


def _built(bundle: Bundle, device: Device, name: str, work: Path, workspace: int, progress: Progress) -> _Trial:
    """One graph; that it cannot be built is no reason not to try the other."""
    progress.step(f"building {name} with {device.api.title} on {device.gpu.name}; the first build takes minutes")
    plan, graph = work / f"{name}.plan", work / name
    graph.write_bytes(bundle.read_graph(name))  # what the other process reads is what was hashed here
    request = Request(
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
    size = plan.stat().st_size if plan.is_file() else 0
    return _Trial(Candidate(name, seconds, size, "unavailable", None, None, refusal), plan)


def _tested(bundle: Bundle, device: Device, trial: _Trial, opened: ExitStack, progress: Progress) -> _Trial:
    """Open what was built and have it prove itself."""
    candidate = trial.candidate
    if candidate.refusal:
        return trial
    progress.step(f"self-test of {candidate.graph}")
    try:
        (runner,) = open_plan(device, bundle, trial.plan.read_bytes(), trial.plan, graph=candidate.graph)
        opened.callback(runner.close)
        precision = runner.info.effective_precision
        candidate = replace(candidate, precision=precision, sqnr_db=self_test(bundle, runner).sqnr_db)
    except EngineError as error:
        return replace(trial, candidate=replace(candidate, refusal=str(error)))
    return replace(trial, candidate=candidate, runner=runner)


def _timed(trials: list[_Trial], progress: Progress) -> list[_Trial]:
    """Latency of those that passed, measured in turns, so that heat and other programs meet them alike."""
    runners = {trial.candidate.graph: trial.runner for trial in trials if trial.runner is not None}
    for runner in runners.values():
        for _ in range(WARM_UP_RUNS):
            runner.run()
    progress.step("timing, in turns" if len(runners) > 1 else "timing")
    taken: Mapping[str, list[int]] = {name: [] for name in runners}
    for _ in range(ROUNDS):
        for name, runner in runners.items():
            for _ in range(RUNS_A_ROUND):
                begun = time.perf_counter_ns()
                runner.run()
                taken[name].append(time.perf_counter_ns() - begun)
    return [
        replace(trial, candidate=replace(trial.candidate, latency=_latency(taken[trial.candidate.graph])))
        if trial.runner is not None
        else trial
        for trial in trials
    ]


def _latency(nanoseconds: list[int]) -> Latency:
    low, median, high = np.percentile(nanoseconds, (10, 50, 90)) / 1e6
    return Latency(median=float(median), low=float(low), high=float(high), runs=len(nanoseconds))


def _refused(bundle: Bundle, trials: list[_Trial]) -> EngineError:
    reasons = "\n".join(f"  {trial.candidate.graph}: {trial.candidate.refusal}" for trial in trials)
    return EngineError(f"no engine of {bundle.path} could be built\n{reasons}")
