"""timm names, hub folders and bare checkpoints to a module with its card."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from vitedge.converters.checkpoints import Weights, read_weights
from vitedge.converters.labels import (
    IMAGENET_CLASSES,
    check_label_count,
    configured_labels,
    imagenet_labels,
    numbered_labels,
    read_labels,
)
from vitedge.converters.quiet import quiet
from vitedge.converters.sources import HubFolder, TimmName
from vitedge.converters.timm_config import CONFIG, preprocessing_from, read_config
from vitedge.errors import CheckpointError, UsageError, did_you_mean
from vitedge.model_card import ModelCard

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
RANDOM_SEED = 0
SHOWN_KEYS = 3


@dataclass(frozen=True)
class TorchModel:
    """A PyTorch classifier.

    Attributes:
        card: identity, labels, preprocessing.
        module: maps ``(1, 3, H, W)`` float32, normalized, to ``(1, classes)`` float32; in evaluation mode, on the CPU.
    """

    card: ModelCard
    module: nn.Module


def load_named(source: TimmName, *, weights: Path | None, labels: Path | None, random_weights: bool) -> TorchModel:
    """Build a timm model by name, with the weights of a file, of timm's own download, or random ones.

    Raises:
        UsageError: timm has no such model.
        CheckpointError: the weights cannot be had or do not fit, or labels do not match the logits.
    """
    _check_name(source.name)
    if weights is not None:
        stored = read_weights(weights)
        module, sha256 = _with_file(source.name, stored, weights), stored.sha256
    elif random_weights:
        module, sha256 = _random(source.name), ""
    else:
        module = _downloaded(source.name)
        sha256 = _hash_of(module.state_dict())
    return _described(module, sha256, name=source.name, source=f"timm:{source.name}", labels=labels)


def load_folder(source: HubFolder, *, labels: Path | None) -> TorchModel:
    """Build the model of a folder in timm's hub layout.

    Raises:
        CheckpointError: configuration or weights are missing or do not fit, or labels do not match the logits.
    """
    _check_layout(source.path)
    file = _weight_file(source.path)
    stored = read_weights(file)
    local = f"local-dir:{source.path}"
    module = _fit(
        _create(local, where=str(source.path / CONFIG)),
        stored.tensors,
        file,
        remap=lambda: _create(local, where=str(file), pretrained=True),
    )
    return _described(module, stored.sha256, name=source.name, source=str(source.path), labels=labels)


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        raise UsageError(
            f"timm has no model {name!r}, and there is no file or folder of that name",
            expected="a name of timm.list_models(), a folder, or an .onnx file",
            fix=did_you_mean(name, timm.list_models()) or "vitedge models lists names to start from",
        )
    try:
        get_pretrained_cfg(name)
    except RuntimeError as error:
        tagged = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        raise UsageError(str(error), expected=f"one of {', '.join(tagged)}", fix=did_you_mean(name, tagged)) from error


def _random(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return _create(name, where=f"timm:{name}")


def _downloaded(name: str) -> nn.Module:
    try:
        module: nn.Module = timm.create_model(name, pretrained=True, exportable=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the trained weights of {name} cannot be downloaded: {_first_line(error)}",
            fix="without a network, convert a folder with config.json and model.safetensors, or give --weights FILE; "
            "--random-weights is enough to measure latency",
        ) from error
    return module


def _with_file(name: str, weights: Weights, file: Path) -> nn.Module:
    classes = _classes_in(weights.tensors, name)
    overlay = {"state_dict": dict(weights.tensors), "num_classes": classes, "label_offset": 0, "custom_load": False}
    return _fit(
        _create(name, where=f"timm:{name}", num_classes=classes),
        weights.tensors,
        file,
        remap=lambda: _create(
            name, where=str(file), pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay
        ),
    )


def _classes_in(tensors: Mapping[str, Tensor], name: str) -> int:
    """Rows of the checkpoint's classifier; timm's default where the checkpoint names it otherwise."""
    config = get_pretrained_cfg(name)
    classifiers = config.classifier if isinstance(config.classifier, (list, tuple)) else [config.classifier]
    found = [tensors[f"{each}.weight"].shape[0] for each in classifiers if f"{each}.weight" in tensors]
    return int(found[0]) if found else int(config.num_classes)


def _check_layout(folder: Path) -> None:
    config = read_config(folder / CONFIG)
    architecture = config.get("architecture")
    if architecture is None and "model_type" in config:
        raise CheckpointError(
            f"{folder} is in the layout of Transformers", expected="timm's: config.json names an architecture"
        )
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise CheckpointError(
            f"{folder / CONFIG} has architecture {architecture!r}",
            expected="a name of timm.list_models()",
            fix=did_you_mean(str(architecture), timm.list_models()),
        )


def _weight_file(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} has no weights", expected=f"one of {', '.join(WEIGHT_FILES)}")


def _create(name: str, *, where: str, **options: Any) -> nn.Module:
    try:
        with quiet():
            module: nn.Module = timm.create_model(name, exportable=True, **options)
    except Exception as error:  # timm's constructors and key mappings raise whatever a wrong value leads to
        raise CheckpointError(
            f"timm cannot build {name} from {where}: {_first_line(error)}", expected="a checkpoint that timm saved"
        ) from error
    return module


def _fit(module: nn.Module, tensors: Mapping[str, Tensor], file: Path, *, remap: Callable[[], nn.Module]) -> nn.Module:
    """Load tensors by their names; where the names are another convention's, through timm's own mapping."""
    _check_finite(tensors, file)
    mismatch = Mismatch.between(module.state_dict(), tensors)
    if not mismatch:
        module.load_state_dict(dict(tensors))
        return module
    try:
        if mismatch.misshaped:
            raise mismatch.error(file)
        return remap()
    except CheckpointError as error:
        raise mismatch.error(file) from error.__cause__


@dataclass(frozen=True)
class Mismatch:
    """How the tensors of a checkpoint differ from what a module expects, each described by a phrase."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]

    @classmethod
    def between(cls, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Mismatch:
        """Compare names and shapes."""
        return cls(
            missing=tuple(key for key in expected if key not in given),
            unexpected=tuple(key for key in given if key not in expected),
            misshaped=tuple(
                f"{key} {tuple(given[key].shape)} for {tuple(tensor.shape)}"
                for key, tensor in expected.items()
                if key in given and given[key].shape != tensor.shape
            ),
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def error(self, file: Path) -> CheckpointError:
        """The error that counts the differences and shows the first of each kind."""
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of the wrong shape": self.misshaped}
        parts = [f"{len(keys)} {kind} ({_shortened(keys)})" for kind, keys in kinds.items() if keys]
        return CheckpointError(
            f"{file} does not fit the model: {'; '.join(parts)}",
            expected="weights of this very architecture and input size",
            fix="name the timm model that the weights were trained as",
        )


def _shortened(keys: tuple[str, ...]) -> str:
    return ", ".join(keys[:SHOWN_KEYS]) + (", …" if len(keys) > SHOWN_KEYS else "")


def _check_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{key} in {file} has NaN or infinite values",
                expected="finite weights",
                fix="take a checkpoint from before the training diverged",
            )


def _described(module: nn.Module, sha256: str, *, name: str, source: str, labels: Path | None) -> TorchModel:
    config: dict[str, Any] = module.pretrained_cfg
    logits = int(getattr(module, "num_classes", 0))
    if logits < 1:
        raise CheckpointError(f"{name} has no classifier: it gives features", expected="a model with logits")
    card = ModelCard(
        name=name,
        source=source,
        architecture=str(config["architecture"]),
        labels=_labels(config, logits, name=name, file=labels),
        preprocessing=preprocessing_from(config),
        weights_sha256=sha256,
        pretrained=bool(sha256),
    )
    return TorchModel(card, module.eval())


def _labels(config: Mapping[str, Any], logits: int, *, name: str, file: Path | None) -> tuple[str, ...]:
    if file is not None:
        return check_label_count(read_labels(file), logits, where=str(file))
    configured = configured_labels(config)
    if configured is not None:
        return check_label_count(configured, logits, where=f"the configuration of {name}")
    return imagenet_labels() if logits == IMAGENET_CLASSES else numbered_labels(logits)


def _hash_of(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, tensor in tensors.items():
        digest.update(key.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy() if tensor.ndim else tensor.numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
