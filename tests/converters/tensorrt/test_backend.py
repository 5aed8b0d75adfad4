"""Bundles for devices that build their engines themselves: what the host writes, verifies and says of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import checkpoints
import numpy as np
import onnx
import pytest
from photos import write_smooth

import vitedge
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.targets import Precision
from vitedge.cli import convert as convert_cli
from vitedge.cli import inspect as inspect_cli
from vitedge.converters import verify
from vitedge.converters.reference import graph_logits
from vitedge.converters.stages import exporting
from vitedge.converters.tensorrt import backend
from vitedge.converters.tensorrt.typed import half_graph
from vitedge.errors import ConversionError
from vitedge.metrics import sqnr_db
from vitedge.runtime.engines.open import open_engine
from vitedge.runtime.engines.self_test import self_test

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")
EIGHTS = ("int8", "fp8")
TARGET = "jetson-thor"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images in five folders."""
    return write_smooth(tmp_path_factory.mktemp("photos"), [(50, 50)] * 10, checkpoints.CLASSES)


@pytest.fixture(scope="module")
def bundles(
    small_folder: Path, small_export: onnx.ModelProto, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Precision, Bundle]:
    """One of each precision, with accuracy on the photos."""
    root = tmp_path_factory.mktemp("bundles")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exporting, "export", lambda module, input_size: small_export)
        return {
            precision: vitedge.convert(
                small_folder,
                target=TARGET,
                precision=precision,
                calib=photos,
                eval_data=photos,
                output=root / f"{precision}.bundle",
            )
            for precision in PRECISIONS
        }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_is_whole(bundles: dict[Precision, Bundle], precision: Precision) -> None:
    bundle = bundles[precision]
    assert Bundle.open(bundle.path) == bundle
    twin = {"model.fp16.onnx"} if precision in EIGHTS else set()
    assert set(bundle.manifest.files) == {"model.onnx", "labels.txt", "golden.npz", *twin}
    for name in ("model.onnx", *twin):
        onnx.checker.check_model(onnx.load(bundle.file(name)), full_check=True)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_manifest_claims_what_the_host_did(bundles: dict[Precision, Bundle], precision: Precision) -> None:
    manifest = bundles[precision].manifest
    assert manifest.target == TARGET
    assert (manifest.precision.asked, manifest.precision.effective) == (precision, "fp32")
    assert manifest.accuracy is not None
    assert manifest.verification.precision_against_fp32.images == 10
    has_twin = precision in EIGHTS
    assert (manifest.calibration is not None) == has_twin
    assert (manifest.calibration is not None and manifest.calibration.gap_db is not None) == has_twin
    assert (manifest.verification.fp16_against_fp32 is not None) == has_twin
    assert (manifest.golden.fp16_min_sqnr_db is not None) == has_twin


@pytest.mark.parametrize(("precision", "least"), [("fp32", 80), ("fp16", 50), ("int8", 15), ("fp8", 15)])
def test_precision_costs_what_it_must(bundles: dict[Precision, Bundle], precision: Precision, least: float) -> None:
    assert bundles[precision].manifest.verification.precision_against_fp32.sqnr_db > least


def test_a_device_must_reach_less_than_rounding_takes(bundles: dict[Precision, Bundle]) -> None:
    demanded = {name: bundle.manifest.golden for name, bundle in bundles.items()}
    assert demanded["fp16"].min_sqnr_db == verify.ENGINE_GATES["fp16"].cap
    assert demanded["int8"].fp16_min_sqnr_db == verify.ENGINE_GATES["fp16"].cap
    for precision in ("int8", "fp8"):
        assert 15 < demanded[precision].min_sqnr_db <= verify.ENGINE_GATES[precision].cap


def test_the_twin_is_the_graph_that_fp16_gives(bundles: dict[Precision, Bundle]) -> None:
    half = bundles["fp16"]
    for precision in ("int8", "fp8"):
        bundle: Bundle = bundles[precision]
        golden = bundle.golden()
        assert golden.fp16_logits is not None
        np.testing.assert_array_equal(golden.fp16_logits, half.golden().logits)
        assert bundle.file("model.fp16.onnx").read_bytes() == half.file("model.onnx").read_bytes()
        assert 15 < sqnr_db(golden.fp16_logits, golden.logits) < 60


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_host_runs_it_in_onnxruntime(bundles: dict[Precision, Bundle], precision: Precision) -> None:
    engine = open_engine(bundles[precision], "onnxruntime")
    assert self_test(bundles[precision], engine).vectors == 8
    engine.close()
    with vitedge.load(bundles[precision], engine="onnxruntime") as classifier:
        assert classifier.classify(np.zeros((40, 40, 3), np.uint8)).label in checkpoints.CLASSES


def test_an_engine_of_the_twin_without_channels_swapped(bundles: dict[Precision, Bundle]) -> None:
    """The golden logits tell a wrong engine from a right one."""
    engine = open_engine(bundles["fp16"], "onnxruntime")
    golden = bundles["fp16"].golden()
    swapped = []
    for frame in golden.frames:
        engine.frame[...] = frame[..., ::-1]
        swapped.append(engine.run())
    engine.close()
    assert sqnr_db(golden.logits, np.stack(swapped)) < bundles["fp16"].manifest.golden.min_sqnr_db


def test_overflow_stops_the_conversion(
    small_folder: Path, small_export: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a graph whose values leave float16, typed as if they did not."""
    graph = onnx.ModelProto()
    graph.CopyFrom(small_export)
    (positions,) = (each for each in graph.graph.initializer if each.name.endswith("pos_embed"))
    values = onnx.numpy_helper.to_array(positions).copy()
    values[..., 0] = 120_000.0
    positions.CopyFrom(onnx.numpy_helper.from_array(values, positions.name))
    monkeypatch.setattr(exporting, "export", lambda module, input_size: graph)
    monkeypatch.setattr(exporting, "module_logits", lambda module, *images: graph_logits(graph, *images))
    kept = vitedge.convert(small_folder, target=TARGET, precision="fp16", output=tmp_path / "kept")
    assert kept.manifest.verification.precision_against_fp32.sqnr_db > 30
    monkeypatch.setattr(backend, "half_graph", lambda shaped, peaks: half_graph(shaped, {}))
    with pytest.raises(ConversionError, match="fp16"):
        vitedge.convert(small_folder, target=TARGET, precision="fp16", output=tmp_path / "naive")
    assert not (tmp_path / "naive").exists()


def test_people_are_told_that_nothing_is_built(bundles: dict[Precision, Bundle]) -> None:
    bundle = bundles["int8"]
    said, inspected = convert_cli.summary(bundle), inspect_cli.as_text(vitedge.inspect(bundle))
    assert f"not built: vitedge build {bundle.path} on the device" in said
    assert f"--onnx={bundle.path}/model.onnx" in said
    assert "forecast by ONNX Runtime" in said
    assert f"not built: vitedge build {bundle.path} does that, on the device" in inspected
    for text in (said, inspected):
        assert "int8" in text
        assert "emulated in fp32" in text
        assert "ran in" not in text


def test_a_damaged_twin_is_noticed(bundles: dict[Precision, Bundle], tmp_path: Path) -> None:

    copy = tmp_path / "copy"
    shutil.copytree(bundles["int8"].path, copy)
    with (copy / "model.fp16.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(vitedge.errors.BundleIntegrityError, match=r"model\.fp16\.onnx"):
        Bundle.open(copy)


def test_int8_without_images_is_refused(small_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(vitedge.errors.UsageError, match="needs images to calibrate with"):
        vitedge.convert(small_folder, target=TARGET, precision="int8", output=tmp_path / "b")
