"""What ``vitedge models`` shows of the matrix: the data that the package carries."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from common.families import FAMILIES
from common.matrix.comparison import OPPONENTS, PeerComparison
from common.matrix.peer_page import reason
from common.matrix.rows import PRECISIONS, blank_row, by_family, rows_of


def packaged_models(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``vitedge/models.json``."""
    rows = rows_of(report)
    waiting = [blank_row(each) for each in FAMILIES if each.name not in {row.name for row in rows}]
    return {
        "version": 1,
        "models": [
            {
                "name": row.name,
                "family": row.family,
                "input_size": list(row.input_size),
                "parameters": row.parameters,
                "macs": row.macs,
                "processor": row.taken.processor if row.taken is not None else "",
                "date": row.taken.date if row.taken is not None else "",
                "precisions": {
                    precision: {
                        "failed": each.failed,
                        "speedup": each.speedup,
                        "p50_ms": each.p50_ms,
                        "megabytes": each.megabytes,
                    }
                    for precision, each in row.conversions.items()
                },
                "peers": {} if row.comparison is None else packaged_peers(row.comparison),
                "against_pytorch": {} if row.comparison is None else packaged_fidelity(row.comparison),
            }
            for family, group in by_family([row for row in [*rows, *waiting] if not row.trained])
            for row in group
        ],
    }


def packaged_peers(compared: PeerComparison) -> dict[str, Any]:
    """Return how each peer that runs compares with ours, and why it is faster if it is."""
    faster = compared.faster_peers()
    return {
        peer: {
            "precision": ours,
            "time_ratio": None if ratios is None else round(statistics.median(ratios), 3),
            "time_ratio_range": None if ratios is None else [round(min(ratios), 3), round(max(ratios), 3)],
            "sqnr_db": compared.contenders[peer].sqnr_db,
            "agreement": compared.contenders[peer].agreement,
            "collapsed": compared.collapsed(peer),
            "reason": reason(compared, peer) if peer in faster else "",
        }
        for peer, ours in OPPONENTS.items()
        if ours in compared.contenders and not compared.contenders[peer].failed
        for ratios in [compared.ratios(peer)]
    }


def packaged_fidelity(compared: PeerComparison) -> dict[str, Any]:
    """Return SQNR and agreement of our bundles."""
    ours = {name: each for name, each in compared.contenders.items() if name in PRECISIONS and not each.failed}
    return {name: {"sqnr_db": each.sqnr_db, "agreement": each.agreement} for name, each in ours.items()}
