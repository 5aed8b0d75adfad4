"""Load timm models by name, from a folder in the hub's layout, or with the weights of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from vitedge.bundle.model_card import ModelCard
from vitedge.converters.sources.hub import download_snapshot, only_weights
from vitedge.converters.sources.labels import choose_labels, configured_labels, read_labels
from vitedge.converters.sources.model_limits import check_config_numbers
from vitedge.converters.sources.parse import HubFolder, HubRepo, TimmName
from vitedge.converters.sources.preprocessing import read_preprocessing
from vitedge.converters.sources.random_weights import randomize
from vitedge.converters.sources.timm.builder import TimmBuilder, load_weights
from vitedge.converters.sources.timm.config import (
    CONFIG,
    check_name,
    completed,
    input_size_from,
    preprocessing_from,
    pretrained_cfg_of,
    read_config,
)
from vitedge.converters.sources.torch_model import (
    RANDOM_SEED,
    TorchModel,
    check_input_size,
    state_dict_sha256,
)
from vitedge.converters.sources.transformers.processor_files import check_processor_agrees
from vitedge.converters.sources.weights.checkpoints import read_checkpoint, weight_files
from vitedge.converters.sources.weights.state_dict import check_classes
from vitedge.errors import CheckpointError, class_and_first_line, did_you_mean
from vitedge.progress import Progress, Silent
from vitedge.safety.files import is_file

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")


def load_timm(
    source: TimmName,
    *,
    weights: Path | None,
    labels: Path | None,
    random_weights: bool,
    preprocessing: str | None = None,
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> TorchModel:
    """Build a timm model by name, with weights from a file, from timm's download, or random weights.

    Args:
        source: the name.
        weights: file of weights; None to download them.
        labels: file of labels; without ``num_classes`` and weights, the number of labels is the number of classes.
        random_weights: use random weights.
        preprocessing: see ``read_preprocessing``; None for timm's own configuration.
        num_classes: number of logits; None for the number in the weights.
        input_size: (height, width) in pixels; None for timm's size. timm interpolates position embeddings and
            relative-position tables of another size.
        progress: told of a download.

    Raises:
        UsageError: timm has no such model, or its family cannot take this size.
        CheckpointError: the weights cannot be downloaded or do not fit, or labels do not match the logits.
    """
    check_name(source.name)
    classes = num_classes or (None if labels is None else len(read_labels(labels)))
    builder = TimmBuilder(source.name, where=f"timm:{source.name}", input_size=input_size)
    revision = ""
    if weights is not None:
        stored = read_checkpoint(weights)
        module, sha256 = _with_weights(builder, stored.state_dict, weights, num_classes, classes), stored.sha256
    elif random_weights:
        module, sha256 = _random(builder, classes), ""
    else:
        module, revision = _downloaded(source.name, classes, progress)
        sha256 = state_dict_sha256(module.state_dict())
        if input_size is not None:
            module = _with_weights(builder, module.state_dict(), Path(source.name), num_classes, classes)
    model = _described(
        module,
        sha256,
        name=source.name,
        source=builder.where,
        labels=labels,
        preprocessing=preprocessing,
        size=input_size,
    )
    if not model.card.pretrained:
        randomize(model.module, model.card.preprocessing)
    return replace(model, card=replace(model.card, revision=revision))


def load_timm_folder(
    source: HubFolder,
    *,
    labels: Path | None,
    preprocessing: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> TorchModel:
    """Build the model of a folder in timm's hub layout; options as for ``load_timm``.

    Raises:
        UsageError: the family cannot take this size.
        CheckpointError: configuration or weights are missing or do not fit, or labels do not match the logits.
    """
    config = _read_layout(source.path)
    file = _weight_file(source.path)
    stored = read_checkpoint(file)
    builder = TimmBuilder(f"local-dir:{source.path}", where=str(source.path / CONFIG), input_size=input_size)
    builder.check(stored.state_dict, input_size or _stated_size(config, preprocessing, source.path / CONFIG))
    # an empty source keeps timm from reading the file again
    overlay = {"source": "", "state_dict": dict(stored.state_dict), "custom_load": False}
    module = load_weights(
        builder, stored.state_dict, file, remap=lambda: builder.build(pretrained=True, pretrained_cfg_overlay=overlay)
    )
    return _described(
        module,
        stored.sha256,
        name=source.name,
        source=str(source.path),
        labels=labels,
        preprocessing=preprocessing,
        size=input_size,
    )


def _stated_size(config: Mapping[str, Any], preprocessing: str | None, where: Path) -> tuple[int, int]:
    """Return the input size of a hub configuration, which must state the preprocessing unless the user does."""
    described = pretrained_cfg_of(config)
    if preprocessing is not None:
        return input_size_from(described)
    stated = preprocessing_from(completed(described, architecture=config["architecture"], where=str(where)))
    check_processor_agrees(where.parent, stated)
    return stated.input_size


def _random(builder: TimmBuilder, classes: int | None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return replace(builder, classes=classes).build()


def _downloaded(name: str, classes: int | None, progress: Progress) -> tuple[nn.Module, str]:
    """Download weights; return the module and the commit on the hub, empty for weights that lie elsewhere."""
    config = get_pretrained_cfg(name)
    check_classes(config.num_classes, classes, where=f"what timm downloads for {name}")
    overlay, revision = None, ""
    try:
        if config.hf_hub_id:
            snapshot = download_snapshot(HubRepo(*config.hf_hub_id.split("@")), progress, choose=only_weights)
            file = snapshot.folder / weight_files({path.name for path in snapshot.folder.iterdir()})[0]
            overlay, revision = {"file": str(file), "custom_load": False}, snapshot.revision
        module: nn.Module = timm.create_model(name, pretrained=True, exportable=True, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError, CheckpointError) as error:
        problem = error.problem if isinstance(error, CheckpointError) else class_and_first_line(error)
        raise CheckpointError(
            f"the trained weights of {name} cannot be downloaded: {problem}",
            fix="without a network, convert a folder with config.json and model.safetensors, or give weights=FILE; "
            "random_weights=True is enough to measure latency",
        ) from error
    return module, revision


def _with_weights(
    builder: TimmBuilder, tensors: Mapping[str, Tensor], file: Path, num_classes: int | None, classes: int | None
) -> nn.Module:
    found = _classes_in(tensors, builder.name)
    if found is not None:
        check_classes(found, num_classes, where=str(file))
    sized = replace(builder, classes=found or classes or int(get_pretrained_cfg(builder.name).num_classes))
    overlay = {"state_dict": dict(tensors), "num_classes": sized.classes, "label_offset": 0, "custom_load": False}
    return load_weights(
        sized, tensors, file, remap=lambda: sized.build(pretrained=True, pretrained_cfg_overlay=overlay)
    )


def _classes_in(tensors: Mapping[str, Tensor], name: str) -> int | None:
    """Return the number of classes in a state dict; None if its classifier has another key than timm's."""
    config = get_pretrained_cfg(name)
    classifiers = config.classifier if isinstance(config.classifier, (list, tuple)) else [config.classifier]
    weights = (tensors.get(f"{each}.weight") for each in classifiers)
    found = [each.shape[0] for each in weights if each is not None and each.ndim]
    return int(found[0]) if found else None


def _read_layout(folder: Path) -> dict[str, Any]:
    config = read_config(folder / CONFIG)
    check_config_numbers(config, str(folder / CONFIG))
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise CheckpointError(
            f"{folder / CONFIG} has architecture {architecture!r:.80}",
            expected="a name of timm.list_models()",
            fix=did_you_mean(str(architecture), timm.list_models()),
        )
    return config


def _weight_file(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if is_file(folder / name):
            return folder / name
    raise CheckpointError(f"{folder} has no weights", expected=f"one of {', '.join(WEIGHT_FILES)}")


def _described(
    module: nn.Module,
    sha256: str,
    *,
    name: str,
    source: str,
    labels: Path | None,
    preprocessing: str | None,
    size: tuple[int, int] | None,
) -> TorchModel:
    config: dict[str, Any] = module.pretrained_cfg
    logits = int(getattr(module, "num_classes", 0))
    if logits < 1:
        raise CheckpointError(f"{name} has no classifier: it gives features", expected="a model with logits")
    sized = config if size is None else {**config, "input_size": (3, *size)}
    if size is not None:
        check_input_size(module.eval(), size, name=name)
    card = ModelCard(
        name=name,
        source=source,
        architecture=str(config["architecture"]),
        labels=choose_labels(
            logits,
            file=labels,
            configured=configured_labels(config),
            where=f"the configuration of {name}",
            imagenet=True,
        ),
        preprocessing=preprocessing_from(sized)
        if preprocessing is None
        else read_preprocessing(preprocessing, input_size_from(sized)),
        weights_sha256=sha256,
        pretrained=bool(sha256),
    )
    return TorchModel(card, module.eval(), gives_logits=True)
