"""Load classifiers from folders in the layout of Hugging Face Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vitedge.bundle.model_card import ModelCard
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.quiet import quiet
from vitedge.converters.sources.labels import choose_labels, configured_labels, numbered_labels
from vitedge.converters.sources.model_limits import check_config_numbers, check_model_size
from vitedge.converters.sources.parse import HubFolder
from vitedge.converters.sources.preprocessing import read_preprocessing
from vitedge.converters.sources.timm.config import CONFIG, read_config
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.sources.transformers.processors import PROCESSOR_CONFIG, processor_preprocessing
from vitedge.converters.sources.weights.checkpoints import Checkpoint, read_checkpoint_folder
from vitedge.converters.sources.weights.state_dict import IncompatibleKeys, check_finite
from vitedge.errors import CheckpointError, UsageError, did_you_mean
from vitedge.extras import require
from vitedge.safety.files import is_file

ATTENTION = "eager"
"""Exports 4 MatMul, Softmax and Add for each block; ``sdpa`` adds IsNaN and Where, and scales queries and keys."""

LOADING_KEYS = frozenset(
    {
        "attn_implementation", "experts_implementation", "kernel_config", "use_kernels",  # may name code on the hub
        "auto_map", "custom_pipelines", "name_or_path", "distributed_config", "fusion_config", "per_layer_config",
        "dtype", "torch_dtype", "torchscript",
    }
)  # fmt: skip
"""Keys of ``config.json`` that control loading; vitedge ignores them and sets its own values."""

LOGITS_ONLY: Mapping[str, Any] = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}


@dataclass(frozen=True)
class Family:
    """A model type that vitedge converts.

    Attributes:
        classifiers: classes with logits; the first is the default if ``config.json`` names no class.
        processor: default image processor, if ``preprocessor_config.json`` names none.
    """

    classifiers: tuple[str, ...]
    processor: str


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "beit": Family(("BeitForImageClassification",), "BeitImageProcessor"),
        "convnext": Family(("ConvNextForImageClassification",), "ConvNextImageProcessor"),
        "convnextv2": Family(("ConvNextV2ForImageClassification",), "ConvNextImageProcessor"),
        "deit": Family(("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"), "DeiTImageProcessor"),
        "dinov2": Family(("Dinov2ForImageClassification",), "BitImageProcessor"),
        "dinov2_with_registers": Family(("Dinov2WithRegistersForImageClassification",), "BitImageProcessor"),
        "levit": Family(
            ("LevitForImageClassification", "LevitForImageClassificationWithTeacher"), "LevitImageProcessor"
        ),
        "mobilevit": Family(("MobileViTForImageClassification",), "MobileViTImageProcessor"),
        "mobilevitv2": Family(("MobileViTV2ForImageClassification",), "MobileViTImageProcessor"),
        "pvt": Family(("PvtForImageClassification",), "PvtImageProcessor"),
        "pvt_v2": Family(("PvtV2ForImageClassification",), "PvtImageProcessor"),
        "resnet": Family(("ResNetForImageClassification",), "ConvNextImageProcessor"),
        "swin": Family(("SwinForImageClassification",), "ViTImageProcessor"),
        "swinv2": Family(("Swinv2ForImageClassification",), "ViTImageProcessor"),
        "vit": Family(("ViTForImageClassification",), "ViTImageProcessor"),
    }
)
"""Keys are ``model_type`` in ``config.json``."""


class LogitsOnly(nn.Module):
    """A classifier of Transformers that returns only logits: ``(1,3,H,W)`` to ``(1,classes)``.

    For a class with a distilled head (``…WithTeacher``), the logits are the average of both heads.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of ``(1,3,H,W)`` float32 pixels."""
        logits: Tensor = self.model(pixel_values=pixels).logits
        return logits


def is_transformers_folder(folder: Path) -> bool:
    """Return whether ``config.json`` of a folder comes from Transformers; timm's has an ``architecture``.

    Raises:
        CheckpointError: there is no ``config.json``, or it is no JSON object.
    """
    config = read_config(folder / CONFIG)
    return "model_type" in config and "architecture" not in config


def load_transformers(
    source: HubFolder,
    *,
    labels: Path | None,
    preprocessing: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> TorchModel:
    """Build the model of a folder that ``save_pretrained`` wrote, without running code from the folder.

    Args:
        source: the folder.
        labels: file of labels; None for ``id2label``.
        preprocessing: see ``read_preprocessing``; None for ``preprocessor_config.json``.
        input_size: must be None, because Transformers' models have the size of their image processor.

    Raises:
        UsageError: ``input_size`` is not None.
        MissingExtraError: Transformers is not installed.
        CheckpointError: the model type is unknown, configuration, image processor or weights are missing or do not fit
            together, or labels do not match the logits.
    """
    where = source.path / CONFIG
    if input_size is not None:
        raise UsageError(
            f"input_size= does not apply to {source.path}, which is in the layout of Transformers",
            expected="the size of its image processor",
            fix=f"change the sizes in {PROCESSOR_CONFIG}, if the model runs at other sizes",
        )
    config = read_config(where)
    check_config_numbers(config, str(where))
    family, classifier = _classifier(config, where)
    named = _named_labels(config)
    transform = read_preprocessing(preprocessing, None) if preprocessing else _preprocessing(source.path, family)
    with quiet():
        transformers = require(
            "transformers", extra="transformers", purpose=f"a model in Transformers' layout, {where},"
        )
    stored = read_checkpoint_folder(source.path)
    check_finite(stored.state_dict, source.path)
    counted = config if named is None else {**config, "num_labels": len(named)}  # PVT does not derive it from id2label
    module = LogitsOnly(_build(transformers, classifier, counted, stored, source.path, transform.input_size)).eval()
    logits = _count_logits(module, transform.input_size, source.path)
    card = ModelCard(
        name=source.name,
        source=str(source.path),
        architecture=classifier,
        labels=choose_labels(logits, file=labels, configured=named, where=f"id2label of {where}"),
        preprocessing=transform,
        weights_sha256=stored.sha256,
        pretrained=True,
    )
    return TorchModel(card, module)


def _classifier(config: Mapping[str, Any], where: Path) -> tuple[Family, str]:
    """Return the family of a configuration, and the class that it names."""
    model_type = str(config.get("model_type"))
    family = FAMILIES.get(model_type)
    if family is None:
        raise CheckpointError(
            f"{where} has model_type {model_type!r:.60}, which vitedge does not convert from Transformers",
            expected=f"one of {', '.join(FAMILIES)}",
            fix=did_you_mean(model_type, FAMILIES) or "export it to ONNX yourself, and convert the .onnx file",
        )
    if config.get("quantization_config"):
        raise CheckpointError(f"{where} says that the weights are quantized", expected="the model before quantization")
    named = config.get("architectures") or family.classifiers[:1]
    if not isinstance(named, (list, tuple)):
        raise CheckpointError(f"{where} has architectures {named!r:.80}", expected="a list of class names")
    for name in family.classifiers:
        if name in named:
            return family, name
    raise CheckpointError(
        f"{where} has architectures {named!r:.80}, which are no image classifiers",
        expected=" or ".join(family.classifiers),
        fix="take a checkpoint that was fine-tuned for image classification",
    )


def _preprocessing(folder: Path, family: Family) -> Preprocessing:
    where = folder / PROCESSOR_CONFIG
    if not is_file(where):
        raise CheckpointError(
            f"{folder} does not say how images are preprocessed",
            expected=f"{PROCESSOR_CONFIG} beside {CONFIG}",
            fix="copy it from the model that yours was fine-tuned from, or write it with transformers."
            f"{family.processor}(...).save_pretrained({str(folder)!r}), or give preprocessing=FILE",
        )
    return processor_preprocessing(read_config(where), default=family.processor, where=where)


def _build(
    transformers: ModuleType,
    classifier: str,
    config: Mapping[str, Any],
    stored: Checkpoint,
    folder: Path,
    size: tuple[int, int],
) -> nn.Module:
    """Build the model with its weights; Transformers translates keys of its older versions."""
    kind = getattr(transformers, classifier)
    described = {key: value for key, value in config.items() if key not in LOADING_KEYS and not key.startswith("_")}
    try:
        with quiet():
            settings = kind.config_class.from_dict({**described, **LOGITS_ONLY})
            settings._attn_implementation = ATTENTION
            check_model_size(lambda: LogitsOnly(kind(settings)), stored.state_dict, size)
            model, report = kind.from_pretrained(
                None,
                config=settings,
                state_dict=dict(stored.state_dict),
                dtype=torch.float32,
                attn_implementation=ATTENTION,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # constructors raise anything on a wrong value
        raise CheckpointError(
            f"Transformers cannot build {classifier} from {folder / CONFIG}: {_first_line(error)}",
            expected="a configuration that save_pretrained wrote",
        ) from error
    _check_complete(report, folder)
    built: nn.Module = model
    return built


def _check_complete(report: Mapping[str, Any], folder: Path) -> None:
    """Refuse missing or misshaped parameters; allow unused ones, such as a pooler."""
    mismatch = IncompatibleKeys(
        missing=tuple(sorted(report["missing_keys"])),
        unexpected=(),
        misshaped=tuple(
            sorted(f"{key} {tuple(given)} for {tuple(wanted)}" for key, given, wanted in report["mismatched_keys"])
        ),
    )
    if mismatch:
        raise mismatch.error(
            str(folder), fix="take a checkpoint that was fine-tuned for image classification, with its own config.json"
        )


def _count_logits(module: nn.Module, input_size: tuple[int, int], folder: Path) -> int:
    """Run the model once, because most models accept only one image size, and return the number of logits."""
    height, width = input_size
    try:
        with quiet(), torch.no_grad():
            logits: Tensor = module(torch.zeros(1, 3, height, width))
    except Exception as error:  # the model's own code runs here
        raise CheckpointError(
            f"{folder} does not run on the {height}x{width} images of its image processor: {_first_line(error)}",
            expected=f"an image size that fits image_size and num_channels of {CONFIG}",
        ) from error
    return int(logits.shape[1])


def _named_labels(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return ``id2label``, or numbers if it holds only Transformers' default labels."""
    named = configured_labels(config, key="id2label")
    if named is not None and named == tuple(f"LABEL_{index}" for index in range(len(named))):
        return numbered_labels(len(named))
    return named


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
