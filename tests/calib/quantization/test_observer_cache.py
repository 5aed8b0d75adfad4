"""Observations remembered between runs: the same to the last bit, or made anew."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs

from vitedge.calib.quantization import observer_cache
from vitedge.calib.quantization.observer_cache import KEPT, KIND, observation_key, observe_once
from vitedge.calib.quantization.observers import Observed
from vitedge.progress import Silent
from vitedge.runtime.system.cache import cache_folder

AXES, TRIED = {"gelu0": -1, "pixels": 1}, 1
Item = TypeVar("Item")


class Passes(Silent):
    """Counts passes over the images; breaks off a pass after some of them if told to."""

    def __init__(self, breaks: int | None = None) -> None:
        self.count, self._breaks = 0, breaks

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
        self.count += 1
        for number, item in enumerate(items):
            if number == self._breaks:
                raise KeyboardInterrupt
            yield item


def remembered() -> list[Path]:
    folder = cache_folder() / KIND
    return list(folder.iterdir()) if folder.is_dir() else []


def assert_equal(found: dict[str, Observed], expected: dict[str, Observed]) -> None:
    assert list(found) == list(expected)
    for name, each in found.items():
        assert each.shape == expected[name].shape
        for images in ("tried", "others"):
            one, two = getattr(each, images), getattr(expected[name], images)
            assert one.low.dtype == one.high.dtype == np.float32
            np.testing.assert_array_equal(one.low, two.low)
            np.testing.assert_array_equal(one.high, two.high)
        mine, other = each.histogram, expected[name].histogram
        np.testing.assert_array_equal(mine.counts, other.counts)
        assert (mine.width, mine.low, mine.high) == (other.width, other.low, other.high)


def test_the_second_time_no_image_is_run_and_all_is_the_same() -> None:
    graph, images, passes = graphs.block(), graphs.frames(), Passes()
    first = observe_once(graph, AXES, images, TRIED, passes)
    again = observe_once(graph, AXES, images, TRIED, passes)
    assert passes.count == 1
    assert_equal(again, first)


def test_another_graph_other_images_or_other_tensors_are_observed_anew() -> None:
    graph, images = graphs.block(), graphs.frames()
    keys = {
        observation_key(graph, AXES, images, TRIED),
        observation_key(graphs.block(channels=np.full(graphs.WIDTH, 2.0)), AXES, images, TRIED),
        observation_key(graph, AXES, images[::-1], TRIED),
        observation_key(graph, AXES, images[:3], TRIED),
        observation_key(graph, {"gelu0": -1}, images, TRIED),
        observation_key(graph, {"gelu0": 1, "pixels": 1}, images, TRIED),
        observation_key(graph, AXES, images, 2),
    }
    assert len(keys) == 7
    assert observation_key(graphs.block(), dict(AXES), graphs.frames(), TRIED) in keys


DAMAGES = (
    *("cut off", "empty", "not JSON", "a tensor is missing", "other sizes", "a list", "infinite", "no number"),
    *("a large number", "a large count", "a negative count", "an infinite width", "a negative width", "text"),
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_counts_as_absent(damage: str) -> None:
    graph, images, passes = graphs.block(), graphs.frames(), Passes()
    first = observe_once(graph, AXES, images, TRIED, passes)
    (path,) = remembered()
    text = path.read_text(encoding="utf-8")
    value: dict[str, Any] = json.loads(text)
    damaged = {
        "cut off": text[: len(text) // 2],
        "empty": "",
        "not JSON": "\0" * 100,
        "a tensor is missing": json.dumps({"gelu0": value["gelu0"]}),
        "other sizes": json.dumps(value | {"gelu0": value["gelu0"] | {"others": [[0.0], [1.0]]}}),
        "a list": json.dumps(value | {"gelu0": [1, 2, 3]}),
    } | {
        name: json.dumps(value | {"gelu0": value["gelu0"] | other})
        for name, other in {
            "infinite": {"tried": np.full_like(value["gelu0"]["tried"], np.inf).tolist()},
            "no number": {"tried": np.full_like(value["gelu0"]["tried"], np.nan).tolist()},
            "a large number": {"tried": np.full_like(value["gelu0"]["tried"], 1e300).tolist()},
            "a large count": {"counts": [1 << 70] * len(value["gelu0"]["counts"])},
            "a negative count": {"counts": [-1] * len(value["gelu0"]["counts"])},
            "an infinite width": {"histogram": [np.inf, 0.0, 1.0]},
            "a negative width": {"histogram": [-1.0, 0.0, 1.0]},
            "text": {"shape": "text"},
        }.items()
    }
    path.write_text(damaged[damage], encoding="utf-8")
    assert_equal(observe_once(graph, AXES, images, TRIED, passes), first)
    assert passes.count == 2
    assert path.read_text(encoding="utf-8") == text  # and it is whole again


def test_an_interrupt_leaves_the_cache_as_it_was() -> None:
    graph, images = graphs.block(), graphs.frames()
    first = observe_once(graph, AXES, images, TRIED, Silent())
    before = {path: path.read_bytes() for path in remembered()}
    with pytest.raises(KeyboardInterrupt):
        observe_once(graph, AXES, images[:3], TRIED, Passes(breaks=1))
    assert {path: path.read_bytes() for path in remembered()} == before
    assert_equal(observe_once(graph, AXES, images, TRIED, Passes(breaks=0)), first)


def test_an_interrupt_while_it_is_written_leaves_nothing_half_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, text: str, **_: object) -> int:
        with path.open("w", encoding="utf-8") as stream:
            stream.write(text[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        observe_once(graphs.block(), AXES, graphs.frames(), TRIED, Silent())
    assert remembered() == []


def test_the_cache_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT > 1
    monkeypatch.setattr(observer_cache, "KEPT", 2)
    graph, images = graphs.block(), graphs.frames(4)
    for count in (1, 2, 3, 4):
        observe_once(graph, AXES, images[:count], TRIED, Silent())
    assert len(remembered()) == 2
    passes = Passes()
    observe_once(graph, AXES, images, TRIED, passes)
    assert passes.count == 0  # the last one is there
    observe_once(graph, AXES, images[:1], TRIED, passes)
    assert passes.count == 1  # the first one is not
