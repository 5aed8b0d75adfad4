"""Open the plan of a bundle that was built on this device; build it first if there is none."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from vitedge.bundle.bundle import Bundle
from vitedge.progress import Progress, Silent
from vitedge.runtime.engines.tensorrt.build.build import ensure_built
from vitedge.runtime.engines.tensorrt.device import Device, open_device
from vitedge.runtime.engines.tensorrt.engine import TensorrtEngine, open_plan
from vitedge.runtime.engines.tensorrt.fingerprint import fingerprint_of
from vitedge.runtime.engines.tensorrt.plan_store import StoredPlan, find_plan, graphs_of, tensorrt_of
from vitedge.safety.escape import terminal

logger = logging.getLogger("vitedge")

WORKERS = 2
"""While one computes, the other copies."""


def open_engine(
    bundle: Bundle,
    *,
    threads: int | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> TensorrtEngine:
    """Open the plan that was built for this device; if there is none, build it first, which takes minutes.

    Args:
        bundle: the bundle to run.
        threads: ignored, which is logged; the CPU has nothing to compute.
        progress: receives the steps of the build.

    Raises:
        MissingExtraError: a package is not installed.
        UsageError: the bundle is for another backend.
        EngineError: no TensorRT, driver or GPU; the build failed; or the plan does not belong to this bundle's model.
        BundleIntegrityError: the plan was altered.
    """
    if threads is not None:
        logger.warning("threads=%d has no effect: TensorRT computes on the GPU", threads)
    (engine,) = _open(bundle, 1, progress)
    return engine


def open_workers(
    bundle: Bundle,
    *,
    threads: int | None = None,  # noqa: ARG001
    batches: bool = False,  # noqa: ARG001
) -> Sequence[TensorrtEngine]:
    """Open two engines on one plan: one copies while the other computes.

    Arguments and errors are as for ``open_engine``.
    """
    return _open(bundle, WORKERS, Silent())


def _open(bundle: Bundle, workers: int, progress: Progress) -> list[TensorrtEngine]:
    device = open_device(tensorrt_of(bundle).module)
    plan = _plan(bundle, device, progress)
    return open_plan(device, bundle, plan.read(), plan.path, graph=plan.record.kept, workers=workers)


def _plan(bundle: Bundle, device: Device, progress: Progress) -> StoredPlan:
    found = find_plan(bundle, fingerprint_of(device.module, device.gpu, graphs_of(bundle)))
    if isinstance(found, StoredPlan):
        return found
    message = f"{bundle.path}: {found}; building it now; vitedge build does that beforehand"
    logger.warning("%s", terminal(message))
    return ensure_built(bundle, device, progress=progress)
