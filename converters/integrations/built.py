"""The plan that a device built of a bundle, if one did."""

from __future__ import annotations

from vitedge.bundle.bundle import Bundle
from vitedge.runtime.engines.tensorrt.plan_store import StoredPlan, graphs_of, stored_plans


def built_plan(bundle: Bundle) -> StoredPlan | None:
    """The first plan that was built of the bundle's own graphs, whatever device it was built for."""
    graphs = graphs_of(bundle)
    return next(
        (
            found
            for found in stored_plans(bundle)
            if isinstance(found, StoredPlan) and found.record.fingerprint.graphs == graphs
        ),
        None,
    )
