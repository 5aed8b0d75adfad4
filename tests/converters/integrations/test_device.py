"""A slim bundle classifies as the full one does, and says what it lacks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import COLOURS, colour_frame, file_records, rewrite_manifest

import vitedge
from vitedge.bundle.bundle import GOLDEN, LABELS, MANIFEST, OPENVINO_BIN, OPENVINO_XML, Bundle
from vitedge.bundle.signatures import SIGNATURES
from vitedge.converters.integrations.device import VECTORS
from vitedge.converters.integrations.export import export
from vitedge.errors import BundleError, EngineError, UsageError
from vitedge.verbs.inspect import inspect

pytest.importorskip("openvino")
FILES = {GOLDEN, LABELS, OPENVINO_BIN, OPENVINO_XML}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Bundle]) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("full") / "colour.bundle", precision="int8")


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory, full: Bundle) -> Bundle:
    return Bundle.open(export(full, tool="device", output=tmp_path_factory.mktemp("slim") / "slim.bundle").path)


def with_wrong_golden_logits(bundle: Bundle, copy: Path) -> Path:
    """Copy a bundle, negate its golden logits, and list their new hash."""
    shutil.copytree(bundle.path, copy)
    golden = bundle.golden()
    np.savez(copy / GOLDEN, frames=golden.frames, logits=-golden.logits)
    rewrite_manifest(copy, replace(bundle.manifest, files=file_records(copy)))
    return copy


def test_it_holds_the_network_once(full: Bundle, slim: Bundle) -> None:
    assert slim.manifest.files.keys() == FILES
    assert {each.relative_to(slim.path).as_posix() for each in slim.path.rglob("*") if each.is_file()} == {
        *FILES,
        MANIFEST,
    }
    assert slim.manifest.slim_of == full.digest
    assert slim.file(OPENVINO_BIN).read_bytes() == full.file(OPENVINO_BIN).read_bytes()


def test_it_gives_the_same_logits(full: Bundle, slim: Bundle) -> None:
    with vitedge.load(full) as ours, vitedge.load(slim) as theirs:
        for seed, colour in enumerate(COLOURS):
            frame = colour_frame(colour, height=50, width=40, seed=seed)
            np.testing.assert_array_equal(ours.logits(frame), theirs.logits(frame))


def test_its_self_test_runs_and_fails(slim: Bundle, tmp_path: Path) -> None:
    assert 0 < slim.manifest.golden.count <= VECTORS
    assert len(slim.golden().frames) == slim.manifest.golden.count
    with pytest.raises(EngineError, match="self-test"):
        vitedge.load(with_wrong_golden_logits(slim, tmp_path / "copy.bundle"))


def test_what_needs_the_graph_names_the_full_bundle(slim: Bundle, tmp_path: Path) -> None:
    for call in (
        lambda: vitedge.load(slim.path, engine="onnxruntime"),
        lambda: export(slim, tool="optimum", output=tmp_path / "out"),
    ):
        with pytest.raises(BundleError, match=r"is a slim bundle, without the graph model\.onnx") as caught:
            call()
        assert str(slim.manifest.slim_of) in caught.value.expected
        assert "full bundle" in caught.value.fix
    assert not (tmp_path / "out").exists()


def test_triton_needs_no_graph(slim: Bundle, tmp_path: Path) -> None:
    assert (export(slim, tool="triton", output=tmp_path / "out").path / "dominant_colour/1/model.xml").is_file()


def test_what_is_inspected(slim: Bundle) -> None:
    from vitedge.cli.inspect import as_text

    inspection = inspect(slim)
    assert inspection.graph is None
    assert "this bundle is slim, without its graph" in as_text(inspection)
    assert inspection.to_json()["manifest"]["slim_of"] == slim.manifest.slim_of


def test_the_source_of_a_slim_bundle_is_converted_again(slim: Bundle) -> None:
    with pytest.raises(UsageError, match="converted already") as caught:
        vitedge.convert(slim.path, target="cpu", precision="fp32", output=slim.path.with_name("again.bundle"))
    assert "the graph of the full bundle" in caught.value.fix


def test_a_slim_bundle_gets_no_slimmer(slim: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="slim bundle already"):
        export(slim, tool="device", output=tmp_path / "out")


def test_a_bundle_with_one_copy_of_its_network(full: Bundle, tmp_path: Path) -> None:
    files = {name: record for name, record in full.manifest.files.items() if not name.startswith("openvino/")}
    graphs = replace(full, manifest=replace(full.manifest, target="jetson-orin-nx", files=files))
    with pytest.raises(UsageError, match="holds its network once"):
        export(graphs, tool="device", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_fails_its_self_test_here(full: Bundle, tmp_path: Path) -> None:
    wrong = with_wrong_golden_logits(full, tmp_path / "copy.bundle")
    with pytest.raises(EngineError, match="self-test"):
        export(wrong, tool="device", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_signed_bundle_is_to_be_signed_again(full: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "signed.bundle"
    shutil.copytree(full.path, copy)
    (copy / SIGNATURES).write_text("{}")
    exported = export(copy, tool="device", output=tmp_path / "out.bundle")
    assert any("sign it again" in note for note in exported.notes)
    assert not (exported.path / SIGNATURES).exists()


def test_the_name_by_default(full: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert export(full, tool="device").path == Path("colour-device.bundle")
