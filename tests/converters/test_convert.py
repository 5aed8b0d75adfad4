"""The whole road: what a bundle holds, and what the options change."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import checkpoints
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx_files import after_input, copy_of, write
from PIL import Image

import vitedge
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.targets import Precision
from vitedge.calib.evaluation import score_calibration as confidence
from vitedge.converters import convert as convert_module
from vitedge.converters.graph_summary import summarize
from vitedge.converters.rewrites.apply import Rewritten
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.stages import exporting, verifying
from vitedge.errors import CalibrationError
from vitedge.graph.session import open_session
from vitedge.metrics import sqnr_db
from vitedge.progress import Terminal
from vitedge.runtime.engines.open import open_engine
from vitedge.runtime.engines.self_test import self_test

pytestmark = pytest.mark.slow

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def bundles(
    small_folder: Path, small_export: onnx.ModelProto, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Precision, Bundle]:
    """One of each precision; the checkpoint is exported for the first."""
    root, found = tmp_path_factory.mktemp("bundles"), {}
    for precision in PRECISIONS:
        with pytest.MonkeyPatch.context() as patch:
            if precision != PRECISIONS[0]:
                patch.setattr(exporting, "export", lambda module, input_size: small_export)
            found[precision] = vitedge.convert(
                small_folder, target="cpu", precision=precision, calib=photos, output=root / f"{precision}.bundle"
            )
    return found


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """``untrained(target)`` converts timm's test network with random weights; computed when first asked for."""

    @cache
    def converted(target: str) -> Bundle:
        output = tmp_path_factory.mktemp("untrained") / target
        return vitedge.convert("test_vit", target=target, precision="fp32", random_weights=True, output=output)

    return converted


def logits_of(bundle: Bundle, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    engine = open_engine(bundle)
    outputs = []
    for frame in frames:
        engine.frame[...] = frame
        outputs.append(engine.run())
    engine.close()
    return np.stack(outputs)


def with_another_head(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A graph whose logits become features, which BatchNorm normalizes for a head without a bias."""
    changed, names = copy_of(graph), ("scale", "shift", "mean", "variance", "head")
    random, width = np.random.default_rng(0), len(checkpoints.CLASSES)
    values = [np.abs(random.standard_normal(width)) + 0.5 for _ in names[:-1]] + [
        random.standard_normal((width, width))
    ]
    for name, each in zip(names, values, strict=True):
        changed.graph.initializer.append(numpy_helper.from_array(each.astype(np.float32), f"neck_{name}"))
    inputs = ["features", *(f"neck_{name}" for name in names[:-1])]
    changed.graph.node.append(helper.make_node("Relu", ["logits"], ["features"]))
    changed.graph.node.append(helper.make_node("BatchNormalization", inputs, ["normalized"]))
    changed.graph.node.append(helper.make_node("MatMul", ["normalized", "neck_head"], ["classes"]))
    changed.graph.output[0].name = "classes"
    return changed


def onnx_logits(graph: onnx.ModelProto, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    (logits,) = open_session(graph).run(None, {graph.graph.input[0].name: image})
    return np.asarray(logits)


class TestBundle:
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_it_is_whole(self, bundles: dict[Precision, Bundle], precision: Precision) -> None:
        bundle = bundles[precision]
        assert Bundle.open(bundle.path) == bundle
        assert set(bundle.manifest.files) == {
            "model.onnx",
            "openvino/model.xml",
            "openvino/model.bin",
            "labels.txt",
            "golden.npz",
        }
        files = {path.relative_to(bundle.path).as_posix() for path in bundle.path.rglob("*") if path.is_file()}
        assert files == {"manifest.json", *bundle.manifest.files}

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_the_manifest_says_what_was_done(
        self, bundles: dict[Precision, Bundle], small_model: TorchModel, precision: Precision
    ) -> None:
        manifest = bundles[precision].manifest
        assert manifest.model == small_model.card
        assert manifest.target == "cpu"
        assert manifest.precision.asked == precision
        assert manifest.golden.inputs == "images"
        assert manifest.golden.count == 8
        assert manifest.verification.fp32_against_source is not None
        assert manifest.verification.fp32_against_source.sqnr_db > 100
        assert manifest.verification.precision_against_fp32.images == 20
        assert {"python", "torch", "timm", "onnx", "onnxruntime", "openvino", "numpy"} <= set(manifest.tools)
        assert manifest.host
        assert (manifest.calibration is not None) == (precision == "int8")

    def test_int8_is_int8_and_is_calibrated(self, bundles: dict[Precision, Bundle], photos: Path) -> None:
        manifest = bundles["int8"].manifest
        assert manifest.precision.effective == "int8"
        assert manifest.calibration is not None
        assert (manifest.calibration.images, manifest.calibration.skipped) == (20, ())
        assert len(manifest.calibration.sha256) == 64
        graph = summarize(bundles["int8"].file("model.onnx"))
        assert graph.weight_layers == 11  # the last block's q has a layer of its own, for the class token alone
        assert graph.quantized_layers == 6  # not those of the class token alone, which are the last five
        full = summarize(bundles["fp32"].file("model.onnx"))
        assert (full.weight_layers, full.quantized_layers) == (11, 0)

    @pytest.mark.parametrize(("precision", "least"), [("fp32", 60), ("fp16", 25), ("int8", 10)])
    def test_precision_costs_what_it_must(
        self, bundles: dict[Precision, Bundle], precision: Precision, least: float
    ) -> None:
        assert bundles[precision].manifest.verification.precision_against_fp32.sqnr_db > least

    def test_fp16_is_smaller(self, bundles: dict[Precision, Bundle]) -> None:
        for name in ("model.onnx", "openvino/model.bin"):
            sizes = [bundles[each].manifest.files[name].bytes for each in ("fp32", "fp16")]
            assert sizes[1] < 0.75 * sizes[0]

    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
    def test_both_engines_pass_the_self_test(
        self, bundles: dict[Precision, Bundle], precision: Precision, engine: str
    ) -> None:
        opened = open_engine(bundles[precision], engine)
        assert self_test(bundles[precision], opened).vectors == 8
        opened.close()

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_an_engine_with_swapped_channels_would_not(
        self, bundles: dict[Precision, Bundle], precision: Precision
    ) -> None:
        golden, demanded = bundles[precision].golden(), bundles[precision].manifest.golden.min_sqnr_db
        assert sqnr_db(golden.logits, logits_of(bundles[precision], golden.frames)) > demanded
        assert sqnr_db(golden.logits, logits_of(bundles[precision], golden.frames[..., ::-1])) < demanded

    def test_golden_frames_are_the_images(self, bundles: dict[Precision, Bundle]) -> None:
        for precision in ("fp16", "int8"):
            np.testing.assert_array_equal(bundles[precision].golden().frames, bundles["fp32"].golden().frames)

    def test_labels_are_written(self, bundles: dict[Precision, Bundle]) -> None:
        text = bundles["fp32"].file("labels.txt").read_text(encoding="utf-8")
        assert tuple(text.splitlines()) == checkpoints.CLASSES

    def test_it_loads_and_classifies(self, bundles: dict[Precision, Bundle], photos: Path) -> None:
        with vitedge.load(bundles["int8"]) as classifier:
            prediction = classifier.classify(Image.open(next(photos.rglob("*.png"))))
        assert prediction.label in checkpoints.CLASSES

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_equal_input_gives_equal_files(
        self,
        bundles: dict[Precision, Bundle],
        small_folder: Path,
        photos: Path,
        tmp_path: Path,
        precision: Precision,
        request: pytest.FixtureRequest,
    ) -> None:
        if precision != PRECISIONS[0]:
            request.getfixturevalue("quick")
        again = vitedge.convert(
            small_folder, target="cpu", precision=precision, calib=photos, output=tmp_path / "again.bundle"
        )
        assert again.manifest.files == bundles[precision].manifest.files


class TestOptions:
    def test_the_default_name(
        self, quick: None, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        bundle = vitedge.convert(small_folder, target="cpu", precision="fp32")
        assert bundle.path == Path("shapes_vit-fp32.bundle")

    def test_without_images_the_golden_frames_are_synthetic(
        self, quick: None, small_folder: Path, tmp_path: Path
    ) -> None:
        bundle = vitedge.convert(small_folder, target="cpu", precision="fp16", output=tmp_path / "b")
        assert bundle.manifest.golden.inputs == "synthetic"
        assert bundle.manifest.verification.precision_against_fp32.images == 8

    def test_accuracy_is_measured(self, quick: None, small_folder: Path, photos: Path, tmp_path: Path) -> None:
        bundle = vitedge.convert(small_folder, target="cpu", precision="fp32", eval_data=photos, output=tmp_path / "b")
        assert bundle.manifest.accuracy is not None
        assert bundle.manifest.accuracy.images == 20
        assert bundle.manifest.accuracy.top5 == 100
        assert 0 <= bundle.manifest.accuracy.top1 < 100

    def test_confidence_is_fitted_on_enough_images(
        self, quick: None, small_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"target": "cpu", "precision": "fp32", "eval_data": photos}
        stream = io.StringIO()
        few = vitedge.convert(small_folder, output=tmp_path / "few", progress=Terminal(stream), **options)
        assert few.manifest.confidence is None
        assert "a temperature needs 100 images, not 20" in stream.getvalue()
        for module in (verifying, confidence):
            monkeypatch.setattr(module, "MIN_IMAGES", 20)
        fitted = vitedge.convert(small_folder, output=tmp_path / "b", abstain_error=0.99, **options).manifest
        assert fitted.confidence is not None
        assert fitted.accuracy is not None
        assert (fitted.confidence.images, fitted.confidence.sha256) == (20, fitted.accuracy.sha256)
        assert (fitted.confidence.threshold, fitted.confidence.accepted) == (0.0, 100.0)
        assert fitted.confidence.accepted_top1 == fitted.accuracy.top1
        with pytest.raises(CalibrationError, match="no threshold keeps"):
            vitedge.convert(small_folder, output=tmp_path / "never", abstain_error=0.0, **options)
        assert not (tmp_path / "never").exists()

    def test_an_onnx_file(
        self, small_export: onnx.ModelProto, bundles: dict[Precision, Bundle], tmp_path: Path
    ) -> None:
        onnx.save(small_export, tmp_path / "net.onnx")
        (tmp_path / "config.json").write_text(json.dumps(checkpoints.config()), encoding="utf-8")
        bundle = vitedge.convert(tmp_path / "net.onnx", target="cpu", precision="fp32", output=tmp_path / "b")
        assert bundle.manifest.verification.fp32_against_source is not None
        assert bundle.manifest.verification.fp32_against_source.sqnr_db > 100
        frames = bundles["fp32"].golden().frames
        assert sqnr_db(bundles["fp32"].golden().logits, logits_of(bundle, frames)) > 80

    def test_the_graph_of_a_bundle(self, bundles: dict[Precision, Bundle], photos: Path, tmp_path: Path) -> None:
        source = bundles["fp32"].file("model.onnx")
        bundle = vitedge.convert(source, target="cpu", precision="int8", calib=photos, output=tmp_path / "b")
        assert bundle.manifest.model.labels == checkpoints.CLASSES
        assert bundle.manifest.precision.effective == "int8"

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_an_onnx_file_that_takes_bytes_under_another_name(
        self, small_graph: Rewritten, photos: Path, tmp_path: Path, precision: Precision
    ) -> None:
        """The BatchNorm before its head is folded, and gives the head a bias."""
        planes = helper.make_node("Transpose", ["image"], ["x"], perm=[0, 2, 3, 1])
        graph = with_another_head(after_input(small_graph.graph, onnx.TensorProto.UINT8, ["N", 3, 32, 32], planes))
        source, options = write(tmp_path, graph).path, {"target": "cpu", "precision": precision, "calib": photos}
        bundle = vitedge.convert(source, output=tmp_path / "b", **options)
        frame = bundle.golden().frames[0]
        (expected,) = onnx_logits(graph, frame.transpose(2, 0, 1)[None])
        for name in ("openvino", "onnxruntime"):
            with vitedge.load(bundle, engine=name) as classifier:
                assert sqnr_db(expected, classifier.infer(frame)) > (80 if precision == "fp32" else 15)

    def test_random_weights_are_said_to_be_random(self, untrained: Callable[[str], Bundle]) -> None:
        assert not untrained("cpu").manifest.model.pretrained
        assert untrained("cpu").manifest.model.source == "timm:test_vit"

    @pytest.mark.parametrize(("target", "rows"), [("cpu", 102), ("jetson-orin-nano", 101)])
    def test_a_backend_has_rewrites_of_its_own(
        self, target: str, rows: int, untrained: Callable[[str], Bundle]
    ) -> None:
        """A hundred patches and a class token: OpenVINO gets one token to spare, TensorRT does not."""
        graph = onnx.shape_inference.infer_shapes(onnx.load(untrained(target).file("model.onnx"))).graph
        sizes = {dim.dim_value for each in graph.value_info for dim in each.type.tensor_type.shape.dim}
        assert sizes & {101, 102} == {rows}

    def test_steps_are_reported(self, quick: None, small_folder: Path, photos: Path, tmp_path: Path) -> None:
        stream = io.StringIO()
        vitedge.convert(
            small_folder,
            target="cpu",
            precision="int8",
            calib=photos,
            output=tmp_path / "b",
            progress=Terminal(stream),
        )
        for step in (
            "loading shapes_vit",
            "bicubic",
            "20 images",
            "exporting",
            "rewritten: tidy, class token only",
            "calibrating",
            "comparing",
            "publishing",
        ):
            assert step in stream.getvalue()

    def test_a_corrupt_image_is_skipped_counted_and_named(
        self, quick: None, small_folder: Path, photos: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(photos, tmp_path / "images")
        (tmp_path / "images" / "star" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
        stream = io.StringIO()
        bundle = vitedge.convert(
            small_folder,
            target="cpu",
            precision="int8",
            calib=tmp_path / "images",
            output=tmp_path / "b",
            progress=Terminal(stream),
        )
        assert bundle.manifest.calibration is not None
        assert bundle.manifest.calibration.images == 20
        assert bundle.manifest.calibration.skipped == ("star/broken.png",)
        assert "star/broken.png" in stream.getvalue()

    def test_images_that_are_calibrated_and_evaluated_on_are_counted_and_put_on_record(
        self, quick: None, small_folder: Path, photos: Path, tmp_path: Path
    ) -> None:
        listing, stream = tmp_path / "list.txt", io.StringIO()
        listing.write_text("".join(f"{path}\n" for path in sorted(photos.rglob("*.png"))[:12]), encoding="utf-8")
        options = {"target": "cpu", "precision": "int8", "calib": listing}
        bundle = vitedge.convert(
            small_folder, eval_data=photos, output=tmp_path / "b", progress=Terminal(stream), **options
        )
        calibration, accuracy = bundle.manifest.calibration, bundle.manifest.accuracy
        assert calibration is not None
        assert accuracy is not None
        assert (calibration.images, accuracy.calibration_images) == (12, 12)
        assert f"warning: 12 of the {accuracy.images} images to measure on served calibration too" in stream.getvalue()


def test_pytorchs_folder_does_not_open_the_cache_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A umask of 002, as many systems have, would let the group write."""
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "put back after this test")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    before = os.umask(0o002)
    try:
        convert_module.import_packages("a test")
    finally:
        os.umask(before)
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folder.parent == tmp_path / "cache"
    assert [each.stat().st_mode & 0o777 for each in (folder, folder.parent)] == [0o700, 0o700]
