"""Graphs of strangers: compiled in a sandbox, and audited."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import vitedge
from vitedge.bundle.bundle import MODEL_ONNX, OPENVINO_XML, Bundle
from vitedge.converters.openvino.audit_file import audit_file
from vitedge.safety import confinement

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundles = pytest.importorskip("bundles")
    made: Callable[..., Bundle] = bundles.make_bundle
    return made(tmp_path_factory.mktemp("audit") / "int8.bundle", precision="int8")


@pytest.mark.parametrize("name", [OPENVINO_XML, MODEL_ONNX])
def test_an_ir_and_an_onnx_file_of_somebody_else(bundle: Bundle, tmp_path: Path, name: str) -> None:
    for file in (bundle.path / name).parent.glob("model.*"):
        shutil.copy(file, tmp_path)
    inspection = vitedge.inspect_graph(tmp_path / Path(name).name)
    audit = inspection.audit
    assert [(layer.name, layer.quantized) for layer in audit.layers] == [("patches", True), ("logits", True)]
    assert audit.microseconds
    assert inspection.to_json()["audit"]["layers"][0]["name"] == "patches"


def test_an_ir_without_its_weights(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copy(bundle.path / OPENVINO_XML, tmp_path / "model.xml")
    with pytest.raises(vitedge.EngineError, match="cannot compile") as caught:
        audit_file(tmp_path / "model.xml")
    assert ".bin beside it" in caught.value.expected


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph at all")
    with pytest.raises(vitedge.EngineError, match="cannot compile"):
        audit_file(tmp_path / "model.onnx")


@pytest.mark.skipif(not confinement.available().landlock, reason="this kernel has no Landlock")
def test_files_of_another_name_are_not_read(bundle: Bundle, tmp_path: Path) -> None:
    """External data may name any file; the child can read none but those whose names begin like the graph's."""
    onnx = pytest.importorskip("onnx")
    path, outside = tmp_path / "model.onnx", {"save_as_external_data": True, "size_threshold": 0}
    onnx.save(onnx.load(bundle.path / MODEL_ONNX), path, location="model.data", **outside)
    assert audit_file(path).layers
    path.unlink()
    onnx.save(onnx.load(bundle.path / MODEL_ONNX), path, location="secret.data", **outside)
    with pytest.raises(vitedge.EngineError, match="cannot compile"):
        audit_file(path)


@pytest.mark.parametrize("name", ["model.pt", "missing.xml", "folder.onnx"])
def test_what_is_no_graph_is_a_usage_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(vitedge.UsageError, match="is no graph"):
        vitedge.inspect_graph(tmp_path / name)
