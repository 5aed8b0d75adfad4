from __future__ import annotations

from dataclasses import dataclass, field

import graphs

from vitedge.converters.rewrites.places import Places, all_of, apply_all, refusal

GRAPH = graphs.model((1, 8), "y = Relu(x)")


@dataclass
class Recorded:
    done: list[str] = field(default_factory=list)

    def apply(self, model: graphs.ir.Model) -> None:
        self.done.append(model.graph.name or "")


def test_the_most_frequent_reason_is_told() -> None:
    assert refusal(["a", "b", "b"], nothing="nothing") == "b"
    assert refusal([], nothing="nothing") == "nothing"
    assert refusal(["a", Recorded()], nothing="nothing") == ""


def test_each_change_is_made_before_the_next_place_is_looked_at() -> None:
    seen, first = [], Recorded()

    def found():
        yield first
        seen.extend(first.done)
        yield "a"
        yield "a"
        yield first

    assert apply_all(GRAPH, found()) == Places(2, {"a": 2})
    assert seen == ["g"]


def test_all_or_the_first_reason() -> None:
    assert all_of([1, 2]) == (1, 2)
    assert all_of([1, "a", "b"]) == "a"
