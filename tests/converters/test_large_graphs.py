"""Graphs beyond what protobuf takes, which a lowered limit stands for: weights in a second file, end to end."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import bundles
import numpy as np
import onnx
import pytest

import vitedge
from vitedge.bundle.bundle import MODEL_ONNX, Bundle, data_of
from vitedge.bundle.targets import Precision
from vitedge.converters.stages import exporting
from vitedge.errors import BundleIntegrityError
from vitedge.graph import files
from vitedge.graph.files import bundle_graph
from vitedge.runtime.engines.tensorrt.plan_store import graphs_of

pytestmark = pytest.mark.slow


@pytest.fixture
def large(tmp_path: Path, small_folder: Path, small_export: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle in fp32 for the CPU, whose graph has its weights in a second file."""
    monkeypatch.setattr(files, "GRAPH_WHOLE_BYTES", 10_000)
    monkeypatch.setattr(exporting, "export", lambda module, input_size: small_export)
    return vitedge.convert(small_folder, target="cpu", precision="fp32", output=tmp_path / "large.bundle")


def test_a_bundle_of_a_large_graph_runs_in_every_engine(large: Bundle) -> None:
    assert large.manifest.files[MODEL_ONNX].bytes < 50_000 < large.manifest.files[data_of(MODEL_ONNX)].bytes
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    scores = []
    for engine in ("openvino", "onnxruntime"):
        with vitedge.load(large, engine=engine) as classifier:
            scores.append(
                [each.score for each in sorted(classifier.classify(frame, topk=5).topk, key=lambda each: each.label)]
            )
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
    assert not any(each.external_data for each in bundle_graph(large, MODEL_ONNX).graph.initializer)


@pytest.mark.parametrize(("target", "precision"), [("cpu", "fp16"), ("jetson-orin-nano", "fp16"), ("rtx", "fp32")])
def test_a_large_graph_converts(
    tmp_path: Path,
    small_folder: Path,
    small_export: onnx.ModelProto,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    precision: Precision,
) -> None:
    monkeypatch.setattr(files, "GRAPH_WHOLE_BYTES", 10_000)
    monkeypatch.setattr(exporting, "export", lambda module, input_size: small_export)
    bundle = vitedge.convert(small_folder, target=target, precision=precision, output=tmp_path / "b.bundle")
    assert data_of(MODEL_ONNX) in bundle.manifest.files


def test_the_graph_of_such_a_bundle_is_a_source(tmp_path: Path, large: Bundle) -> None:
    again = vitedge.convert(
        large.path / MODEL_ONNX, target="cpu", precision="fp32", output=tmp_path / "again.bundle"
    ).golden()
    np.testing.assert_allclose(again.logits, large.golden().logits, atol=1e-3)


def test_weights_of_a_large_graph_are_checked_and_come_from_the_listed_file_alone(
    tmp_path: Path, large: Bundle
) -> None:
    data = large.path / data_of(MODEL_ONNX)
    listed = {name: record for name, record in large.manifest.files.items() if name != data.name}
    data.rename(tmp_path / data.name)
    bundles.rewrite_manifest(large.path, replace(large.manifest, files=listed))
    with pytest.raises(BundleIntegrityError, match="has its data in another file"):
        vitedge.load(large.path, engine="onnxruntime")
    bundles.rewrite_manifest(large.path, large.manifest)
    shutil.copy(tmp_path / data.name, data)
    with data.open("r+b") as stream:
        stream.write(b"\x01")
    with pytest.raises(BundleIntegrityError, match=r"SHA-256|altered"):
        vitedge.load(large.path, engine="onnxruntime")


def test_a_plan_depends_on_the_weights_of_a_large_graph(large: Bundle) -> None:
    changed = dict(large.manifest.files)
    changed[data_of(MODEL_ONNX)] = replace(changed[data_of(MODEL_ONNX)], sha256="0" * 64)
    other = replace(large, manifest=replace(large.manifest, files=changed))
    assert graphs_of(large).keys() == graphs_of(other).keys()
    assert graphs_of(large) != graphs_of(other)
