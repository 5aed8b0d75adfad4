from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.converters.sources import preprocessing as module
from vitedge.converters.sources.preprocessing import read_preprocessing, require_preprocessing
from vitedge.errors import CheckpointError, UsageError, VitedgeError

KEYS: dict[str, Any] = {
    "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic", "crop_pct": 0.8,
    "crop_mode": "squash",
}  # fmt: skip


def write(folder: Path, content: object) -> str:
    (folder / "pre.json").write_text(json.dumps(content), encoding="utf-8")
    return str(folder / "pre.json")


@pytest.mark.parametrize("nest", [False, True])
def test_a_file_with_timms_keys(tmp_path: Path, nest: bool) -> None:
    config = {**KEYS, "input_size": [3, 64, 96]}
    text = write(tmp_path, {"architecture": "x", "pretrained_cfg": config} if nest else config)
    preprocessing = read_preprocessing(text, None)
    assert (preprocessing.input_size, preprocessing.resize_size) == ((64, 96), (80, 120))
    assert (preprocessing.mean, preprocessing.resize_mode) == ((0.5, 0.5, 0.5), "squash")
    assert read_preprocessing(text, (64, 96)) == preprocessing


def test_a_file_without_a_size_is_for_that_of_the_network(tmp_path: Path) -> None:
    assert read_preprocessing(write(tmp_path, KEYS), (64, 128)).resize_size == (80, 160)


def test_a_timm_model_is_read_for_the_size_of_the_network() -> None:
    assert read_preprocessing("timm:mobilevit_xxs", None).input_size == (256, 256)
    preprocessing = read_preprocessing("timm:vit_base_patch16_224.augreg_in1k", (384, 384))
    assert (preprocessing.resize_size, preprocessing.mean) == ((426, 426), (0.5, 0.5, 0.5))


def test_the_manifest_of_a_bundle(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.path / "manifest.json"
    expected = tiny_bundle.manifest.model.preprocessing
    assert read_preprocessing(str(manifest), expected.input_size) == expected
    with pytest.raises(CheckpointError, match="the network takes 7x7"):
        read_preprocessing(str(manifest), (7, 7))


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        ("timm:mobilevit_xx", "no model 'mobilevit_xx'", "mobilevit_xxs"),
        ("nowhere.json", "no preprocessing at 'nowhere.json'", "write it, such as"),
        ("mobilevit_xxs", "no preprocessing at 'mobilevit_xxs'", "write it, such as"),
        ("~nobody-of-this-name/a.json", "no preprocessing at", "write it, such as"),
        ("a" * 5000, "no preprocessing at", "write it, such as"),
        ("a\0b", "no preprocessing at", "write it, such as"),
        ("/dev/zero", "no preprocessing at", "write it, such as"),
        ("..", "no preprocessing at", "write it, such as"),
    ],
)
def test_what_names_nothing(text: str, problem: str, fix: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        read_preprocessing(text, None)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"label_names": ["a"]}, "does not say how images are preprocessed"),
        ({**KEYS, "mean": "half"}, "mean of the configuration"),
        ({**KEYS, "input_size": [3, 32, 32]}, "for images of 32x32, the network takes 64x64"),
        ([1], "not a JSON object"),
    ],
)
def test_files_that_do_not_say_it(tmp_path: Path, content: object, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        read_preprocessing(write(tmp_path, content), (64, 64))


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_an_image_processor_of_transformers(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers")
    processor = {"image_processor_type": "CLIPImageProcessor", "crop_size": 128, "size": 160, "resample": 3}
    (tmp_path / name).write_text(json.dumps(processor if name.startswith("pre") else {"image_processor": processor}))
    preprocessing = read_preprocessing(str(tmp_path / name), (128, 128))
    assert (preprocessing.input_size, preprocessing.resize_size) == ((128, 128), (160, 160))
    assert (preprocessing.resize_mode, preprocessing.crop_rounding) == ("shortest", "floor")
    with pytest.raises(CheckpointError, match="for images of 128x128, the network takes 224x224"):
        read_preprocessing(str(tmp_path / name), (224, 224))


def test_a_processor_without_a_name_is_the_one_of_the_model_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 160}))
    with pytest.raises(CheckpointError, match="names no image processor"):
        read_preprocessing(str(path), None)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "convnext"}))
    assert read_preprocessing(str(path), None).resize_size == (182, 182)  # 160 / 0.875
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert read_preprocessing(str(path), None).resize_mode == "squash"


@pytest.mark.parametrize("key", ["mean", "std", "interpolation", "crop_pct"])
def test_a_missing_key_is_named_instead_of_assumed(tmp_path: Path, key: str) -> None:
    text = write(tmp_path, {name: value for name, value in KEYS.items() if name != key})
    with pytest.raises(CheckpointError, match=rf"pre\.json does not say .* it has no {key}"):
        read_preprocessing(text, (64, 64))


def test_a_size_that_neither_the_file_nor_the_network_has(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it has no input_size"):
        read_preprocessing(write(tmp_path, KEYS), None)


def test_a_file_with_keys_of_both(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"keys of timm \(interpolation, mean, std\) and of an image processor"):
        read_preprocessing(write(tmp_path, {**KEYS, "image_mean": 0.5}), (64, 64))


def test_where_it_must_be_given() -> None:
    with pytest.raises(UsageError, match=r"preprocessed for net\.onnx: it does not"):
        require_preprocessing(None, None, name="net.onnx", holder="it does not")


def test_a_model_of_timm_without_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_name", lambda _: None)
    monkeypatch.setattr(module, "get_pretrained_cfg", lambda _: None)
    with pytest.raises(UsageError, match="timm does not say how images are preprocessed for mobilevit_xxs"):
        read_preprocessing("timm:mobilevit_xxs", None)


@pytest.mark.parametrize(
    "content",
    [
        {"schema_version": 2},
        {"schema_version": 10**400},
        {"schema_version": [1]},
        {"pretrained_cfg": 5},
        {"pretrained_cfg": {"mean": 5}},
        {"pretrained_cfg": None},
        {"mean": "x"},
        {"input_size": 224},
        {"input_size": [3, 10**6, 10**6]},
        {"mean": [0.5, 0.5, 0.5], "crop_pct": 1e-300},
    ],
)
def test_files_that_say_something_else(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(VitedgeError) as caught:
        read_preprocessing(write(tmp_path, content), (224, 224))
    assert caught.value.expected or caught.value.fix


def test_a_file_says_whether_images_are_turned(tmp_path: Path) -> None:
    path = tmp_path / "preprocessing.json"
    for written, turns in (({}, False), ({"exif_orientation": True}, True), ({"exif_orientation": False}, False)):
        path.write_text(json.dumps({**KEYS, **written}))
        assert read_preprocessing(str(path), (64, 64)).exif_orientation is turns
    path.write_text(json.dumps({**KEYS, "exif_orientation": 6}))
    with pytest.raises(CheckpointError, match=r"exif_orientation in .* is 6"):
        read_preprocessing(str(path), (64, 64))
