"""timm names, hub folders and bare checkpoints to a module with its card."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from vitedge.bundle.model_card import ModelCard
from vitedge.converters.quiet import quiet
from vitedge.converters.sources.hub import fetch, only_weights
from vitedge.converters.sources.labels import choose_labels, configured_labels, read_labels
from vitedge.converters.sources.model_bounds import check_model, check_numbers
from vitedge.converters.sources.parse import HubFolder, HubRepo, TimmName
from vitedge.converters.sources.preprocessing import given_preprocessing
from vitedge.converters.sources.random_weights import randomize
from vitedge.converters.sources.timm.config import (
    CONFIG,
    check_name,
    preprocessing_from,
    pretrained_cfg_of,
    read_config,
)
from vitedge.converters.sources.weights.checkpoints import read_weights, weight_files
from vitedge.converters.sources.weights.fitting import Mismatch, check_classes, check_finite, shortened
from vitedge.errors import CheckpointError, UsageError, did_you_mean
from vitedge.progress import Progress, Silent
from vitedge.safety.files import is_file

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
RANDOM_SEED = 0
MISFIT = "name the timm model that the weights were trained as, and --input-size if they were trained at another size"


@dataclass(frozen=True)
class TorchModel:
    """A PyTorch classifier.

    Attributes:
        card: identity, labels, preprocessing.
        module: maps ``(1, 3, H, W)`` float32, normalized, to ``(1, classes)`` float32; in evaluation mode, on the CPU.
    """

    card: ModelCard
    module: nn.Module


def load_named(
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
    """Build a timm model by name, with the weights of a file, of timm's own download, or random ones.

    Args:
        source: the name.
        weights: file to read them from.
        labels: file of labels; where neither ``num_classes`` nor weights do, their number is that of the classes.
        random_weights: make them up.
        preprocessing: see ``given_preprocessing``; None for what timm says of the name.
        num_classes: number of logits; None for that of the weights.
        input_size: (height, width) in pixels; None for timm's. What the weights hold for another size, position
            embeddings and relative-position tables, is interpolated by timm.
        progress: is told of a download.

    Raises:
        UsageError: timm has no such model, or its family cannot take that size.
        CheckpointError: the weights cannot be had or do not fit, or labels do not match the logits.
    """
    check_name(source.name)
    classes = num_classes or (None if labels is None else len(read_labels(labels)))
    plan = _Plan(source.name, where=f"timm:{source.name}", input_size=input_size)
    revision = ""
    if weights is not None:
        stored = read_weights(weights)
        module, sha256 = _with_weights(plan, stored.tensors, weights, num_classes, classes), stored.sha256
    elif random_weights:
        module, sha256 = _random(plan, classes), ""
    else:
        module, revision = _downloaded(source.name, classes, progress)
        sha256 = hash_of(module.state_dict())
        if input_size is not None:
            module = _with_weights(plan, module.state_dict(), Path(source.name), num_classes, classes)
    model = _described(
        module, sha256, name=source.name, source=plan.where, labels=labels, preprocessing=preprocessing, size=input_size
    )
    if not model.card.pretrained:
        randomize(model.module, model.card.preprocessing)
    return replace(model, card=replace(model.card, revision=revision))


def load_folder(
    source: HubFolder,
    *,
    labels: Path | None,
    preprocessing: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> TorchModel:
    """Build the model of a folder in timm's hub layout; options as for ``load_named``.

    Raises:
        UsageError: the family cannot take that size.
        CheckpointError: configuration or weights are missing or do not fit, or labels do not match the logits.
    """
    config = _read_layout(source.path)
    file = _weight_file(source.path)
    stored = read_weights(file)
    plan = _Plan(f"local-dir:{source.path}", where=str(source.path / CONFIG), input_size=input_size)
    plan.check(stored.tensors, input_size or preprocessing_from(pretrained_cfg_of(config)).input_size)
    overlay = {"source": "", "state_dict": dict(stored.tensors), "custom_load": False}  # timm would read the file again
    module = _fit(plan, stored.tensors, file, remap=lambda: plan.build(pretrained=True, pretrained_cfg_overlay=overlay))
    return _described(
        module,
        stored.sha256,
        name=source.name,
        source=str(source.path),
        labels=labels,
        preprocessing=preprocessing,
        size=input_size,
    )


@dataclass(frozen=True)
class _Plan:
    """How timm is asked for a module.

    Attributes:
        name: timm's.
        where: what names it, for errors.
        input_size: (height, width) in pixels; None for the size of the configuration.
        classes: number of logits; None for that of the configuration.
    """

    name: str
    where: str
    input_size: tuple[int, int] | None
    classes: int | None = None

    def build(self, **options: Any) -> nn.Module:
        """Make the module.

        Raises:
            CheckpointError: timm refuses its configuration, its input size, or the weights that ``options`` name.
        """
        with quiet(), self._translated():
            return self._create(**options)

    def check(self, tensors: Mapping[str, Tensor], size: tuple[int, int]) -> None:
        """Refuse a configuration that asks for far more than its weights hold; see ``check_model``.

        Raises:
            CheckpointError: it does, or timm refuses it.
        """
        with quiet(), self._translated():
            check_model(self._create, tensors, size)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # timm's constructors and key mappings raise whatever a wrong value leads to
            raise CheckpointError(
                f"timm cannot build {self.name} from {self.where}{self._at()}: {_first_line(error)}",
                expected="a checkpoint that timm saved, and an input size that its family takes",
            ) from error

    def _create(self, **options: Any) -> nn.Module:
        """Name the size to the families that are built for one; the others take any."""
        try:
            module: nn.Module = timm.create_model(
                self.name, exportable=True, num_classes=self.classes, img_size=self.input_size, **options
            )
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            module = timm.create_model(self.name, exportable=True, num_classes=self.classes, **options)
        return module

    def _at(self) -> str:
        return "" if self.input_size is None else f" for {self.input_size[0]}x{self.input_size[1]} images"


def _random(plan: _Plan, classes: int | None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return replace(plan, classes=classes).build()


def _downloaded(name: str, classes: int | None, progress: Progress) -> tuple[nn.Module, str]:
    """The module with the weights that timm names, and their commit on the hub; of the few elsewhere, no commit."""
    config = get_pretrained_cfg(name)
    check_classes(config.num_classes, classes, where=f"what timm downloads for {name}")
    overlay, revision = None, ""
    try:
        if config.hf_hub_id:
            snapshot = fetch(HubRepo(*config.hf_hub_id.split("@")), progress, choose=only_weights)
            file = snapshot.folder / weight_files({path.name for path in snapshot.folder.iterdir()})[0]
            overlay, revision = {"file": str(file), "custom_load": False}, snapshot.revision
        module: nn.Module = timm.create_model(name, pretrained=True, exportable=True, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError, CheckpointError) as error:
        problem = error.problem if isinstance(error, CheckpointError) else _first_line(error)
        raise CheckpointError(
            f"the trained weights of {name} cannot be downloaded: {problem}",
            fix="without a network, convert a folder with config.json and model.safetensors, or give --weights FILE; "
            "--random-weights is enough to measure latency",
        ) from error
    return module, revision


def _with_weights(
    plan: _Plan, tensors: Mapping[str, Tensor], file: Path, num_classes: int | None, classes: int | None
) -> nn.Module:
    found = _classes_in(tensors, plan.name)
    if found is not None:
        check_classes(found, num_classes, where=str(file))
    sized = replace(plan, classes=found or classes or int(get_pretrained_cfg(plan.name).num_classes))
    overlay = {"state_dict": dict(tensors), "num_classes": sized.classes, "label_offset": 0, "custom_load": False}
    return _fit(sized, tensors, file, remap=lambda: sized.build(pretrained=True, pretrained_cfg_overlay=overlay))


def _classes_in(tensors: Mapping[str, Tensor], name: str) -> int | None:
    """Rows of the checkpoint's classifier; None where the checkpoint names it otherwise than timm."""
    config = get_pretrained_cfg(name)
    classifiers = config.classifier if isinstance(config.classifier, (list, tuple)) else [config.classifier]
    weights = (tensors.get(f"{each}.weight") for each in classifiers)
    found = [each.shape[0] for each in weights if each is not None and each.ndim]
    return int(found[0]) if found else None


def _read_layout(folder: Path) -> dict[str, Any]:
    config = read_config(folder / CONFIG)
    check_numbers(config, str(folder / CONFIG))
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


def _fit(plan: _Plan, tensors: Mapping[str, Tensor], file: Path, *, remap: Callable[[], nn.Module]) -> nn.Module:
    """Load tensors by their names; where names or sizes are others, through timm's own mapping.

    A map of positions that is not square may have as many positions as the square one that weights are for. So
    timm's mapping, which takes the tables of a checkpoint for square ones, comes first for an input that is not square.
    """
    check_finite(tensors, file)
    module = plan.build()
    mismatch = Mismatch.between(module.state_dict(), tensors)
    if mismatch or _oblong(plan.input_size):
        try:
            if mismatch.misshaped and plan.input_size is None:
                raise mismatch.error(str(file), fix=MISFIT)
            return remap()
        except CheckpointError as error:
            if mismatch:
                raise _misfit(plan, mismatch, tensors, file) from error.__cause__
    module.load_state_dict(dict(tensors))
    return module


def _oblong(size: tuple[int, int] | None) -> bool:
    return size is not None and size[0] != size[1]


def _misfit(plan: _Plan, mismatch: Mismatch, tensors: Mapping[str, Tensor], file: Path) -> CheckpointError:
    """Tell weights of another model from weights that fit it at the size that it was trained at."""
    if plan.input_size is None or Mismatch.between(replace(plan, input_size=None).build().state_dict(), tensors):
        return mismatch.error(str(file), fix=MISFIT)
    return CheckpointError(
        f"timm does not interpolate the weights of {plan.name} to {plan.input_size[0]}x{plan.input_size[1]} images: "
        f"{shortened(mismatch.misshaped)}",
        expected="a family whose position tables timm interpolates, such as ViT, DeiT or Swin",
        fix="convert it without --input-size, or give weights that were trained at this size",
    )


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
    described = preprocessing_from(config if size is None else {**config, "input_size": (3, *size)})
    if size is not None:
        check_size(module.eval(), size, name=name)
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
        preprocessing=described if preprocessing is None else given_preprocessing(preprocessing, described.input_size),
        weights_sha256=sha256,
        pretrained=bool(sha256),
    )
    return TorchModel(card, module.eval())


def check_size(module: nn.Module, size: tuple[int, int], *, name: str) -> None:
    """Refuse an input size that a module cannot take, or takes only in part.

    Args:
        module: classifier in evaluation mode.
        size: (height, width) in pixels.
        name: of the module, for the error.

    Raises:
        UsageError: patches do not tile the image, so that pixels at its edge would go unseen, or the module raises.
    """
    asked = f"{name} cannot take {size[0]}x{size[1]} images"
    for embed in module.modules():
        patch = getattr(embed, "patch_size", None)
        if isinstance(patch, tuple) and hasattr(embed, "img_size") and any(map(operator.mod, size, patch)):
            raise UsageError(
                f"{asked}: its patches of {patch[0]}x{patch[1]} pixels do not tile them",
                expected=f"a height that {patch[0]} divides, and a width that {patch[1]} divides",
                fix=f"--input-size {_nearest(size[0], patch[0])}x{_nearest(size[1], patch[1])}",
            )
    try:
        with quiet(), torch.no_grad():
            module(torch.zeros(1, 3, *size))
    except Exception as error:  # a model's own code runs here
        raise UsageError(
            f"{asked}: {_first_line(error)}",
            expected="a size that its family takes; some take only the one that they were trained at",
            fix="convert it without --input-size",
        ) from error


def _nearest(side: int, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and values of all tensors, in order."""
    digest = hashlib.sha256()
    for key, tensor in tensors.items():
        digest.update(key.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy() if tensor.ndim else tensor.numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
