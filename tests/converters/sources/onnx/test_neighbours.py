"""Preprocessing and labels from the files around an ONNX file, and metadata that names them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest

from vitedge.converters.sources.onnx.neighbours import Neighbours, named_by_metadata, read_neighbours
from vitedge.errors import CheckpointError, UsageError

CLIP = {
    "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 40}, "crop_size": 32,
    "do_center_crop": True,
}  # fmt: skip
VIT = {"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}}
TIMM = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {**checkpoints.PRETRAINED_CFG}}

Write = Callable[..., Path]


class Steps:
    """Progress that remembers its steps."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def step(self, text: str) -> None:
        self.texts.append(text)

    def track(self, items: Any, *, total: int, unit: str) -> Any:
        return iter(items)


def write(folder: Path, name: str, content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder / name


def read(path: Path, steps: Steps | None = None, **options: Any) -> Neighbours:
    whole: dict[str, Any] = {"given": None, "size": (32, 32), "metadata": {}, "progress": steps or Steps(), **options}
    return read_neighbours(path, **whole)


@pytest.fixture(params=["beside", "above"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A folder of Transformers, and the path of a graph in it or in ``onnx`` in it."""
    pytest.importorskip("transformers")
    folder = tmp_path / "model"
    write(folder, "config.json", VIT)
    write(folder, "preprocessor_config.json", CLIP)
    (folder / "onnx").mkdir()
    return folder, (folder if request.param == "beside" else folder / "onnx") / "model.onnx"


def test_the_layout_of_transformers(model: tuple[Path, Path]) -> None:
    steps = Steps()
    found = read(model[1], steps)
    assert found.labels == ("cat", "dog")
    assert found.model["model_type"] == "vit"
    assert (found.preprocessing.resize_mode, found.preprocessing.resize_size) == ("shortest", (40, 40))
    assert found.preprocessing.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert found.preprocessing.crop_rounding == "floor"
    assert any("preprocessor_config.json" in text for text in steps.texts)


def test_the_model_tells_the_processor_of_a_file_without_its_name(model: tuple[Path, Path]) -> None:
    write(model[0], "preprocessor_config.json", {"size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    assert read(model[1]).preprocessing.resize_mode == "squash"
    write(model[0], "config.json", {**VIT, "model_type": "levit"})
    write(model[0], "preprocessor_config.json", {"size": 28, "crop_size": 32})
    assert read(model[1]).preprocessing.resize_size == (32, 32)  # 28 * 256 / 224


def test_a_processor_of_another_model(model: tuple[Path, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is for images of 32x32, .* takes 64x64"):
        read(model[1], size=(64, 64))


def test_a_configuration_of_transformers_is_never_read_as_timms(model: tuple[Path, Path]) -> None:
    (model[0] / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match="nothing says how images are preprocessed") as caught:
        read(model[1])
    assert "preprocessing=" in caught.value.fix
    given = write(model[0], "given.json", CLIP)
    found = read(model[1], given=str(given))
    assert (found.labels, found.preprocessing.resize_size) == (("cat", "dog"), (40, 40))


def test_default_labels_become_numbers(model: tuple[Path, Path]) -> None:
    write(model[0], "config.json", {**VIT, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}})
    assert read(model[1]).labels == ("class_0", "class_1")


@pytest.mark.parametrize("layout", ["vit", "nothing"])
def test_timms_configuration_beside_a_graph(tmp_path: Path, layout: str) -> None:
    """It is the nearer one, whatever lies one folder up."""
    if layout == "vit":
        write(tmp_path, "config.json", VIT)
        write(tmp_path, "preprocessor_config.json", CLIP)
    write(tmp_path / "timm", "config.json", {**TIMM, "label_names": ["a", "b"]})
    found = read(tmp_path / "timm" / "net.onnx")
    assert (found.labels, found.preprocessing.mean, found.model) == (("a", "b"), (0.5, 0.4, 0.3), {})
    assert found.imagenet


@pytest.mark.parametrize("content", [{"name": "a program"}, [1], {"label_names": 5, "version": 2}])
def test_a_configuration_one_folder_up_of_anything_else(tmp_path: Path, content: object) -> None:
    write(tmp_path, "config.json", content if isinstance(content, list) else {"name": "a program"})
    (tmp_path / "onnx").mkdir()
    with pytest.raises(UsageError, match="nothing says how images are preprocessed"):
        read(tmp_path / "onnx" / "net.onnx")


def test_a_configuration_of_neither(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"name": "a program"})
    with pytest.raises(UsageError, match="nothing says how images are preprocessed"):
        read(tmp_path / "net.onnx")


def test_a_configuration_of_timm_without_mean(tmp_path: Path) -> None:
    described = {key: value for key, value in checkpoints.PRETRAINED_CFG.items() if key != "mean"}
    write(tmp_path, "config.json", {**TIMM, "pretrained_cfg": described})
    with pytest.raises(CheckpointError, match="it has no mean"):
        read(tmp_path / "net.onnx")


def test_a_configuration_of_both(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {**TIMM, **VIT})
    with pytest.raises(CheckpointError, match=r"of timm \(architecture, pretrained_cfg\) and of Transformers"):
        read(tmp_path / "net.onnx")


def test_a_wrapper_of_timm_is_timms(tmp_path: Path) -> None:
    write(tmp_path, "config.json", TIMM)
    assert not read(tmp_path / "net.onnx").preprocessing.exif_orientation
    write(tmp_path, "config.json", {**TIMM, "model_type": "timm_wrapper"})
    preprocessing = read(tmp_path / "net.onnx").preprocessing
    assert (preprocessing.mean, preprocessing.exif_orientation) == ((0.5, 0.4, 0.3), True)


def test_a_wrapper_of_timm_has_labels_and_a_problem_as_transformers_has(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {**TIMM, **VIT, "model_type": "timm_wrapper", "problem_type": "regression"})
    beside = read(tmp_path / "net.onnx")
    assert (beside.labels, beside.model["problem_type"]) == (("cat", "dog"), "regression")
    write(tmp_path, "config.json", {**TIMM, **VIT, "model_type": "timm_wrapper", "label_names": ["a", "b"]})
    assert read(tmp_path / "net.onnx").labels == ("a", "b")
    write(tmp_path, "config.json", TIMM)
    assert not read(tmp_path / "net.onnx").model


def test_a_folder_with_files_of_both(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write(tmp_path, "config.json", TIMM)
    write(tmp_path, "preprocessor_config.json", CLIP)
    with pytest.raises(CheckpointError, match="differ in resize_size, mean, std"):
        read(tmp_path / "net.onnx")
    normalized = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    write(tmp_path, "preprocessor_config.json", {**CLIP, **normalized, "size": {"shortest_edge": 35}})
    assert read(tmp_path / "net.onnx").preprocessing.crop_rounding == "half_even"


ULTRALYTICS = {"description": "Ultralytics YOLOv8n-cls model", "task": "classify", "imgsz": "[224, 224]",
               "names": "{0: 'tench'}", "stride": "1"}  # fmt: skip
MODEL_API = {"model_info model_type": "Classification", "model_info labels": "a b", "model_info mean_values": "1 2 3"}
WINDOWS = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        (ULTRALYTICS, "imgsz, names"),
        (MODEL_API, "model_info model_type, model_info labels, model_info mean_values"),
        (WINDOWS, "Image.BitmapPixelFormat, Image.NominalPixelRange"),
        ({"preprocessor_config": "{}", "imageMean": "0.5"}, "preprocessor_config, imageMean"),
        ({"image_std": "", "crop_pct": "0.9", "input_size": "[3,224,224]"}, "image_std, crop_pct, input_size"),
        ({"author": "me", "version": "1", "batch_size": "1", "onnx.infer": "x", "pkg.torch.export.signature": ""}, ""),
        ({f"mean{'_' * index}": "" for index in range(1, 12)}, None),
    ],
)
def test_metadata_that_names_preprocessing_or_labels(metadata: dict[str, str], named: str | None) -> None:
    found = named_by_metadata(metadata)
    assert found.endswith("and 3 more") if named is None else found == named


def test_metadata_is_reported_and_not_used(tmp_path: Path) -> None:
    write(tmp_path, "config.json", TIMM)
    steps = Steps()
    assert read(tmp_path / "net.onnx", steps, metadata=ULTRALYTICS).labels is None
    assert "names preprocessing or labels, which is not used: imgsz, names" in steps.texts[0]
    (tmp_path / "config.json").unlink()
    with pytest.raises(UsageError, match=r"its metadata \(imgsz, names\) is not used"):
        read(tmp_path / "net.onnx", metadata=ULTRALYTICS)
