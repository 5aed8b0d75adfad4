"""A device that fails the self-test says where it first differs, by the values that conversion recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import vitedge
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.manifest import dump_manifest
from vitedge.bundle.verification_records import StageRecord
from vitedge.converters.openvino.parts import cuts_of, values_at
from vitedge.converters.openvino.stages import record_stages
from vitedge.errors import EngineError
from vitedge.metrics import sqnr_db
from vitedge.runtime.engines import stages
from vitedge.runtime.engines.open import open_engine
from vitedge.runtime.engines.openvino import values_within
from vitedge.runtime.engines.self_test import self_test
from vitedge.runtime.engines.stages import SAMPLES, first_difference

openvino = pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def bundle(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    output = tmp_path_factory.mktemp("stages") / "small.bundle"
    return vitedge.convert(small_folder, target="cpu", precision="fp32", output=output)


def spoiled(bundle: Bundle, first: int, factor: float = 2.0) -> Bundle:
    """A bundle whose records say that the engine computes something else from a stage on."""
    records = bundle.manifest.stages

    def changed(record: StageRecord) -> StageRecord:
        return replace(record, samples=tuple(factor * each for each in record.samples))

    recorded = (*records[:first], *map(changed, records[first:]))
    return replace(bundle, manifest=replace(bundle.manifest, stages=recorded))


def test_conversion_records_values_of_the_network(bundle: Bundle) -> None:
    records = bundle.manifest.stages
    assert 5 <= len(records) <= 24
    assert all(1 <= len(record.samples) <= SAMPLES for record in records)
    assert all(record.sqnr_db > 80 for record in records)
    places = list(dict.fromkeys(record.place for record in records))
    assert places[0] == "before blocks.0.attn.qkv"
    assert len(places) > 1, places
    assert len(dump_manifest(bundle.manifest)) - len(dump_manifest(replace(bundle.manifest, stages=()))) < 32_000


def test_towers_that_meet_at_the_end_have_no_values_to_record(bundle: Bundle) -> None:
    graph = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]> g (uint8[1,8,8,3] frame) => (float[1,192] logits) {
            a = Cast<to = 1>(frame) b = Flatten(a) c = Cast<to = 1>(frame) d = Flatten(c) logits = Add(b, d)
        }
    """)
    frame = np.full((8, 8, 3), 7, np.uint8)
    assert [cut.name for cut in cuts_of(graph)] == ["frame", "logits"]
    assert list(values_at(graph, [], frame[None])) == list(values_at(graph, ["frame"], frame[None])) == ["frame"]
    assert record_stages(bundle, graph, frame) == ()


def test_a_right_engine_differs_nowhere(bundle: Bundle) -> None:
    assert first_difference(bundle, "openvino", bundle.golden().frames[0]) == ""


@pytest.mark.parametrize("first", [0, 3, -1])
def test_the_first_stage_that_differs_is_named(bundle: Bundle, first: int) -> None:
    said = first_difference(spoiled(bundle, first), "openvino", bundle.golden().frames[0])
    record = bundle.manifest.stages[first]
    assert f"it first differs {record.place}: " in said
    assert f"instead of {record.sqnr_db:.1f} dB" in said


def test_the_error_of_the_self_test_says_where(bundle: Bundle) -> None:
    wrong = spoiled(bundle, 4)
    wrong = replace(wrong, manifest=replace(wrong.manifest, golden=replace(wrong.manifest.golden, min_sqnr_db=190.0)))
    engine = open_engine(bundle)
    try:
        with pytest.raises(EngineError) as caught:
            self_test(wrong, engine)
    finally:
        engine.close()
    assert f"it first differs {bundle.manifest.stages[4].place}" in str(caught.value)
    assert "convert the model again on a machine like this" in str(caught.value)


def test_a_value_with_which_the_network_does_not_compile_is_left_out(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, frame = [record.value for record in bundle.manifest.stages], bundle.golden().frames[0]
    whole = values_within(bundle, names, frame)

    class Core(openvino.Core):  # type: ignore[misc]
        def compile_model(self, model: Any, *arguments: Any) -> Any:
            if {names[1], names[4]} & {name for output in model.outputs for name in output.names}:
                raise RuntimeError("object is not initialized")
            return super().compile_model(model, *arguments)

    monkeypatch.setattr(openvino, "Core", Core)
    found = values_within(bundle, names, frame)
    assert list(found) == [name for name in names if name not in (names[1], names[4])]
    assert all(sqnr_db(whole[name], value) > 80 for name, value in found.items())
    assert first_difference(bundle, "openvino", frame) == ""


def test_engines_without_records_or_outputs_say_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = bundle.golden().frames[0]
    assert first_difference(spoiled(bundle, 0), "tensorrt", frame) == ""
    assert first_difference(replace(bundle, manifest=replace(bundle.manifest, stages=())), "openvino", frame) == ""

    def fails(*arguments: object) -> stages.Values:
        raise RuntimeError("no memory")

    monkeypatch.setattr(stages, "READERS", {"openvino": fails})
    assert first_difference(spoiled(bundle, 0), "openvino", frame) == ""
