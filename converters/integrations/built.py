"""The plan that a device built from a bundle."""

from __future__ import annotations

from vitedge.bundle.bundle import Bundle
from vitedge.runtime.engines.tensorrt.plan_store import StoredPlan, graphs_of, stored_plans


def built_plan(bundle: Bundle) -> StoredPlan | None:
    """Return the first plan that was built from the graphs of the bundle, for any device; None if there is none."""
    graphs = graphs_of(bundle)
    return next(
        (
            found
            for found in stored_plans(bundle)
            if isinstance(found, StoredPlan) and found.record.fingerprint.graphs == graphs
        ),
        None,
    )
