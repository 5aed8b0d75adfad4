"""Image processors: what the runtime computes against each processor's own pixel values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.sources.transformers.processor_classes import PROCESSORS
from vitedge.converters.sources.transformers.processors import processor_preprocessing
from vitedge.errors import CheckpointError
from vitedge.runtime.preprocess.preprocessor import Preprocessor

transformers = pytest.importorskip("transformers")

Image = NDArray[np.uint8]

WHERE = Path("preprocessor_config.json")
SIZES = [(480, 640), (640, 480), (256, 343), (375, 500), (101, 80), (224, 224), (334, 257), (31, 90)]

PUBLISHED: dict[str, dict[str, Any]] = {
    "vit, of 2021": {
        "do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224,
    },
    "vit, of today": {
        "image_processor_type": "ViTImageProcessorFast", "do_resize": True, "size": {"height": 96, "width": 64},
        "resample": 2, "do_rescale": True, "rescale_factor": 0.00392156862745098, "do_normalize": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": None,
    },
    "swin": {
        "feature_extractor_type": "ViTFeatureExtractor", "do_resize": True, "size": 224, "resample": 3,
        "do_normalize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    },
    "deit": {
        "feature_extractor_type": "DeiTFeatureExtractor", "do_resize": True, "size": 256, "resample": 3,
        "do_center_crop": True, "crop_size": 224, "do_normalize": True, "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "beit": {
        "feature_extractor_type": "BeitFeatureExtractor", "crop_size": 224, "do_center_crop": False,
        "do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
        "size": 224,
    },
    "mobilevit": {
        "feature_extractor_type": "MobileViTFeatureExtractor", "crop_size": 256, "do_center_crop": True,
        "do_flip_channel_order": True, "do_resize": True, "resample": 2, "size": 288,
    },
    "mobilevit, of today": {
        "image_processor_type": "MobileViTImageProcessor", "crop_size": {"height": 256, "width": 256},
        "size": {"shortest_edge": 288}, "do_flip_channel_order": False, "resample": 2, "do_normalize": True,
    },
    "pvt": {
        "image_processor_type": "PvtImageProcessor", "size": {"height": 224, "width": 224}, "resample": 2,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    },
    "levit": {
        "feature_extractor_type": "LevitFeatureExtractor", "do_center_crop": True, "do_normalize": True,
        "do_resize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3,
        "size": 224,
    },
    "dinov2": {
        "image_processor_type": "BitImageProcessor", "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True, "do_convert_rgb": True, "size": {"shortest_edge": 256}, "resample": 3,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    },
    "convnext": {
        "feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "do_normalize": True,
        "do_resize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3,
        "size": 224,
    },
    "convnext, warped": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
    "rescaled to -1…1": {
        "image_processor_type": "ViTImageProcessor", "rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0,
    },
    "clip": {
        "feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 224, "do_center_crop": True,
        "do_normalize": True, "do_resize": True, "resample": 3, "size": 224,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "clip, square": {"image_processor_type": "CLIPImageProcessor", "use_square_size": True, "do_center_crop": False},
    "siglip": {
        "image_processor_type": "SiglipImageProcessor", "do_resize": True, "size": {"height": 224, "width": 224},
        "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": None,
        "processor_class": "SiglipProcessor",
    },
    "efficientnet": {
        "image_processor_type": "EfficientNetImageProcessor", "crop_size": {"height": 289, "width": 289},
        "do_center_crop": False, "size": {"height": 224, "width": 224}, "resample": 0, "rescale_offset": False,
        "include_top": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.47853944, 0.4732864, 0.47434163],
    },
    "efficientnet, rescaled to -1…1": {
        "image_processor_type": "EfficientNetImageProcessor", "size": 96, "rescale_factor": 1 / 127.5,
        "rescale_offset": True, "include_top": False, "do_normalize": False,
    },
    "mobilenet": {
        "feature_extractor_type": "MobileNetV2FeatureExtractor", "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True, "size": {"shortest_edge": 256}, "resample": 2,
    },
    "segformer": {
        "feature_extractor_type": "SegformerFeatureExtractor", "do_normalize": True, "reduce_labels": False,
        "size": 512, "do_center_crop": True, "crop_size": 100,
    },
    "poolformer": {
        "feature_extractor_type": "PoolFormerFeatureExtractor", "crop_pct": 0.95, "size": 224, "crop_size": 224,
        "do_resize_and_center_crop": True,
    },
    "poolformer, warped": {
        "image_processor_type": "PoolFormerImageProcessor", "size": {"height": 64, "width": 96}, "crop_size": 60,
    },
    "convnext, warped, then cropped": {
        "image_processor_type": "ConvNextImageProcessor", "size": 400, "do_center_crop": True, "crop_size": 301,
    },
    "levit, with an edge that it ignores": {
        "image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 99, "longest_edge": 110},
    },
    "textnet": {
        "image_processor_type": "TextNetImageProcessor", "size_divisor": 1, "do_center_crop": True, "size": 256,
    },
    "raw pixels": {
        "image_processor_type": "ViTImageProcessor", "do_rescale": False, "image_mean": [123.7, 116.3, 103.5],
        "image_std": [58.4, 57.1, 57.4],
    },
    "nothing normalized": {"image_processor_type": "ViTImageProcessor", "do_normalize": False, "resample": 1},
}  # fmt: skip
"""As checkpoints on the hub have them: written by today's Transformers, and by its first versions."""


def noise(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def read(config: dict[str, Any], default: str = "ViTImageProcessor") -> Preprocessing:
    return processor_preprocessing(config, default=default, where=WHERE)


def kind_of(config: dict[str, Any]) -> str:
    named = config.get("image_processor_type") or config.get("feature_extractor_type") or "ViTImageProcessor"
    return str(named).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")


def processor_class(kind: str, *, torchvision: bool = False) -> Any:
    """The Pillow implementation: ``…Pil`` since Transformers 5, the bare name before."""
    return getattr(transformers, kind if torchvision else f"{kind}Pil", None) or getattr(transformers, kind)


def defaults_of(kind: str) -> dict[str, Any]:
    """What makes the default configuration of a class one of a single input size."""
    return {"size_divisor": 1, "do_center_crop": True} if kind == "TextNetImageProcessor" else {}


def processor_pixels(config: dict[str, Any], frame: Image, preprocessing: Preprocessing, **options: bool) -> Any:
    """What the processor gives for a picture, with its normalization taken back: ``H×W×3`` on the scale 0…255."""
    values = {key: value for key, value in config.items() if not key.endswith("_type")}
    processor = processor_class(kind_of(config), **options)(**values)
    (pixels,) = np.asarray(processor(frame, input_data_format="channels_last")["pixel_values"], np.float64)
    return 255 * (pixels.transpose(1, 2, 0) * preprocessing.std + preprocessing.mean)


def assert_same_picture(got: Image, expected: Any) -> None:
    """Within 1, and equal but for values that lie on a half: up to a sixth of them, where a side grows by 3 to 2."""
    assert got.shape == expected.shape
    off = np.abs(got - np.rint(expected))
    assert off.max() <= 1
    assert np.count_nonzero(off) <= 3 + 0.17 * off.size
    assert np.abs(expected - np.rint(expected)).max() < 0.01


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_runtime_gives_the_processors_pixels(name: str, size: tuple[int, int]) -> None:
    config, frame = PUBLISHED[name], noise(*size)
    preprocessing = read(config)
    got = Preprocessor(preprocessing)(frame, order="RGB")
    assert_same_picture(got, processor_pixels(config, frame, preprocessing))


OTHERWISE_IN_TORCHVISION = {"efficientnet", "levit, with an edge that it ignores"}
"""torchvision's nearest filter takes other pixels than Pillow's, and its odd margins round otherwise when it pads."""


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - OTHERWISE_IN_TORCHVISION))
def test_torchvision_processors_differ_by_one(name: str) -> None:
    config, frame = PUBLISHED[name], noise(480, 640)
    preprocessing = read(config)
    got = Preprocessor(preprocessing)(frame, order="RGB")
    expected = processor_pixels(config, frame, preprocessing, torchvision=True)
    assert np.abs(got - expected).max() < 1.01


sides = st.integers(8, 96)
rectangles = st.fixed_dictionaries({"height": sides, "width": sides})
edges = st.fixed_dictionaries({"shortest_edge": sides})


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(set(PROCESSORS) - {"DINOv3ViTImageProcessor"})),  # it has no Pillow implementation
    size=st.one_of(sides, rectangles, edges, st.lists(sides, min_size=2, max_size=2)),
    crop_size=st.one_of(st.none(), sides, rectangles),
    resample=st.integers(0, 5),
    crop_pct=st.sampled_from([0.5, 0.875, 0.9, 1.0]),
    flip=st.booleans(),
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_configuration_gives_the_processors_pixels(
    kind: str, size: Any, crop_size: Any, resample: int, crop_pct: float, flip: bool, height: int, width: int, seed: int
) -> None:
    config = {
        "image_processor_type": kind, "size": size, "resample": resample, "crop_pct": crop_pct,
        "do_center_crop": crop_size is not None, "crop_size": crop_size, "do_flip_channel_order": flip,
        "size_divisor": 1,
    }  # fmt: skip
    assume(max(height, width) <= 20 * min(height, width))
    try:
        preprocessing = read(config)
    except CheckpointError:
        assume(False)
    frame = noise(height, width, seed)
    known = processor_class(kind).valid_kwargs.__annotations__
    expected = processor_pixels(
        {key: each for key, each in config.items() if key in {*known, "image_processor_type"}}, frame, preprocessing
    )
    assert_same_picture(Preprocessor(preprocessing)(frame, order="RGB"), expected)


def test_the_crop_rounds_down() -> None:
    """A margin of 119 columns: torchvision and timm cut off 60 on the left, Transformers 59."""
    config = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}}
    frame = noise(256, 343)
    np.testing.assert_array_equal(Preprocessor(read(config))(frame, order="RGB"), frame[16:240, 59:283])


def test_mobilevit_reads_bgr_and_normalizes_nothing() -> None:
    preprocessing = read({"image_mean": [0.5] * 3, "do_normalize": True}, default="MobileViTImageProcessor")
    assert preprocessing.channel_order == "BGR"
    assert (preprocessing.mean, preprocessing.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("kind", PROCESSORS)
def test_the_values_of_each_class_are_those_of_the_library(kind: str) -> None:
    theirs = processor_class(kind)(**defaults_of(kind))
    assert read(defaults_of(kind), default=kind) == read(theirs.to_dict(), default="unknown")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"do_resize": False}, "do_resize of preprocessor_config.json is False"),
        ({"do_pad": True}, "do_pad of"),
        ({"do_thumbnail": True}, "do_thumbnail of"),
        ({"size": {"shortest_edge": 224}}, "do_center_crop of preprocessor_config.json is False"),
        ({"size": 384, "default_to_square": False, "max_size": 384}, "default_to_square of .* is False"),
        ({"size": 384, "resample": None}, "resample of .* is None"),
        ({"size": None}, "size of .* is None"),
        ({"image_processor_type": "SegformerImageProcessor", "size": {"shortest_edge": 9}}, "size of .*shortest_edge"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "size of .*longest_edge"),
        ({"size": {"max_height": 224, "max_width": 224}}, "size of"),
        ({"size": {"height": 224}}, "size of"),
        ({"size": "224"}, "size of .* is '224'"),
        ({"size": 0}, "size of"),
        ({"size": True}, "size of"),
        ({"size": [224, 224, 3]}, "size of"),
        ({"do_center_crop": True}, "crop_size of .* is None"),
        ({"resample": 6}, "resample of .* is 6"),
        ({"resample": "bicubic"}, "resample of"),
        ({"image_mean": [0.5, 0.5]}, "image_mean of"),
        ({"image_std": "half"}, "image_std of"),
        ({"image_std": [0.0, 1.0, 1.0]}, "std is"),
        ({"image_mean": [123.7, 116.3, 103.5]}, "mean is"),
        ({"rescale_factor": 0}, "rescale_factor of"),
        ({"size": 10**5}, "size of"),
        ({"size": 10**400}, "size of .* an integer of"),
        ({"size": {"height": 4097, "width": 32}}, "size of"),
        ({"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 4000}}, "sizes are"),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 5e-324, "size": 224}, "crop_pct is"),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.01, "size": 224}, "sizes are"),
        ({"rescale_factor": 1e300}, "rescale_factor of"),
        ({"rescale_factor": 1e-300}, "preprocessing (std|mean) is"),
        ({"rescale_factor": float("inf")}, "rescale_factor of"),
        ({"rescale_factor": True}, "rescale_factor of"),
        ({"image_std": [1e-300, 1, 1]}, "std is"),
        ({"image_mean": [float("nan"), 0, 0]}, "image_mean of"),
        ({"image_processor_type": ["ViT"]}, "image processor"),
        ({"image_processor_type": "GLPNImageProcessor"}, "image processor 'GLPNImageProcessor'"),
        ({"image_processor_type": "ImageGPTImageProcessor"}, "cannot follow: .*colour cluster"),
        ({"image_processor_type": "Siglip2ImageProcessorFast"}, "cannot follow: .*patches"),
        ({"image_processor_type": "DonutImageProcessor"}, "cannot follow: .*twice"),
        ({"image_processor_type": "TextNetImageProcessor", "size": 224}, "size_divisor of .* is 32"),
        ({"image_processor_type": "DINOv3ViTImageProcessor", "resample": 3}, "resample of .* is 3"),
        ({"do_normalize": "false"}, "do_normalize of .* is 'false'"),
        ({"image_processor_type": "EfficientNetImageProcessor", "rescale_offset": True}, "mean is"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "size of .*height"),
    ],
)
def test_what_cannot_be_followed_is_named(changes: dict[str, Any], named: str) -> None:
    config = {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}, **changes}
    with pytest.raises(CheckpointError, match=named) as caught:
        read(config)
    assert caught.value.expected


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("crop", [{}, {"do_center_crop": True, "crop_size": 61}], ids=["whole", "cropped"])
def test_a_processor_that_does_not_round(size: tuple[int, int], crop: dict[str, Any]) -> None:
    """``DINOv3ViTImageProcessor`` has no Pillow implementation: torchvision resizes floating-point pixels."""
    config, frame = {"image_processor_type": "DINOv3ViTImageProcessor", "size": 96, **crop}, noise(*size)
    preprocessing = read(config)
    got = Preprocessor(preprocessing)(frame, order="RGB")
    assert np.abs(got - processor_pixels(config, frame, preprocessing)).max() < 1.01


def test_a_step_that_is_null_is_off() -> None:
    """As in the library, which takes null for the value of a key, and not for a missing key."""
    config = {"image_processor_type": "BitImageProcessor", "size": [64, 48], "do_center_crop": None}
    preprocessing, frame = read(config), noise(80, 90)
    assert preprocessing.input_size == (64, 48)
    got = Preprocessor(preprocessing)(frame, order="RGB")
    assert_same_picture(got, processor_pixels(config, frame, preprocessing))


def test_a_processor_without_a_name() -> None:
    with pytest.raises(CheckpointError, match="names no image processor"):
        processor_preprocessing({"size": 224}, default=None, where=WHERE)


def test_a_processor_within_the_configuration_of_a_larger_one() -> None:
    config = {"image_processor_type": "CLIPImageProcessor", "crop_size": 128}
    nested = {"processor_class": "CLIPProcessor", "image_processor": config}
    assert read(nested) == read(config)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"crop_pct": 0}, "crop_pct of"), ({"do_center_crop": True, "crop_size": 100}, "crop_size of .* is 100")],
)
def test_what_convnext_cannot_crop(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        read({"size": 224, **changes}, default="ConvNextImageProcessor")


def test_a_mistyped_processor_gets_a_suggestion() -> None:
    with pytest.raises(CheckpointError) as caught:
        read({"image_processor_type": "DeitImageProcesor"})
    assert "DeiTImageProcessor" in caught.value.fix
