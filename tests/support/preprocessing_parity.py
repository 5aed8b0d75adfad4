"""Random configurations of preprocessing: the runtime's pixels against Transformers' and timm's own, or a refusal.

``benchmarks/preprocessing_parity.py`` runs many of them, the test suite a few.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.sources.timm.config import TIMM_KEYS, completed, preprocessing_from
from vitedge.converters.sources.transformers.processor_classes import PROCESSORS, UNSUPPORTED
from vitedge.converters.sources.transformers.processors import processor_preprocessing
from vitedge.errors import CheckpointError
from vitedge.runtime.preprocess.preprocessor import Preprocessor

Image = NDArray[np.uint8]
Pixels = NDArray[np.float64]
Config = Mapping[str, Any]

WHERE = Path("preprocessor_config.json")
ONE_LEVEL = 1.01
UNKNOWN = ("GLPNImageProcessor", "PerceiverImageProcessor")
ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What the libraries raise for values that they cannot use."""
BARE = "ViTImageProcessor"
"""The processor of a file that names none, in these comparisons."""


@dataclass(frozen=True)
class Outcome:
    """What became of one configuration.

    Attributes:
        kind: ``equal``, ``refused``, ``different`` or ``wrong reason``.
        detail: key that the refusal names, or what differs.
        config: the configuration.
    """

    kind: str
    detail: str
    config: Config


def random_image(rnd: random.Random) -> Image:
    """Noise, or blocks of one colour, of any shape up to 20:1."""
    rng = np.random.default_rng(rnd.getrandbits(32))
    height = rnd.randint(8, 180)
    width = rnd.randint(max(8, height // 20), min(180, height * 20))
    if rnd.random() < 0.5:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    block = rnd.choice((5, 7, 11))
    coarse = rng.integers(0, 256, (height // block + 1, width // block + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((block, block, 1), np.uint8))[:height, :width])


class _Drawn(dict[str, Any]):
    """A configuration that is drawn key by key."""

    def __init__(self, rnd: random.Random) -> None:
        super().__init__()
        self._rnd = rnd

    def maybe(self, key: str, *values: Any, chance: float) -> None:
        if self._rnd.random() < chance:
            self[key] = self._rnd.choice(values)


def random_processor(rnd: random.Random) -> dict[str, Any]:
    """Draw ``preprocessor_config.json`` of any class, with options that fit and options that do not."""
    config = _Drawn(rnd)
    kind = rnd.choice([*PROCESSORS, *PROCESSORS, *PROCESSORS, rnd.choice([*UNSUPPORTED, *UNKNOWN])])
    older = kind.replace("ImageProcessor", "FeatureExtractor")
    name = rnd.choice([("image_processor_type", kind)] * 3 + [("image_processor_type", f"{kind}Fast")] +
                      [("feature_extractor_type", older)] + ([None] if kind == BARE else []))  # fmt: skip
    if name is not None:
        config[name[0]] = name[1]
    side, crop = rnd.choice((64, 96, 128, 400)), rnd.choice((48, 63, 96, 100))
    config.maybe(
        "size",
        *[side, [side, side], {"height": side, "width": side}, {"height": side, "width": side + 16}] * 4,
        *[{"shortest_edge": side}] * 12,
        {"shortest_edge": side, "longest_edge": side + 40}, {"longest_edge": side}, None, f"{side}", 0,
        {"max_height": side, "max_width": side}, {"height": side}, {"shortest_edge": side, "longest_edge": None},
        chance=0.9,
    )  # fmt: skip
    config.maybe(
        "crop_size", *[crop, {"height": crop, "width": crop}, {"height": crop, "width": crop - 16}] * 4,
        None, {"shortest_edge": crop}, [crop, crop + 4], chance=0.8,
    )  # fmt: skip
    config.maybe("do_center_crop", True, True, True, False, None, chance=0.7)
    config.maybe("default_to_square", True, False, chance=0.3)
    config.maybe("resample", 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, None, chance=0.6)
    config.maybe("do_resize", *[True] * 4, False, chance=0.2)
    config.maybe("do_normalize", True, False, None, chance=0.3)
    config.maybe("do_rescale", True, False, chance=0.2)
    config.maybe("rescale_factor", 1 / 255, 1 / 127.5, 1, chance=0.2)
    config.maybe("rescale_offset", True, False, chance=0.3)
    config.maybe("include_top", True, False, chance=0.3)
    config.maybe("crop_pct", 0.875, 0.9, 1.0, 1.2, None, chance=0.3)
    config.maybe("size_divisor", 1, 1, 1, 32, chance=0.8)
    config.maybe("do_flip_channel_order", True, False, chance=0.3)
    config.maybe("image_mean", *[[0.1, 0.2, 0.3], 0.4] * 4, None, [0.5], chance=0.4)
    config.maybe("image_std", [0.3, 0.2, 0.25], 0.4, 1.0, chance=0.3)
    config.maybe("do_convert_rgb", True, False, None, chance=0.2)
    config.maybe("do_reduce_labels", True, False, chance=0.1)
    config.maybe("use_square_size", True, False, chance=0.1)
    config.maybe("max_size", side, chance=0.1)
    config.maybe("offset", True, chance=0.1)
    for key in ("do_pad", "do_thumbnail", "do_align_long_axis"):
        config.maybe(key, True, False, chance=0.03)
    return dict(config)


def compare_processor(config: Config, images: tuple[Image, Image]) -> Outcome:
    """Compare the pixels of an image; refused configurations must have a right reason."""
    try:
        preprocessing = processor_preprocessing(config, default=BARE, where=WHERE)
    except CheckpointError as error:
        return _refusal(config, error, _processor_reasons(config, images))
    try:
        expected = _processed(config, images[0])
    except ERRORS as error:
        return Outcome("different", f"Transformers raises {type(error).__name__}: {error}", config)
    return _compared(config, preprocessing, images[0], expected)


def _kind(config: Config) -> str:
    named = str(config.get("image_processor_type") or config.get("feature_extractor_type") or BARE)
    return named.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")


def _processed(config: Config, image: Image) -> Pixels:
    """Return the values of Transformers' Pillow implementation, or of its only one, ``H×W×3``."""
    import transformers

    kind = _kind(config)
    processor = getattr(transformers, f"{kind}Pil", None) or getattr(transformers, kind)
    values = {key: value for key, value in config.items() if not key.endswith("_type")}
    (pixels,) = np.asarray(processor(**values)(image, input_data_format="channels_last")["pixel_values"], np.float64)
    return pixels.transpose(1, 2, 0)


def _processor_reasons(config: Config, images: tuple[Image, Image]) -> dict[str, Callable[[], bool]]:
    """Return, by the key that a refusal names, whether it is a reason."""
    kind = _kind(config)
    size = config.get("size")
    values = {**PROCESSORS[kind].defaults, **config} if kind in PROCESSORS else {}

    def fails() -> bool:
        try:
            return _processed(config, images[0]).ndim != 3
        except ERRORS:
            return True

    def varies() -> bool:
        return fails() or _processed(config, images[0]).shape != _processed(config, images[1]).shape

    limited = isinstance(size, Mapping) and bool({"longest_edge", "max_height"} & set(size))
    return {
        "class": lambda: kind not in PROCESSORS,
        "do_resize": lambda: config["do_resize"] is False,
        "do_pad": lambda: config["do_pad"] is True,
        "do_thumbnail": lambda: config["do_thumbnail"] is True,
        "do_align_long_axis": lambda: config["do_align_long_axis"] is True,
        "do_center_crop": lambda: not config.get("do_center_crop") and varies(),
        "default_to_square": lambda: not config.get("do_center_crop") and varies(),
        "size": lambda: varies() or limited,
        "size_divisor": lambda: kind == "TextNetImageProcessor" and values["size_divisor"] != 1,
        "crop_size": lambda: fails() or kind in ("ConvNextImageProcessor", "DINOv3ViTImageProcessor"),
        "resample": lambda: fails() or (kind == "DINOv3ViTImageProcessor" and config["resample"] != 2),
        "image_mean": fails,
        "crop_pct": fails,
        "mean": lambda: _beyond(config, images[0]),
        "std": lambda: False,
    }


def _beyond(config: Config, image: Image) -> bool:
    """Whether a pixel on the 0…1 scale that becomes 0, which is the mean, lies outside of 0…1."""
    plain = {**config, "resample": 2, "size": {"height": 4, "width": 4}, "do_center_crop": False}
    black, white = (_processed(plain, np.full_like(image[:8, :8], level)).reshape(-1, 3)[0] for level in (0, 255))
    mean = -black / (white - black)
    return bool(np.any((mean < 0) | (mean > 1)))


TIMM_CONFIG: Config = {
    "input_size": [3, 64, 64], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
}  # fmt: skip
ARCHITECTURES = ("deit_tiny_patch16_224", "vit_tiny_patch16_224", "mobilevit_xxs", None)


def random_timm(rnd: random.Random) -> dict[str, Any]:
    """Draw a ``pretrained_cfg`` with its ``architecture``; keys may be missing or wrong."""
    config = _Drawn(rnd)
    side = rnd.randint(16, 96)
    config["input_size"] = rnd.choice([[3, side, side]] * 15 + [[3, side, rnd.randint(16, 96)]] * 8 + [[1, side, side]])
    config["interpolation"] = rnd.choice(
        ["bicubic", "bilinear"] * 4 + ["nearest", "lanczos", "box", "hamming", "random"]
    )
    config["crop_pct"] = rnd.choice([0.875, 0.9, 0.95, 1.0, rnd.uniform(0.4, 1.4)] * 3 + ["0.9"])
    config["crop_mode"] = rnd.choice(["center"] * 3 + ["squash", "border", None] * 4 + ["corner"])
    config["mean"] = rnd.choice([[0.485, 0.456, 0.406], [0.5, 0.5, 0.5], (0.0, 0.0, 0.0), [0.1, 0.2, 0.3]] * 4 +
                                [[123.7, 116.3, 103.5]])  # fmt: skip
    config["std"] = rnd.choice([[0.229, 0.224, 0.225], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0], [0.3, 0.2, 0.25]])
    for key in TIMM_KEYS:
        if rnd.random() < 0.04:
            del config[key]
        elif rnd.random() < 0.01:
            config[key] = None
    config["architecture"] = rnd.choice(ARCHITECTURES)
    return dict(config)


def compare_timm(config: Config, image: Image) -> Outcome:
    """Compare the pixels of an image, as timm prepares it for a checkpoint with this configuration."""
    architecture, described = config["architecture"], {key: config[key] for key in config if key != "architecture"}
    try:
        preprocessing = preprocessing_from(completed(described, architecture=architecture, where="config.json"))
    except CheckpointError as error:
        return _refusal(config, error, _timm_reasons(described, architecture, image))
    try:
        expected = _transformed(described, image)
    except ERRORS as error:
        return Outcome("different", f"timm raises {type(error).__name__}: {error}", config)
    return _compared(config, preprocessing, image, expected)


def _transformed(described: Config, image: Image) -> Pixels:
    from PIL.Image import fromarray
    from timm.data import create_transform, resolve_data_config
    from timm.models import PretrainedCfg

    given = {key: value for key, value in described.items() if value is not None}
    transform = create_transform(**resolve_data_config(pretrained_cfg=asdict(PretrainedCfg(**given))))
    return np.asarray(transform(fromarray(image)), np.float64).transpose(1, 2, 0)


def _timm_reasons(described: Config, architecture: str | None, image: Image) -> dict[str, Callable[[], bool]]:
    from timm.models import PretrainedCfg, get_pretrained_cfg

    missing = [key for key in TIMM_KEYS if not described.get(key)]

    def unstated() -> bool:
        own = None if architecture is None else get_pretrained_cfg(architecture)
        return bool(missing) and any(
            own is None or getattr(own, key) != getattr(PretrainedCfg(), key) for key in missing
        )

    def fails() -> bool:
        try:
            _transformed(described, image)
        except ERRORS:
            return True
        return False

    return {
        "missing": unstated,
        "channels": lambda: described["input_size"][0] != 3,
        "interpolation": lambda: described["interpolation"] == "random",
        "crop_mode": lambda: described["crop_mode"] == "corner",
        "crop_pct": fails,
        "mean": lambda: max(described["mean"]) > 1,
    }


_NAMED = re.compile(
    r"(?P<class>asks for)|has no (?P<missing>\w+)|reads .* (?P<channels>channels)|preprocessing (?P<value>mean|std) is"
    r"|(?P<key>\w+) of "
)


def _refusal(config: Config, error: CheckpointError, reasons: Mapping[str, Callable[[], bool]]) -> Outcome:
    found = _NAMED.search(error.problem)
    groups = {} if found is None else {name: text for name, text in found.groupdict().items() if text}
    named = next((text if name in ("key", "value") else name for name, text in groups.items()), "nothing")
    if named not in reasons or not reasons[named]():
        return Outcome("wrong reason", f"{error.problem} | {error.expected}", config)
    return Outcome("refused", named, config)


def _compared(config: Config, preprocessing: Preprocessing, image: Image, expected: Pixels) -> Outcome:
    """Compare on the scale of 8 bits: the normalization of the reference is taken back with ours."""
    got = Preprocessor(preprocessing)(image, order="RGB")
    if got.shape != expected.shape:
        return Outcome("different", f"shape {got.shape}, not {expected.shape}", config)
    off = np.abs(got - 255 * (expected * preprocessing.std + preprocessing.mean)).max()
    return Outcome("equal" if off <= ONE_LEVEL else "different", f"{off:.2f} of 255", config)
