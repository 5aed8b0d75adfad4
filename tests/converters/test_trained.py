"""Trained checkpoints become bundles that keep what they know, and that other tools open without help.

The default suite converts one of them, with the smallest search; ``long`` are the others, and the full search.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")

import onnx
import openvino
import outliers
from PIL import Image

import vitedge
from vitedge.bundle.bundle import OPENVINO_XML, Bundle
from vitedge.bundle.targets import Precision
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.quantization import ptq
from vitedge.calib.quantization.search_budget import SMALLEST
from vitedge.converters.reference import graph_logits
from vitedge.converters.stages import drafting
from vitedge.converters.verify import demanded_sqnr, synthetic_frames
from vitedge.errors import ConversionError
from vitedge.metrics import sqnr_db
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.preprocess.preprocessor import Preprocessor
from vitedge.runtime.sources.images.reading import read_image

CALIBRATION_IMAGES = 16
PHOTOS = 60
FIRST = "mobilevit_xxs_flowers"
LONG = pytest.mark.long
MODELS = (FIRST, pytest.param("vit_flowers", marks=LONG), pytest.param("deit_tiny_imagenet", marks=LONG))
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
SEARCHED_FULLY = "vit_flowers"
"""The other models are searched as large networks are, which takes a quarter of the time."""

Bundles: TypeAlias = Callable[[str, Precision], Bundle]
Logits: TypeAlias = NDArray[np.float32]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def calibration(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of the calibration photos, some of each class."""
    root = tmp_path_factory.mktemp("calibration")
    for file in ImageFolder.open(shared_data / "flowers" / "calib", limit=CALIBRATION_IMAGES).files:
        (root / file.class_name).mkdir(exist_ok=True)
        (root / file.name).symlink_to(file.path)
    return root


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> tuple[Path, ...]:
    """Photos that took no part in calibration."""
    return tuple(file.path for file in ImageFolder.open(shared_data / "flowers" / "val", limit=PHOTOS).files)


@pytest.fixture(scope="module")
def bundles(shared_data: Path, calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """``bundles(name, precision)``, converted when first asked for; each model is exported and rewritten once."""
    root = tmp_path_factory.mktemp("bundles")

    @cache
    def full_graph(name: str) -> Callable[..., Any]:
        return once(drafting.full_graph)

    @cache
    def converted(name: str, precision: Precision) -> Bundle:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drafting, "full_graph", full_graph(name))
            if name != SEARCHED_FULLY:
                patch.setattr(ptq, "budget_for", lambda _: SMALLEST)
            return vitedge.convert(
                shared_data / "models" / name,
                target="cpu",
                precision=precision,
                calib=calibration,
                output=root / f"{name}-{precision}.bundle",
            )

    return converted


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that answers every call as the first."""
    answers: list[Any] = []

    def answer(*arguments: Any, **options: Any) -> Any:
        if not answers:
            answers.append(function(*arguments, **options))
        return answers[0]

    return answer


@pytest.fixture(scope="module")
def logits(bundles: Bundles, photos: tuple[Path, ...]) -> Callable[[str, Precision], Logits]:
    """``logits(name, precision)`` of all the photos; computed when first asked for."""

    @cache
    def computed(name: str, precision: Precision) -> Logits:
        return logits_of(bundles(name, precision), photos)

    return computed


def logits_of(bundle: Bundle, photos: tuple[Path, ...]) -> Logits:
    with vitedge.load(bundle) as classifier:
        outputs = [_logits(classifier, path) for path in photos]
    return np.stack(outputs)


def _logits(classifier: Classifier, path: Path) -> Logits:
    return classifier.infer(classifier.prepare(read_image(path), order="RGB"))


@pytest.mark.parametrize("name", MODELS)
def test_the_fp32_engine_gives_what_timm_gives(
    logits: Callable[[str, Precision], Logits], shared_data: Path, photos: tuple[Path, ...], name: str
) -> None:
    import timm
    import torch
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    module = timm.create_model(f"local-dir:{shared_data / 'models' / name}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config(model=module))
    with torch.no_grad():
        theirs = torch.cat([module(transform(Image.open(path).convert("RGB"))[None]) for path in photos[:10]]).numpy()
    ours = logits(name, "fp32")[:10]
    assert sqnr_db(theirs, ours) > 35  # a pixel may differ by 1 after resizing
    assert (theirs.argmax(axis=1) == ours.argmax(axis=1)).mean() >= 0.95


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("precision", "least_sqnr", "least_agreement"), [("fp16", 30, 0.98), ("int8", 18, 0.9)])
def test_precision_keeps_the_answers(
    logits: Callable[[str, Precision], Logits],
    name: str,
    precision: Precision,
    least_sqnr: float,
    least_agreement: float,
) -> None:
    full, reduced = logits(name, "fp32"), logits(name, precision)
    assert sqnr_db(full, reduced) > least_sqnr
    assert (full.argmax(axis=1) == reduced.argmax(axis=1)).mean() >= least_agreement


@pytest.mark.parametrize("name", MODELS)
def test_swapped_channels_and_a_forgotten_mean_are_refused(bundles: Bundles, name: str) -> None:
    """In every precision, if an engine computed them."""
    preprocessing = bundles(name, "fp32").manifest.model.preprocessing
    frames = synthetic_frames(preprocessing.input_size)
    graph = onnx.load(bundles(name, "fp32").file("model.onnx"))
    golden = graph_logits(graph, frames, preprocessing)
    for wrong in (frames[..., ::-1], frames // 2 + 64):
        logits = graph_logits(graph, wrong, preprocessing)
        for precision in PRECISIONS:
            with pytest.raises(ConversionError, match="engine differs from its graph"):
                demanded_sqnr(golden, logits, precision)


@pytest.mark.parametrize("name", MODELS)
def test_int8_is_smaller_than_fp16(bundles: Bundles, name: str) -> None:
    sizes = [bundles(name, precision).manifest.files["openvino/model.bin"].bytes for precision in PRECISIONS]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("name", "least_top1", "least_top5"),
    [
        (FIRST, 0.9, 1.0),
        pytest.param("vit_flowers", 0.8, 1.0, marks=LONG),
        pytest.param("deit_tiny_imagenet", 0.65, 0.85, marks=LONG),
    ],
)
def test_openvino_model_api_classifies_without_help(
    bundles: Bundles,
    logits: Callable[[str, Precision], Logits],
    photos: tuple[Path, ...],
    name: str,
    least_top1: float,
    least_top5: float,
) -> None:
    """It resizes without antialiasing and crops no share, so its answers are often ours, not always."""
    models = pytest.importorskip("model_api.models", reason="pip install openvino-model-api")
    model = models.ClassificationModel.create_model(str(bundles(name, "int8").file(OPENVINO_XML)), device="CPU")
    labels = bundles(name, "int8").manifest.model.labels
    first = among = 0
    for path, ours in zip(photos, logits(name, "int8"), strict=True):
        top = model(np.ascontiguousarray(read_image(path)[..., ::-1])).top_labels
        best = int(ours.argmax())
        assert all(each.name == "_".join(labels[each.id].split()) for each in top)
        assert all(0 <= each.confidence <= 1 for each in top)
        first += top[0].id == best
        among += best in [each.id for each in top]
    assert first / len(photos) >= least_top1
    assert among / len(photos) >= least_top5


def test_the_export_for_optimum_answers_as_the_bundle(
    bundles: Bundles, logits: Callable[[str, Precision], Logits], photos: tuple[Path, ...], tmp_path: Path
) -> None:
    """In OpenVINO, on the pixels of the image processor that Transformers makes of the folder."""
    transformers = pytest.importorskip("transformers")
    folder = vitedge.export(bundles(FIRST, "int8"), tool="optimum", output=tmp_path / "out").path
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU")
    pixels = (processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"] for path in photos)
    theirs = np.concatenate([model({"pixel_values": each.numpy()})["logits"] for each in pixels])
    ours = logits(FIRST, "int8")
    assert sqnr_db(ours, theirs) > 35
    assert (theirs.argmax(axis=1) != ours.argmax(axis=1)).sum() <= 1  # a near tie in 16 bits; 99 % of many photos agree


@pytest.mark.parametrize("precision", PRECISIONS)
def test_benchmark_app_runs(bundles: Bundles, precision: Precision, tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "benchmark_app"
    model = bundles(FIRST, precision).file(OPENVINO_XML)
    done = subprocess.run(
        [str(program), "-m", str(model), "-niter", "5", "-report_type", "no_counters", "-json_stats"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Throughput" in done.stdout or json.loads((tmp_path / "benchmark_report.json").read_text())


@pytest.mark.long
def test_outliers_planted_into_a_trained_model_do_not_matter(
    bundles: Bundles, shared_data: Path, photos: tuple[Path, ...]
) -> None:
    """The largest channels of LayerNormalizations a hundred times larger: naive rounding is lost, this is not."""
    bundle = bundles(SEARCHED_FULLY, "fp32")
    graph = onnx.load(bundle.file("model.onnx"))
    rough, changed = outliers.planted(graph)
    assert changed >= 15
    preprocessing = bundle.manifest.model.preprocessing
    calibration = ImageFolder.open(shared_data / "flowers" / "calib", limit=CALIBRATION_IMAGES).load(preprocessing)
    preprocess = Preprocessor(preprocessing)
    frames = np.stack([preprocess(read_image(path), order="RGB").copy() for path in photos[:40]])
    full, same = (graph_logits(each, frames, preprocessing) for each in (graph, rough))
    np.testing.assert_allclose(same, full, atol=1e-3 * np.abs(full).max())
    naive = graph_logits(outliers.min_max_quantized(rough, calibration.frames), frames, preprocessing)
    assert sqnr_db(full, naive) < 12
    int8 = (ptq.quantize(each, calibration.frames).graph for each in (graph, rough))
    plain, reached = (sqnr_db(full, graph_logits(each, frames, preprocessing)) for each in int8)
    assert reached > 40
    assert abs(plain - reached) < 1
