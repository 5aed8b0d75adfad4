"""Load classifiers from folders in the layout of Hugging Face Transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitedge.bundle.model_card import ModelCard
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.quiet import quiet
from vitedge.converters.sources.activation import activation_of_problem
from vitedge.converters.sources.labels import choose_labels, configured_labels, numbered_labels
from vitedge.converters.sources.layouts import layout_of
from vitedge.converters.sources.model_limits import check_config_numbers, check_model_size
from vitedge.converters.sources.parse import HubFolder
from vitedge.converters.sources.preprocessing import read_preprocessing
from vitedge.converters.sources.timm.config import CONFIG, read_config
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.sources.transformers.families import (
    OUTPUTS,
    TIMM_WRAPPER,
    Family,
    classifier_class,
    find_classifier,
)
from vitedge.converters.sources.transformers.processor_files import (
    check_processor_agrees,
    find_processor,
    read_processor,
)
from vitedge.converters.sources.transformers.processors import PROCESSOR_CONFIG
from vitedge.converters.sources.transformers.timm_wrapper import build_timm_wrapper, wrapped_preprocessing
from vitedge.converters.sources.weights.checkpoints import Checkpoint, read_checkpoint_folder
from vitedge.converters.sources.weights.state_dict import IncompatibleKeys, check_finite
from vitedge.errors import CheckpointError, UsageError, class_and_first_line

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


class LogitsOnly(nn.Module):
    """A classifier of Transformers that returns only logits: ``(1,3,H,W)`` to ``(1,classes)``.

    For a class with a distilled head (``…WithTeacher``), the logits are the average of both heads.

    Args:
        model: the classifier.
        output: name of the logits in what it returns.
    """

    def __init__(self, model: nn.Module, output: str = "logits") -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of ``(1,3,H,W)`` float32 pixels."""
        logits: Tensor = getattr(self.model(pixel_values=pixels), self.output)
        return logits


def is_transformers_folder(folder: Path) -> bool:
    """Return whether ``config.json`` of a folder comes from Transformers, or from its wrapper of timm.

    Raises:
        CheckpointError: there is no ``config.json``, it is no JSON object, or it has keys of both layouts.
    """
    config = read_config(folder / CONFIG)
    return _is_wrapper(config) or layout_of(config, folder / CONFIG) == "transformers"


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
            fix="convert it without input_size=, or, if its family takes any size, as ConvNeXt and ResNet do, give "
            f"preprocessing=FILE with a copy of its {PROCESSOR_CONFIG} that has other sizes",
        )
    config = read_config(where)
    check_config_numbers(config, str(where))
    family, classifier = find_classifier(config, where)
    _check_not_quantized(config, where)
    named = _named_labels(config)
    transform = (
        read_preprocessing(preprocessing, None) if preprocessing else _preprocessing(source.path, config, family)
    )
    stored = read_checkpoint_folder(source.path)
    check_finite(stored.state_dict, source.path)
    module = _build(classifier, _counted(config, named), stored, source.path, transform.input_size).eval()
    logits = _count_logits(module, transform.input_size, source.path)
    card = ModelCard(
        name=source.name,
        source=str(source.path),
        architecture=classifier,
        labels=choose_labels(
            logits, file=labels, configured=named, where=f"the labels of {where}", imagenet=_is_wrapper(config)
        ),
        preprocessing=transform,
        weights_sha256=stored.sha256,
        pretrained=True,
    )
    return TorchModel(
        card, module, activation_of_problem(config.get("problem_type"), logits, str(where)), gives_logits=True
    )


def _check_not_quantized(config: Mapping[str, Any], where: Path) -> None:
    if any(each.get("quantization_config") for each in (config, *_nested(config).values())):
        raise CheckpointError(f"{where} says that the weights are quantized", expected="the model before quantization")


def _nested(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the configurations inside a configuration, such as ``vision_config`` of CLIP."""
    return {
        key: value
        for key, value in config.items()
        if key.endswith("_config") and key not in LOADING_KEYS and isinstance(value, Mapping)
    }


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration and those inside it say about the architecture, with ``LOGITS_ONLY``."""
    kept = {key: value for key, value in config.items() if key not in LOADING_KEYS and not key.startswith("_")}
    return {**kept, **{key: _described(value) for key, value in _nested(kept).items()}, **LOGITS_ONLY}


def _counted(config: Mapping[str, Any], named: tuple[str, ...] | None) -> Mapping[str, Any]:
    """Name and count the labels as Transformers does; PVT and timm's wrapper do not count the names."""
    if named is None:
        return config
    return {**config, "num_labels": len(named), "id2label": dict(enumerate(named)), "label2id": None}


def _is_wrapper(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == TIMM_WRAPPER


def _preprocessing(folder: Path, config: Mapping[str, Any], family: Family) -> Preprocessing:
    if _is_wrapper(config):
        wrapped = wrapped_preprocessing(config, folder / CONFIG)
        check_processor_agrees(folder, wrapped)
        return wrapped
    processor = find_processor(folder)
    if processor is None:
        written = f", or write it with transformers.{family.processor}(...).save_pretrained({str(folder)!r})"
        raise CheckpointError(
            f"{folder} does not say how images are preprocessed",
            expected=f"{PROCESSOR_CONFIG} beside {CONFIG}",
            fix="copy it from the model that yours was fine-tuned from"
            f"{written if family.processor else ''}, or give preprocessing=FILE",
        )
    return read_processor(processor, model=config)


def _build(
    classifier: str, config: Mapping[str, Any], stored: Checkpoint, folder: Path, size: tuple[int, int]
) -> nn.Module:
    """Build the model with its weights; Transformers translates keys of its older versions."""
    if _is_wrapper(config):
        return build_timm_wrapper(config, stored, folder, size)
    kind = classifier_class(classifier)
    output = OUTPUTS.get(classifier, "logits")
    try:
        with quiet():
            settings = kind.config_class.from_dict(_described(config))
            settings._attn_implementation = ATTENTION
            check_model_size(lambda: LogitsOnly(kind(settings), output), stored.state_dict, size)
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
            f"Transformers cannot build {classifier} from {folder / CONFIG}: {class_and_first_line(error)}",
            expected="a configuration that save_pretrained wrote",
        ) from error
    _check_complete(report, model, folder)
    return LogitsOnly(model, output)


def _check_complete(report: Mapping[str, Any], model: nn.Module, folder: Path) -> None:
    """Refuse missing or misshaped parameters, and layers that the configuration leaves out.

    Other unused parameters are allowed, such as a pooler, or the text model of CLIP.
    """
    kinds = {_kind(key) for key in model.state_dict()}
    mismatch = IncompatibleKeys(
        missing=tuple(sorted(report["missing_keys"])),
        unexpected=tuple(sorted(key for key in report["unexpected_keys"] if _kind(key) in kinds)),
        misshaped=tuple(
            sorted(f"{key} {tuple(given)} for {tuple(wanted)}" for key, given, wanted in report["mismatched_keys"])
        ),
    )
    if mismatch:
        raise mismatch.error(
            str(folder), fix="take a checkpoint that was fine-tuned for image classification, with its own config.json"
        )


def _kind(key: str) -> str:
    """Return the name of a parameter without the numbers of its layer and block."""
    return re.sub(r"\d+", "#", key)


def _count_logits(module: nn.Module, input_size: tuple[int, int], folder: Path) -> int:
    """Run the model once, because most models accept only one image size, and return the number of logits."""
    height, width = input_size
    try:
        with quiet(), torch.no_grad():
            logits: Tensor = module(torch.zeros(1, 3, height, width))
    except Exception as error:  # the model's own code runs here
        raise CheckpointError(
            f"{folder} does not run on the {height}x{width} images of its image processor: "
            f"{class_and_first_line(error)}",
            expected=f"an image size that fits image_size and num_channels of {CONFIG}",
            fix=f"take the {PROCESSOR_CONFIG} that was saved with the weights, or give preprocessing=FILE",
        ) from error
    return int(logits.shape[1])


def _named_labels(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return ``id2label``, or ``label_names`` of timm's wrapper; numbers if they are Transformers' default labels."""
    wrapped = _is_wrapper(config) and config.get("label_names")
    named = configured_labels(config, key="label_names" if wrapped else "id2label")
    if named is not None and named == tuple(f"LABEL_{index}" for index in range(len(named))):
        return numbered_labels(len(named))
    return named
