"""Whether a bundle has an engine for this device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.targets import target_named
from vitedge.errors import BundleIntegrityError, BundleSchemaError, VitedgeError
from vitedge.safety.escape import shell

if TYPE_CHECKING:
    from vitedge.runtime.engines.tensorrt.build_record import BuildRecord
    from vitedge.runtime.engines.tensorrt.plan_store import StoredPlan

State = Literal["not built", "built", "built elsewhere", "built for another device", "altered", "unreadable"]


@dataclass(frozen=True)
class EngineState:
    """The TensorRT engine of a bundle, as this device sees it.

    Attributes:
        state: ``built`` if this device can run the engine.
        reason: why this device cannot run it, or why that is unknown; empty if it can.
        record: the record of the build; None if there is no engine, or its record cannot be read.
    """

    state: State
    reason: str
    record: BuildRecord | None


def engine_state(bundle: Bundle) -> EngineState | None:
    """Look for the engine of a bundle; None if the bundle is for another backend than TensorRT."""
    if target_named(bundle.manifest.target).tensorrt is None:
        return None
    from vitedge.runtime.engines.tensorrt.plan_store import stored_plans

    found = stored_plans(bundle)
    if not found:
        return EngineState("not built", f"vitedge build {shell(str(bundle.path))} does that, on the device", None)
    states = [_state(bundle, each) for each in found]
    return min(states, key=lambda each: each.state != "built")


def _state(bundle: Bundle, found: StoredPlan | BundleSchemaError) -> EngineState:
    if isinstance(found, BundleSchemaError):
        return EngineState("unreadable", found.problem, None)
    try:
        found.read()
    except BundleIntegrityError as error:
        return EngineState("altered", error.problem, found.record)
    return _fit(bundle, found)


def _fit(bundle: Bundle, found: StoredPlan) -> EngineState:
    from vitedge.runtime.engines.tensorrt.device import open_device
    from vitedge.runtime.engines.tensorrt.fingerprint import difference, fingerprint_of
    from vitedge.runtime.engines.tensorrt.plan_store import graphs_of, tensorrt_of

    try:
        device = open_device(tensorrt_of(bundle).module)
        here = fingerprint_of(device.module, device.gpu, graphs_of(bundle))
    except VitedgeError as error:
        return EngineState("built for another device", f"this one cannot run it: {error.problem}", found.record)
    changed = difference(found.record.fingerprint, here)
    if changed:
        return EngineState("built for another device", changed, found.record)
    if not found.is_built_here:
        reason = "not by this user on this machine, where it is built anew"
        return EngineState("built elsewhere", reason, found.record)
    return EngineState("built", "", found.record)
