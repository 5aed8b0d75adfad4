"""The places of a graph that a rule looks at: changed, or left for a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import onnx_ir as ir


class Change(Protocol):
    """The change that a rule makes at one place."""

    def apply(self, model: ir.Model) -> None:
        """Change the graph."""


@dataclass(frozen=True)
class Places:
    """The places where a rewrite applied, and those where it did not.

    Attributes:
        changed: how many places of the graph it changed.
        left: how many it left as they were, by reason.
    """

    changed: int
    left: Mapping[str, int] = field(default_factory=dict)


ONE = Places(1)
"""For a rewrite that changes the graph as a whole, or its input."""

Found = TypeVar("Found")


def refusal(found: Iterable[Change | str], *, nothing: str) -> str:
    """Give the reason why a rewrite applies nowhere; empty if it applies somewhere.

    Args:
        found: for each place that it looks at, the change, or the reason why there is none.
        nothing: the reason where there is no such place.
    """
    reasons = Counter[str]()
    for each in found:
        if not isinstance(each, str):
            return ""
        reasons[each] += 1
    return reasons.most_common(1)[0][0] if reasons else nothing


def apply_all(model: ir.Model, found: Iterable[Change | str]) -> Places:
    """Carry out each change before the next place is looked at."""
    changed, left = 0, Counter[str]()
    for each in found:
        if isinstance(each, str):
            left[each] += 1
        else:
            each.apply(model)
            changed += 1
    return Places(changed, left)


def all_of(found: Iterable[Found | str]) -> tuple[Found, ...] | str:
    """Give all that was found, or the first reason why something was not."""
    result: list[Found] = []
    for each in found:
        if isinstance(each, str):
            return each
        result.append(each)
    return tuple(result)
