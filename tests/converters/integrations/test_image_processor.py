"""The image processor of Transformers gives the pixels of the bundle's preprocessing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.integrations.image_processor import differences, processor_config
from vitedge.errors import UsageError
from vitedge.runtime.preprocess.preprocessor import Preprocessor

transformers = pytest.importorskip("transformers")
MOST = 3.01
"""Levels of 255 by which torchvision's filters differ from Pillow's on noise."""
SIZES = ((60, 99), (99, 60), (61, 90), (40, 40), (41, 87), (20, 31))
"""Height and width; with a shortest side of 36 some margins are odd, and the last is smaller than the input."""
TIMMS = Preprocessing(input_size=(32, 32), resize_size=(36, 36))
TRANSFORMERS = replace(TIMMS, crop_rounding="floor", exif_orientation=True)


def processor_of(folder: Path, config: dict[str, Any]) -> Any:
    """What ``AutoImageProcessor`` makes of the folder that optimum reads."""
    model = {"model_type": "vit", **(config if "pretrained_cfg" in config else {})}
    (folder / "config.json").write_text(json.dumps(model))
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return transformers.AutoImageProcessor.from_pretrained(folder)


def levels(processor: Any, picture: Image.Image, config: dict[str, Any]) -> NDArray[np.float64]:
    """Pixels of the processor on the 0…255 scale, RGB."""
    values = np.asarray(processor(picture, return_tensors="pt")["pixel_values"][0], np.float64).transpose(1, 2, 0)
    described = config.get("pretrained_cfg", config)
    mean, std = (described.get(f"image_{name}", described.get(name)) for name in ("mean", "std"))
    return 255 * (values * np.array(std) + np.array(mean))


@pytest.mark.parametrize(
    ("preprocessing", "kind"),
    [
        (TIMMS, "TimmWrapperImageProcessor"),
        (replace(TIMMS, resize_size=(32, 32)), "TimmWrapperImageProcessor"),
        (replace(TIMMS, resize_mode="squash"), "TimmWrapperImageProcessor"),
        (replace(TIMMS, resize_mode="border", resize_size=(32, 32)), "TimmWrapperImageProcessor"),
        (replace(TIMMS, input_size=(32, 48), resize_size=(36, 54)), "TimmWrapperImageProcessor"),
        (replace(TIMMS, interpolation="lanczos", mean=(0.0, 0.0, 0.0)), "TimmWrapperImageProcessor"),
        (replace(TIMMS, channel_order="BGR"), "TimmWrapperImageProcessor"),
        (replace(TIMMS, resize_mode="squash", resize_size=(32, 32)), "ViTImageProcessor"),
        (TRANSFORMERS, "BitImageProcessor"),
        (replace(TRANSFORMERS, interpolation="bilinear", channel_order="BGR"), "BitImageProcessor"),
        (replace(TRANSFORMERS, resize_mode="squash", resize_size=(40, 36)), "DeiTImageProcessor"),
        (replace(TRANSFORMERS, resize_mode="squash", resize_size=(32, 32)), "ViTImageProcessor"),
    ],
)
def test_its_pixels_are_those_of_the_bundle(tmp_path: Path, preprocessing: Preprocessing, kind: str) -> None:
    config = processor_config(preprocessing)
    assert config["image_processor_type"] == kind
    processor = processor_of(tmp_path, config)
    assert type(processor).__name__.removesuffix("Fast") == kind
    ours, rng = Preprocessor(replace(preprocessing, channel_order="RGB")), np.random.default_rng(0)
    for height, width in SIZES:
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        theirs = levels(processor, Image.fromarray(picture), config)
        difference = np.abs(theirs - ours(picture, order="RGB"))
        assert difference.max() <= MOST, (height, width)


def test_a_geometry_that_no_processor_has_is_refused() -> None:
    with pytest.raises(UsageError, match="shortest to 60x36 for an input of 32x32") as caught:
        processor_config(replace(TIMMS, resize_size=(36, 60)))
    assert caught.value.expected == "both sides of the input, divided by the same share to crop"


def test_what_differs_is_said() -> None:
    assert any("pip install timm" in note for note in differences(TIMMS))
    assert any("EXIF" in note for note in differences(TIMMS))
    assert differences(TRANSFORMERS) == ()
    assert "lanczos" in differences(replace(TRANSFORMERS, interpolation="lanczos"))[0]
    assert any("rounds it down" in note for note in differences(replace(TRANSFORMERS, resize_mode="border")))
