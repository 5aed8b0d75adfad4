"""A model repository that Triton reads."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitedge.bundle.bundle import MODEL_FP16_ONNX, Bundle
from vitedge.converters.integrations.export import export
from vitedge.errors import BundleIntegrityError, UsageError

ROOT = Path(__file__).resolve().parents[3]
GRAMMAR = ROOT / "build" / "references" / "tritonclient==2.73.0" / "tritonclient" / "grpc" / "model_config_pb2.py"

EXPECTED = """\
name: "dominant_colour"
backend: "openvino"
max_batch_size: 0
input [
  {
    name: "frame"
    data_type: TYPE_UINT8
    dims: [ 1, 32, 32, 3 ]
  }
]
output [
  {
    name: "logits"
    data_type: TYPE_FP32
    dims: [ 1, 3 ]
    label_filename: "labels.txt"
  }
]
instance_group [
  {
    count: 1
    kind: KIND_CPU
  }
]
"""


def parsed(path: Path) -> Any:
    """A configuration, by Triton's own grammar."""
    if not GRAMMAR.is_file():
        pytest.skip(f"no {GRAMMAR}: make references")
    text_format = pytest.importorskip("google.protobuf.text_format")
    spec = importlib.util.spec_from_file_location("model_config_pb2", GRAMMAR)
    assert spec is not None
    assert spec.loader is not None
    grammar = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(grammar)
    return text_format.Parse(path.read_text(encoding="utf-8"), grammar.ModelConfig())


def files(folder: Path) -> list[str]:
    return sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())


def retargeted(bundle: Bundle, target: str) -> Bundle:
    import bundles

    bundles.rewrite_manifest(bundle.path, replace(bundle.manifest, target=target))
    return Bundle.open(bundle.path)


def test_a_bundle_for_the_cpu(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = export(tiny_bundle, tool="triton", output=tmp_path / "repository").path
    assert files(folder) == [
        "dominant_colour/1/model.bin",
        "dominant_colour/1/model.xml",
        "dominant_colour/config.pbtxt",
        "dominant_colour/labels.txt",
    ]
    model = folder / "dominant_colour"
    assert (model / "config.pbtxt").read_text(encoding="utf-8") == EXPECTED
    assert (model / "1" / "model.bin").read_bytes() == tiny_bundle.file("openvino/model.bin").read_bytes()
    assert (model / "labels.txt").read_text(encoding="utf-8") == "red\ngreen\nblue\n"


def test_a_bundle_for_a_gpu(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = retargeted(make_bundle(tmp_path / "colour.bundle"), "nvidia-gpu")
    folder = export(bundle, tool="triton", output=tmp_path / "repository").path
    assert "dominant_colour/1/model.onnx" in files(folder)
    text = (folder / "dominant_colour" / "config.pbtxt").read_text(encoding="utf-8")
    assert 'platform: "onnxruntime_onnx"\n' in text
    assert "kind: KIND_GPU\n" in text


def test_a_plan_that_was_built(tmp_path: Path) -> None:
    from tensorrt_bundles import FP16_PLAN, make_tensorrt_bundle, write_build

    bundle = make_tensorrt_bundle(tmp_path / "colour.bundle", target="nvidia-gpu")
    write_build(bundle, kept=MODEL_FP16_ONNX)
    exported = export(bundle, tool="triton", output=tmp_path / "repository")
    model = exported.path / "dominant_colour"
    assert (model / "1" / "model.plan").read_bytes() == FP16_PLAN
    assert parsed(model / "config.pbtxt").platform == "tensorrt_plan"
    assert "tensorrt 10.3.0, Orin" in exported.notes[-1]
    assert "serve it only if you know who did" in exported.notes[-1]


def test_a_plan_that_this_machine_built(tmp_path: Path) -> None:
    from tensorrt_bundles import make_tensorrt_bundle, write_build

    from vitedge.runtime.engines.tensorrt.plan_store import StoredPlan, register_build, stored_plans

    bundle = make_tensorrt_bundle(tmp_path / "colour.bundle", target="nvidia-gpu")
    write_build(bundle, kept=MODEL_FP16_ONNX)
    (built,) = stored_plans(bundle)
    assert isinstance(built, StoredPlan)
    assert register_build(built.record, b"")
    exported = export(bundle, tool="triton", output=tmp_path / "repository")
    assert exported.notes[-1].endswith("and on nothing else")


def test_a_plan_that_was_altered_is_not_served(tmp_path: Path) -> None:
    from tensorrt_bundles import make_tensorrt_bundle, write_build

    bundle = make_tensorrt_bundle(tmp_path / "colour.bundle")
    write_build(bundle, kept=MODEL_FP16_ONNX)
    (bundle.path / "tensorrt" / "model.plan").write_bytes(b"plan of model.fp17.onnx")
    with pytest.raises(BundleIntegrityError, match="was altered"):
        export(bundle, tool="triton", output=tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("changes", [{"module": "tensorrt_rtx"}, {"graphs": {"model.onnx": "another"}}])
def test_a_plan_that_triton_cannot_run_or_of_another_graph_is_left(tmp_path: Path, changes: dict[str, Any]) -> None:
    from tensorrt_bundles import make_tensorrt_bundle, write_build

    bundle = make_tensorrt_bundle(tmp_path / "colour.bundle", target="nvidia-gpu")
    write_build(bundle, kept=MODEL_FP16_ONNX, **changes)
    folder = export(bundle, tool="triton", output=tmp_path / "repository").path
    assert [name for name in files(folder) if "/1/" in name] == ["dominant_colour/1/model.onnx"]


def test_tritons_own_grammar_takes_it(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = export(tiny_bundle, tool="triton", output=tmp_path / "repository").path
    config = parsed(folder / "dominant_colour" / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("dominant_colour", "openvino", 0)
    assert list(config.input[0].dims) == [1, 32, 32, 3]
    assert config.output[0].label_filename == "labels.txt"


HOSTILE = 'x" }\nbackend: "python"\nmodel_operations { op_library_filename: "/tmp/evil.so" }\n#'


@pytest.mark.parametrize("name", [HOSTILE, "\x1b[2J", "..", "", "\udcff", "a" * 5_000])
def test_no_name_adds_a_setting_or_leaves_the_folder(
    make_bundle: Callable[..., Bundle], tmp_path: Path, name: str
) -> None:
    bundle = make_bundle(tmp_path / "colour.bundle")
    hostile = replace(bundle.manifest, model=replace(bundle.manifest.model, name=name))
    folder = export(replace(bundle, manifest=hostile), tool="triton", output=tmp_path / "repository").path
    (model,) = folder.iterdir()
    config = parsed(model / "config.pbtxt")
    assert (config.name, config.backend, len(config.model_operations.op_library_filename)) == (
        model.name,
        "openvino",
        0,
    )


@pytest.mark.parametrize("label", ["red\nblue", "\x1b[31mgreen", "", " ", "red\u2028blue", "\u202eder"])
def test_a_label_that_is_no_line_is_refused(make_bundle: Callable[..., Bundle], tmp_path: Path, label: str) -> None:
    bundle = make_bundle(tmp_path / "colour.bundle", labels=("red", label, "blue"))
    with pytest.raises(UsageError, match="labels cannot be written for Triton: 1 "):
        export(bundle, tool="triton", output=tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_name_that_is_no_folder(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    import bundles

    bundle = make_bundle(tmp_path / "colour.bundle")
    model = replace(bundle.manifest.model, name='../a "b"')
    bundles.rewrite_manifest(bundle.path, replace(bundle.manifest, model=model))
    folder = export(bundle.path, tool="triton", output=tmp_path / "repository").path
    assert [each.name for each in folder.iterdir()] == ["_a_b_"]
    assert parsed(folder / "_a_b_" / "config.pbtxt").name == "_a_b_"


def test_the_notes_say_how_logits_become_scores(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    for activation in ("softmax", "sigmoid"):
        bundle = make_bundle(tmp_path / f"{activation}.bundle", activation=activation)
        notes = export(bundle, tool="triton", output=tmp_path / activation).notes
        assert any(f"a {activation} turns them into scores" in note for note in notes)
