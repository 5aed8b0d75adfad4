"""The whole road: what a bundle holds, and that nothing is left wherever the road ends early."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

import vitedge
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.targets import Precision
from vitedge.calib.evaluation import score_calibration as confidence
from vitedge.cli.convert import summary
from vitedge.cli.inspect import as_text
from vitedge.converters import backends, precision_gate
from vitedge.converters import convert as convert_module
from vitedge.converters.graph_summary import summarize
from vitedge.converters.openvino import backend as openvino
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.stages import drafting, exporting, verifying
from vitedge.errors import CalibrationError, CheckpointError, ConversionError, FrameSourceError, UsageError
from vitedge.metrics import sqnr_db
from vitedge.progress import Terminal
from vitedge.runtime.engines.open import open_engine
from vitedge.runtime.engines.self_test import self_test
from vitedge.verbs.inspect import inspect

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images in five folders, each of another size."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(4)
    for number in range(20):
        folder = root / checkpoints.CLASSES[number % 5]
        folder.mkdir(exist_ok=True)
        coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40 + number, 50), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return root


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, small_export: onnx.ModelProto) -> None:
    """Spare the exporter, which takes seconds, where it is not what is tested."""
    monkeypatch.setattr(exporting, "export", lambda module, input_size: small_export)


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


def write_noise(folder: Path, count: int) -> Path:
    """A folder of so many different images."""
    folder.mkdir()
    generator = np.random.default_rng(5)
    for number in range(count):
        coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def logits_of(bundle: Bundle, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    engine = open_engine(bundle)
    outputs = []
    for frame in frames:
        engine.frame[...] = frame
        outputs.append(engine.run())
    engine.close()
    return np.stack(outputs)


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


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"precision": "int9"}, "no precision 'int9'"),
            ({"target": "gpu"}, "unknown target 'gpu'"),
            ({"precision": "int8"}, "int8 needs images"),
            ({"weights": "some.pth"}, "weights= is not for this source: shapes_vit has its own weights"),
            ({"random_weights": True}, "random_weights= is not for this source"),
            ({"num_classes": 3}, "num_classes= is not for this source: shapes_vit has its own number of classes"),
            ({"input_size": (0, 32)}, r"the input size is \(0, 32\)"),
            ({"abstain_error": 0.05}, "abstain_error= needs images with classes"),
            ({"abstain_error": 5.0, "eval_data": "val"}, "the share of wrong predictions is 5"),
        ],
    )
    def test_requests(self, small_folder: Path, tmp_path: Path, options: dict[str, Any], problem: str) -> None:
        whole = {"target": "cpu", "precision": "fp32", "output": tmp_path / "b", **options}
        with pytest.raises(UsageError, match=problem):
            vitedge.convert(small_folder, **whole)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
    def test_the_size_of_an_exported_graph_is_fixed(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"net{suffix}").touch()
        with pytest.raises(UsageError, match="export it again"):
            vitedge.convert(
                tmp_path / f"net{suffix}", target="cpu", precision="fp32", input_size=64, output=tmp_path / "b"
            )

    def test_a_number_of_classes_below_one(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="the number of classes is -1"):
            vitedge.convert("test_vit", target="cpu", precision="fp32", num_classes=-1, output=tmp_path / "b")

    def test_weights_and_random_weights(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="at most one"):
            vitedge.convert(
                "test_vit",
                target="cpu",
                precision="fp32",
                weights="w.pth",
                random_weights=True,
                output=tmp_path / "b",
            )

    @pytest.mark.parametrize("option", ["calib", "eval_data"])
    @pytest.mark.parametrize("kind", ["missing", "empty", "unreadable", "a file"])
    def test_folders_without_usable_images(
        self, quick: None, small_folder: Path, tmp_path: Path, option: str, kind: str
    ) -> None:
        images, place = tmp_path / "images", tmp_path / "place"
        place.mkdir()
        if kind == "a file":
            images.touch()
        elif kind != "missing":
            (images / "star").mkdir(parents=True)
        if kind == "unreadable":
            (images / "star" / "0.png").write_bytes(b"no image")
        with pytest.raises((CalibrationError, FrameSourceError)):
            vitedge.convert(small_folder, target="cpu", precision="fp32", output=place / "b", **{option: str(images)})
        assert not list(place.iterdir())

    def test_too_few_images_to_abstain_are_known_before_the_work(
        self, small_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(drafting, "load_model", lambda *_: pytest.fail("too late"))
        options = {"eval_data": photos, "abstain_error": 0.05, "output": tmp_path / "b"}
        with pytest.raises(CalibrationError, match="20 images are too few"):
            vitedge.convert(small_folder, target="cpu", precision="fp32", **options)

    def test_evaluation_folders_that_are_no_labels_are_known_before_the_work(
        self, small_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(photos / "star", tmp_path / "images" / "stars")
        monkeypatch.setattr(exporting, "export", lambda module, size: pytest.fail("too late"))
        with pytest.raises(CalibrationError, match="stars"):
            vitedge.convert(
                small_folder,
                target="cpu",
                precision="fp32",
                eval_data=tmp_path / "images",
                output=tmp_path / "b",
            )

    def test_labels_that_do_not_match(self, small_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("a\nb\n", encoding="utf-8")
        with pytest.raises(CheckpointError, match="2 labels, the network has 5 logits"):
            vitedge.convert(
                small_folder,
                target="cpu",
                precision="fp32",
                labels=tmp_path / "labels.txt",
                output=tmp_path / "b",
            )

    def test_an_operator_that_openvino_lacks_is_named_before_calibration(
        self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        graph = onnx.parser.parse_model(
            """
            <ir_version: 10, opset_import: ["" : 20]>
            g (float[1,3,32,32] x) => (float[1,3] y)
            {
                pooled, places = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
                spread = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(pooled, places)
                mean = GlobalAveragePool(spread)
                y = Flatten(mean)
            }
            """
        )
        graph.graph.node[1].name = "decoder/unpool"
        source, place = tmp_path / "net", tmp_path / "place"
        for folder in (source, place):
            folder.mkdir()
        onnx.save(graph, source / "net.onnx")
        described = {**checkpoints.PRETRAINED_CFG, "label_names": ["a", "b", "c"]}
        (source / "config.json").write_text(json.dumps(described), encoding="utf-8")
        monkeypatch.setattr(backends, "quantize", lambda *arguments, **options: pytest.fail("too late"))
        with pytest.raises(ConversionError, match="the operator MaxUnpool, layer 'decoder/unpool'"):
            vitedge.convert(source / "net.onnx", target="cpu", precision="int8", calib=photos, output=place / "b")
        assert not list(place.iterdir())

    def test_an_engine_that_computes_something_else_is_not_published(
        self, quick: None, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Swapped:
            def __init__(self, bundle: Bundle) -> None:
                self.engine = open_engine(bundle)
                self.info = self.engine.info
                self.frame = np.empty_like(self.engine.frame)
                self.close = self.engine.close

            def run(self) -> NDArray[np.float32]:
                self.engine.frame[...] = self.frame[..., ::-1]
                return self.engine.run()

        monkeypatch.setattr(openvino, "open_engine", Swapped)
        with pytest.raises(ConversionError, match="engine differs from its graph"):
            vitedge.convert(small_folder, target="cpu", precision="fp32", output=tmp_path / "b")
        assert not list(tmp_path.iterdir())


class TestGate:
    def test_a_bundle_is_compared_with_fp32_on_images_that_calibration_has_not_used(
        self, quick: None, small_folder: Path, tmp_path: Path
    ) -> None:
        images = write_noise(tmp_path / "images", 72)
        bundle = vitedge.convert(small_folder, target="cpu", precision="int8", calib=images, output=tmp_path / "b")
        manifest = Bundle.open(bundle.path).manifest
        verified, gate, calibration = manifest.verification, manifest.verification.gate, manifest.calibration
        assert gate is not None
        assert calibration is not None
        assert (gate.inputs, verified.precision_against_fp32.images, calibration.images) == ("held_out", 9, 63)
        assert verified.precision_against_fp32.sqnr_db > gate.noise_sqnr_db - 20
        assert "on 100.0 % of 9 images that calibration has not used" in summary(bundle)

    def test_a_broken_layer_is_not_published(
        self, quick: None, small_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = openvino.quantized

        def broken(*arguments: Any) -> Any:
            found, record = original(*arguments)
            weights = [each for each in found.graph.graph.initializer if each.data_type == onnx.TensorProto.INT8]
            largest = max(weights, key=lambda each: len(each.raw_data))
            largest.raw_data = bytes(len(largest.raw_data))
            return found, record

        monkeypatch.setattr(openvino, "quantized", broken)
        with pytest.raises(ConversionError, match="int8 differs from the fp32 graph: SQNR") as caught:
            vitedge.convert(small_folder, target="cpu", precision="int8", calib=photos, output=tmp_path / "b")
        assert "precision='fp16'" in caught.value.fix
        assert not list(tmp_path.iterdir())

    def test_what_the_noise_explains_is_a_warning(
        self, quick: None, small_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(precision_gate, "LEAST_SQNR_DB", 150.0)
        monkeypatch.setattr(precision_gate, "EXPLAINED_DB", 150.0)
        stream = io.StringIO()
        vitedge.convert(
            small_folder,
            target="cpu",
            precision="fp16",
            calib=photos,
            output=tmp_path / "b",
            progress=Terminal(stream),
        )
        assert "warning: fp16 differs from the fp32 graph: SQNR" in stream.getvalue()

    def test_synthetic_frames_say_nothing_about_the_best_class(
        self, quick: None, small_folder: Path, tmp_path: Path
    ) -> None:
        bundle = vitedge.convert(small_folder, target="cpu", precision="fp16", output=tmp_path / "b")
        gate = bundle.manifest.verification.gate
        assert gate is not None
        assert gate.inputs == "synthetic"
        for text in (summary(bundle), as_text(inspect(bundle.path))):
            assert "dB on 8 synthetic frames, whose best class means nothing" in text
            assert "the same best class" not in text


STAGES = (
    "stages.loading.load_timm_folder",
    "stages.datasets.ImageFolder.load",
    "stages.exporting.export",
    "stages.exporting.apply_rewrites",
    "stages.exporting.module_logits",
    "openvino.backend.check_operators",
    "backends.quantize",
    "openvino.backend.write_ir",
    "stages.writing.graph_logits",
    "stages.writing.Golden.write",
    "openvino.backend.open_engine",
    "stages.verifying.judge",
    "stages.verifying.evaluate",
    "pipeline.publish",
)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ConversionError),
    ],
    ids=["ctrl-c", "full disk"],
)
def test_a_road_that_ends_early_leaves_nothing(
    stage: str,
    error: BaseException,
    raised: type[BaseException],
    quick: None,
    small_folder: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = []

    def end(*arguments: object, **options: object) -> None:
        reached.append(stage)
        raise error

    monkeypatch.setattr(f"vitedge.converters.{stage}", end)
    precision = "int8" if stage == "backends.quantize" else "fp32"
    with pytest.raises(raised):
        vitedge.convert(
            small_folder, target="cpu", precision=precision, calib=photos, eval_data=photos, output=tmp_path / "b"
        )
    assert reached == [stage]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", ["dump_manifest", "_flush", "check_output"])
def test_an_interrupt_while_publishing_leaves_nothing(
    moment: str, quick: None, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitedge.converters import publish

    original: Callable[..., Any] = getattr(publish, moment)

    def end(*arguments: Any, **options: Any) -> Any:
        if moment != "check_output" or any(tmp_path.iterdir()):
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(publish, moment, end)
    with pytest.raises(KeyboardInterrupt):
        vitedge.convert(small_folder, target="cpu", precision="fp32", output=tmp_path / "b")
    assert not list(tmp_path.iterdir())


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
