"""What a rewrite did, place by place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Places:
    """Where a rewrite applied and where it did not.

    Attributes:
        changed: how many places of the graph it changed.
        left: how many it left as they were, by reason.
    """

    changed: int
    left: Mapping[str, int] = field(default_factory=dict)


ONE = Places(1)
"""Of a rewrite that changes the graph as a whole, or its input."""


def refusal(reasons: Iterable[str], *, nothing: str) -> str:
    """Why a rewrite applies nowhere; empty if it applies somewhere.

    Args:
        reasons: for each place that it looks at, why it does not apply there, or an empty string.
        nothing: what to say where there is no such place.
    """
    found = Counter[str]()
    for reason in reasons:
        if not reason:
            return ""
        found[reason] += 1
    return found.most_common(1)[0][0] if found else nothing
