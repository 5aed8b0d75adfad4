"""TensorRT on an NVIDIA GPU: the plan that was built on this device; ``runtime/tensorrt`` builds and runs it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from vitedge.bundle.bundle import Bundle
from vitedge.runtime.engines.tensorrt.build.build import ensure_built
from vitedge.runtime.engines.tensorrt.device import Device, open_device
from vitedge.runtime.engines.tensorrt.engine import TensorrtEngine, open_plan
from vitedge.runtime.engines.tensorrt.fingerprint import fingerprint_of
from vitedge.runtime.engines.tensorrt.plan_store import Stored, find_plan, graphs_of, tensorrt_of
from vitedge.safety.escape import terminal

logger = logging.getLogger("vitedge")

LANES = 2
"""While one computes, the other copies."""


def open_engine(bundle: Bundle, *, threads: int | None = None) -> TensorrtEngine:  # noqa: ARG001
    """Open the plan that was built for this device; where there is none, build it first, which takes minutes.

    Args:
        bundle: what to run.
        threads: of the CPU, which has nothing to compute here.

    Raises:
        MissingExtraError: a package is not installed.
        UsageError: the bundle is for another backend.
        EngineError: no TensorRT, driver or GPU; the build failed; or the plan is not of this bundle's model.
        BundleIntegrityError: the plan was altered.
    """
    (engine,) = _open(bundle, lanes=1)
    return engine


def open_lanes(bundle: Bundle, *, threads: int | None = None) -> Sequence[TensorrtEngine]:  # noqa: ARG001
    """Two engines on one plan: one copies while the other computes. Arguments and errors as for ``open_engine``."""
    return _open(bundle, lanes=LANES)


def _open(bundle: Bundle, lanes: int) -> list[TensorrtEngine]:
    device = open_device(tensorrt_of(bundle).module)
    plan = _plan(bundle, device)
    return open_plan(device, bundle, plan.read(), plan.path, graph=plan.record.kept, lanes=lanes)


def _plan(bundle: Bundle, device: Device) -> Stored:
    found = find_plan(bundle, fingerprint_of(device.module, device.gpu, graphs_of(bundle)))
    if isinstance(found, Stored):
        return found
    said = f"{bundle.path}: {found}; building it now, which vitedge build does beforehand"
    logger.warning("%s", terminal(said))
    return ensure_built(bundle, device)
