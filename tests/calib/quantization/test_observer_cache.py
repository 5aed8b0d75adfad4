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
from vitedge.calib.quantization.observers import FirstImages, Observations
from vitedge.progress import Silent
from vitedge.runtime.system.cache import cache_folder

AXES, FIRST = {"gelu0": -1, "pixels": 1}, FirstImages(1, 2)
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


def assert_equal(found: Observations, expected: Observations) -> None:
    np.testing.assert_array_equal(found.outputs, expected.outputs)
    assert {each.dtype for each in found.outputs} == {np.dtype(np.float32)}
    assert list(found.tensors) == list(expected.tensors)
    for name, each in found.tensors.items():
        other = expected.tensors[name]
        assert each.shape == other.shape
        for images in ("tried", "others"):
            one, two = getattr(each, images), getattr(other, images)
            assert one.low.dtype == one.high.dtype == np.float32
            np.testing.assert_array_equal(one.low, two.low)
            np.testing.assert_array_equal(one.high, two.high)
        mine, theirs = each.histogram, other.histogram
        np.testing.assert_array_equal(mine.counts, theirs.counts)
        assert (mine.width, mine.low, mine.high) == (theirs.width, theirs.low, theirs.high)


def test_the_second_time_no_image_is_run_and_all_is_the_same() -> None:
    graph, images, passes = graphs.block(), graphs.frames(), Passes()
    first = observe_once(graph, AXES, images, FIRST, passes)
    again = observe_once(graph, AXES, images, FIRST, passes)
    assert passes.count == 1
    assert_equal(again, first)


def test_another_graph_other_images_or_other_tensors_are_observed_anew() -> None:
    graph, images = graphs.block(), graphs.frames()
    keys = {
        observation_key(graph, AXES, images, FIRST),
        observation_key(graphs.block(channels=np.full(graphs.WIDTH, 2.0)), AXES, images, FIRST),
        observation_key(graph, AXES, images[::-1], FIRST),
        observation_key(graph, AXES, images[:3], FIRST),
        observation_key(graph, {"gelu0": -1}, images, FIRST),
        observation_key(graph, {"gelu0": 1, "pixels": 1}, images, FIRST),
        observation_key(graph, AXES, images, FirstImages(2, 2)),
        observation_key(graph, AXES, images, FirstImages(1, 3)),
    }
    assert len(keys) == 8
    assert observation_key(graphs.block(), dict(AXES), graphs.frames(), FIRST) in keys


DAMAGES = (
    *("cut off", "empty", "not JSON", "a tensor is missing", "other sizes", "a list", "infinite", "no number"),
    *("a large number", "a large count", "a negative count", "an infinite width", "a negative width", "text"),
    *("an output is missing", "an output is infinite", "outputs of two sizes", "no outputs"),
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_counts_as_absent(damage: str) -> None:
    graph, images, passes = graphs.block(), graphs.frames(), Passes()
    first = observe_once(graph, AXES, images, FIRST, passes)
    (path,) = remembered()
    text = path.read_text(encoding="utf-8")
    value: dict[str, Any] = json.loads(text)
    gelu = value["tensors"]["gelu0"]

    def with_gelu(other: Any) -> str:
        return json.dumps(value | {"tensors": value["tensors"] | {"gelu0": other}})

    damaged = {
        "cut off": text[: len(text) // 2],
        "empty": "",
        "not JSON": "\0" * 100,
        "a tensor is missing": json.dumps(value | {"tensors": {"gelu0": gelu}}),
        "other sizes": with_gelu(gelu | {"others": [[0.0], [1.0]]}),
        "a list": with_gelu([1, 2, 3]),
        "an output is missing": json.dumps(value | {"outputs": value["outputs"][:1]}),
        "an output is infinite": json.dumps(value | {"outputs": [[np.inf]] * 2}),
        "outputs of two sizes": json.dumps(value | {"outputs": [value["outputs"][0], [1.0]]}),
        "no outputs": json.dumps({"tensors": value["tensors"]}),
    } | {
        name: with_gelu(gelu | other)
        for name, other in {
            "infinite": {"tried": np.full_like(gelu["tried"], np.inf).tolist()},
            "no number": {"tried": np.full_like(gelu["tried"], np.nan).tolist()},
            "a large number": {"tried": np.full_like(gelu["tried"], 1e300).tolist()},
            "a large count": {"counts": [1 << 70] * len(gelu["counts"])},
            "a negative count": {"counts": [-1] * len(gelu["counts"])},
            "an infinite width": {"histogram": [np.inf, 0.0, 1.0]},
            "a negative width": {"histogram": [-1.0, 0.0, 1.0]},
            "text": {"shape": "text"},
        }.items()
    }
    path.write_text(damaged[damage], encoding="utf-8")
    assert_equal(observe_once(graph, AXES, images, FIRST, passes), first)
    assert passes.count == 2
    assert path.read_text(encoding="utf-8") == text  # and it is whole again


def test_an_interrupt_leaves_the_cache_as_it_was() -> None:
    graph, images = graphs.block(), graphs.frames()
    first = observe_once(graph, AXES, images, FIRST, Silent())
    before = {path: path.read_bytes() for path in remembered()}
    with pytest.raises(KeyboardInterrupt):
        observe_once(graph, AXES, images[:3], FIRST, Passes(breaks=1))
    assert {path: path.read_bytes() for path in remembered()} == before
    assert_equal(observe_once(graph, AXES, images, FIRST, Passes(breaks=0)), first)


def test_an_interrupt_while_it_is_written_leaves_nothing_half_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, text: str, **_: object) -> int:
        with path.open("w", encoding="utf-8") as stream:
            stream.write(text[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        observe_once(graphs.block(), AXES, graphs.frames(), FIRST, Silent())
    assert remembered() == []


def test_the_cache_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT > 1
    monkeypatch.setattr(observer_cache, "KEPT", 2)
    graph, images = graphs.block(), graphs.frames(4)
    for count in (1, 2, 3, 4):
        observe_once(graph, AXES, images[:count], FIRST, Silent())
    assert len(remembered()) == 2
    passes = Passes()
    observe_once(graph, AXES, images, FIRST, passes)
    assert passes.count == 0  # the last one is there
    observe_once(graph, AXES, images[:1], FIRST, passes)
    assert passes.count == 1  # the first one is not
