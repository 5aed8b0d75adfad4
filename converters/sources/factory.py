"""Load ``package.module:factory``, the user's own callable that returns an ``nn.Module``."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitedge.bundle.model_card import ModelCard
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.sources.labels import choose_labels, configured_labels
from vitedge.converters.sources.parse import SCHEMES, Factory
from vitedge.converters.sources.preprocessing import read_preprocessing, require_preprocessing
from vitedge.converters.sources.timm.config import completed, preprocessing_from
from vitedge.converters.sources.torch_model import TorchModel, state_dict_sha256
from vitedge.converters.sources.weights.checkpoints import read_checkpoint
from vitedge.converters.sources.weights.state_dict import IncompatibleKeys, check_finite
from vitedge.errors import CheckpointError, UsageError, did_you_mean

EXPECTED = "a callable without required arguments that returns a torch.nn.Module"
CONTRACT = "a module that maps one image (1,3,H,W), normalized float32, to logits (1,classes)"


def load_factory(
    source: Factory,
    *,
    weights: Path | None,
    labels: Path | None,
    preprocessing: str | None,
    input_size: tuple[int, int] | None,
) -> TorchModel:
    """Import a factory and call it. Modules that are not installed are imported from the current folder.

    Args:
        source: name of the factory.
        weights: file with the state dict for its module; None for the module's own weights.
        labels: file of labels.
        preprocessing: see ``read_preprocessing``; None for the module's own timm configuration (``pretrained_cfg``).
        input_size: (height, width) in pixels; None for the size of the preprocessing.

    Raises:
        UsageError: the factory cannot be imported, raises, returns no classifier of one image, or nothing defines the
            preprocessing.
        CheckpointError: the weights or labels do not fit.
    """
    with _current_folder_last():
        module = _called(_imported(source), source).cpu().float().eval()
    sha256 = state_dict_sha256(module.state_dict()) if weights is None else _filled(module, weights)
    config = _timm_config(module)
    prepared = _preprocessing(config, preprocessing, input_size, source)
    logits = _count_logits(module, prepared.input_size, source)
    card = ModelCard(
        name=source.name,
        source=str(source),
        architecture=type(module).__name__,
        labels=choose_labels(
            logits,
            file=labels,
            configured=configured_labels(config),
            where=f"the configuration of {source}",
            imagenet=bool(config),
        ),
        preprocessing=prepared,
        weights_sha256=sha256,
        pretrained=True,
    )
    return TorchModel(card, module)


@contextlib.contextmanager
def _current_folder_last() -> Iterator[None]:
    """Search the current folder last, so that a ``numpy.py`` in it is not imported instead of numpy."""
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _imported(source: Factory) -> Callable[[], object]:
    found: Any = _module(source)
    for name in source.attribute.split("."):
        if not hasattr(found, name):
            raise UsageError(
                f"{source.module} has no {name!r}",
                expected=EXPECTED,
                fix=did_you_mean(name, [each for each in dir(found) if not each.startswith("_")]),
            )
        found = getattr(found, name)
    if isinstance(found, nn.Module) or not callable(found):
        raise UsageError(
            f"{source} is of type {type(found).__name__}",
            expected=EXPECTED,
            fix="name its class, or a function that returns it",
        )
    _check_arguments(found, source)
    return found  # type: ignore[no-any-return]


def _module(source: Factory) -> object:
    try:
        return importlib.import_module(source.module)
    except (Exception, SystemExit) as error:  # the user's own code runs here
        if isinstance(error, ModuleNotFoundError) and f"{source.module}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {error.name}, and no source scheme of that name",
                expected=f"package.module:factory, importable from {Path.cwd()}; or a scheme: {', '.join(SCHEMES)}",
                fix=did_you_mean(str(error.name), [*SCHEMES, *_modules_beside(str(error.name))]),
            ) from error
        raise UsageError(
            f"importing {source.module} raises {described(error)}", expected="a module that can be imported"
        ) from error


def _modules_beside(name: str) -> list[str]:
    """List the modules of the parent package, or of the current folder."""
    parent = name.rpartition(".")[0]
    places = list(sys.modules[parent].__path__) if parent in sys.modules else [str(Path.cwd())]
    return [f"{parent}.{each.name}".lstrip(".") for each in pkgutil.iter_modules(places)]


def _check_arguments(found: Callable[..., object], source: Factory) -> None:
    try:
        parameters = inspect.signature(found).parameters.values()
    except ValueError:  # a builtin without a signature
        return
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]
    if required:
        raise UsageError(
            f"{source} needs arguments: {', '.join(required)}",
            expected=EXPECTED,
            fix="write a function without arguments that calls it with them",
        )


def _called(factory: Callable[[], object], source: Factory) -> nn.Module:
    try:
        made = factory()
    except (Exception, SystemExit) as error:  # the user's own code runs here
        raise UsageError(f"{source} raises {described(error)}", expected=EXPECTED) from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{source} returns a {type(made).__name__}", expected=EXPECTED)
    return made


def described(error: BaseException) -> str:
    """Return the last line of a traceback, and the place that it names."""
    line = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError):
        return f"{line}, {error.filename}, line {error.lineno}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{line}, at {frame.filename}, line {frame.lineno}: {frame.line}"


def _filled(module: nn.Module, file: Path) -> str:
    """Load a state dict into the module, and return the hash of its file."""
    stored = read_checkpoint(file)
    check_finite(stored.state_dict, file)
    mismatch = IncompatibleKeys.between(module.state_dict(), stored.state_dict)
    if mismatch:
        raise mismatch.error(str(file), fix="give the state dict of the module that the factory returns")
    module.load_state_dict(dict(stored.state_dict))
    return stored.sha256


def _timm_config(module: nn.Module) -> Mapping[str, Any]:
    config = getattr(module, "pretrained_cfg", None)
    return config if isinstance(config, Mapping) else {}


def _preprocessing(
    config: Mapping[str, Any], given: str | None, size: tuple[int, int] | None, source: Factory
) -> Preprocessing:
    if given is not None:
        return read_preprocessing(given, size)
    if config:
        sized = config if size is None else {**config, "input_size": (3, *size)}
        where = f"pretrained_cfg of {source}"
        return preprocessing_from(completed(sized, architecture=config.get("architecture"), where=where))
    return require_preprocessing(None, size, name=str(source), holder="its module has no pretrained_cfg of timm")


def _count_logits(module: nn.Module, size: tuple[int, int], source: Factory) -> int:
    image = f"one image of {size[0]}x{size[1]} pixels"
    try:
        with torch.no_grad():
            logits = module(torch.zeros(1, 3, *size))
    except Exception as error:  # the user's own code runs here
        raise UsageError(
            f"the module of {source}, given {image}, raises {described(error)}",
            expected=CONTRACT,
            fix="wrap it in a module that takes an image alone; input_size= if it takes another size",
        ) from error
    if not isinstance(logits, Tensor):
        raise UsageError(
            f"the module of {source} gives a {type(logits).__name__}",
            expected=CONTRACT,
            fix="wrap it in a module that returns the logits alone",
        )
    if logits.ndim != 2 or logits.shape[0] != 1 or not logits.shape[1] or logits.dtype != torch.float32:
        raise CheckpointError(
            f"the module of {source}, given {image}, gives {logits.dtype} {tuple(logits.shape)}", expected=CONTRACT
        )
    return int(logits.shape[1])
