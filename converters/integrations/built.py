"""The plan that a device built of a bundle, if one did."""

from __future__ import annotations

from vitedge.bundle.bundle import Bundle
from vitedge.runtime.engines.tensorrt.plan_store import Stored, graphs_of, stored_plans


def built_plan(bundle: Bundle) -> Stored | None:
    """The first plan that was built of the bundle's own graphs, whatever device it was built for."""
    graphs = graphs_of(bundle)
    return next(
        (
            found
            for found in stored_plans(bundle)
            if isinstance(found, Stored) and found.record.fingerprint.graphs == graphs
        ),
        None,
    )
