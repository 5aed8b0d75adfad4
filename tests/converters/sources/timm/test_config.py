from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform, resolve_data_config

from vitedge.converters.sources.timm.config import completed, preprocessing_from, read_config
from vitedge.errors import CheckpointError
from vitedge.safety.limits import JSON_BYTES

CONFIG: dict[str, Any] = {
    "input_size": [3, 96, 96],
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


def timm_pixels(config: dict[str, Any], image: Image.Image) -> np.ndarray[Any, Any]:
    """What timm's own evaluation transform makes of an image, before normalization; ``H×W×3`` uint8."""
    transform = create_transform(**{**resolve_data_config(pretrained_cfg=config), "normalize": False})
    return np.asarray(transform(image)).transpose(1, 2, 0)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(20, 150),
    width=st.integers(20, 150),
    side=st.tuples(st.integers(16, 64), st.integers(16, 64)),
    square=st.booleans(),
    crop_pct=st.sampled_from([0.5, 0.875, 0.9, 0.95, 1.0]),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos", "nearest"]),
)
def test_the_runtime_makes_of_a_configuration_what_timm_makes(
    height: int,
    width: int,
    side: tuple[int, int],
    square: bool,
    crop_pct: float,
    crop_mode: str,
    interpolation: str,
) -> None:
    from vitedge.runtime.preprocess.preprocessor import Preprocessor

    size = (side[0], side[0]) if square else side
    config = {
        **CONFIG,
        "input_size": [3, *size],
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
    }
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = timm_pixels(config, Image.fromarray(pixels))
    ours = Preprocessor(preprocessing_from(config))(pixels, order="RGB")
    assert np.abs(ours.astype(int) - expected).max() <= 1


def test_normalization() -> None:
    preprocessing = preprocessing_from({**CONFIG, "mean": [0, 0.0, 0.0], "std": (1, 1, 1)})
    assert preprocessing.mean == (0, 0, 0)
    assert preprocessing.std == (1, 1, 1)


@pytest.mark.parametrize("key", ["input_size", "mean", "std", "interpolation", "crop_pct"])
@pytest.mark.parametrize("empty", [False, True])
def test_a_missing_key_is_named_instead_of_assumed(key: str, empty: bool) -> None:
    config = {name: value for name, value in CONFIG.items() if name != key} | ({key: None} if empty else {})
    with pytest.raises(CheckpointError, match=f"it has no {key}"):
        preprocessing_from(config)


def test_a_configuration_from_before_crop_mode_is_cropped_in_the_centre() -> None:
    assert preprocessing_from({**CONFIG, "crop_mode": None}) == preprocessing_from(CONFIG)


def test_the_architecture_states_what_a_checkpoint_does_not() -> None:
    """DeiT's own mean is what timm takes for a checkpoint without one; ViT's is 0.5, and timm would take ImageNet's."""
    config = {name: value for name, value in CONFIG.items() if name not in ("mean", "std")}
    found = completed(config, architecture="deit_tiny_patch16_224", where="config.json")
    assert (found["mean"], found["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for architecture in ("vit_tiny_patch16_224", "no_such_model", None, ["vit"]):
        with pytest.raises(CheckpointError, match=r"^config\.json does not say .* no mean, std"):
            completed(config, architecture=architecture, where="config.json")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"input_size": [1, 28, 28]}, "1 channels"),
        ({"input_size": [224, 224]}, "input_size"),
        ({"interpolation": "random"}, "interpolation"),
        ({"crop_mode": "corner"}, "crop_mode"),
        ({"mean": [0.5]}, "mean"),
        ({"std": [1, 2, "3"]}, "std"),
        ({"std": [0, 0, 0]}, "std"),
        ({"crop_pct": 0.0001, "input_size": [3, 0, 0]}, "sizes"),
        ({"crop_pct": "most"}, "crop_pct"),
        ({"crop_pct": True}, "crop_pct"),
        ({"crop_pct": -1}, "crop_pct"),
        ({"crop_pct": float("nan")}, "crop_pct"),
        ({"crop_pct": float("inf")}, "crop_pct"),
        ({"crop_pct": 5e-324}, "crop_pct"),
        ({"crop_pct": 0.01}, "sizes"),
        ({"crop_pct": [1]}, "crop_pct"),
        ({"input_size": [3, 10**6, 224]}, "sizes"),
        ({"input_size": [3, 10**400, 224]}, "sizes"),
        ({"input_size": [3, 224.5, 224]}, "sizes"),
        ({"input_size": [3, True, 224]}, "input_size"),
        ({"input_size": [3, float("nan"), 224]}, "sizes"),
        ({"input_size": [3, -224, 224]}, "sizes"),
        ({"input_size": [10**400, 224, 224]}, "channels"),
        ({"input_size": "3,224,224"}, "input_size"),
        ({"input_size": {"height": 224}}, "input_size"),
        ({"mean": [float("nan"), 0.5, 0.5]}, "mean"),
        ({"mean": [True, 0.5, 0.5]}, "mean"),
        ({"mean": {"0": 0.5}}, "mean"),
        ({"std": [float("inf"), 0.5, 0.5]}, "std"),
        ({"std": [1e-300, 0.5, 0.5]}, "std"),
        ({"interpolation": ["bicubic"]}, "interpolation"),
        ({"interpolation": {"a": 1}}, "interpolation"),
        ({"crop_mode": ["center"]}, "crop_mode"),
    ],
)
def test_values_that_no_image_can_be_prepared_with(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        preprocessing_from({**CONFIG, **changes})


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path / "config.json")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "folder", "sparse", "nested", "large", "NaN", "surrogate"])
def test_a_file_beyond_a_bound(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.json"
    contents = {
        "nested": b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
        "large": b" " * (JSON_BYTES + 1),
        "NaN": b'{"crop_pct": NaN}',
        "surrogate": b'{"architecture": "\\ud800"}',
    }
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 100 << 30)
    else:
        path.symlink_to(kind)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read: \S"):
        read_config(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_config(tmp_path / "config.json")
