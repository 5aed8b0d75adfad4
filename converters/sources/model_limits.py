"""Limits on the configuration of an untrusted checkpoint, checked before the model takes memory.

A short configuration can ask for ten million layers, or for a position table of 30 GB. First its numbers are checked.
Then the model is built on PyTorch's device ``meta``, where tensors have shapes but no data, and classifies one image
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitedge.errors import CheckpointError
from vitedge.safety.limits import MODEL_ACTIVATION, MODEL_MODULES, MODEL_NUMBER, MODEL_SHARING, MODEL_SPARE


class ModelLimitsError(Exception):
    """A configuration exceeds ``vitedge.safety.limits``."""


def check_config_numbers(config: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration with a number that is too large for any model.

    Args:
        config: parsed JSON.
        where: origin of the configuration, for the error.

    Raises:
        CheckpointError: a number exceeds ``MODEL_NUMBER``; the message names its key.
    """
    pending: list[tuple[str, Any]] = list(config.items())
    while pending:
        key, value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.items()
        elif isinstance(value, (list, tuple)):
            pending += [(key, each) for each in value]
        elif isinstance(value, (int, float)) and not abs(value) <= MODEL_NUMBER:
            raise CheckpointError(
                f"{key} of {where} is {_shown(value)}", expected=f"numbers of at most {MODEL_NUMBER} in a configuration"
            )


def _shown(value: float) -> str:
    return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else repr(value)


def check_model_size(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], size: tuple[int, int]) -> None:
    """Refuse a model that is far larger than its weights, or takes too much memory for an image.

    Args:
        build: builds the model.
        tensors: the weights.
        size: (height, width) of the input in pixels.

    Raises:
        ModelLimitsError: the model exceeds a limit; the message says which.
        Exception: any error that ``build`` raises.
    """
    held = sum(tensor.numel() for tensor in tensors.values())
    with torch.device("meta"), _counted(MODEL_SHARING * held + MODEL_SPARE):
        module = build().eval()
        _classify(module, size, max(MODEL_ACTIVATION, held))


def _classify(module: nn.Module, size: tuple[int, int], most: int) -> None:
    """Run the module; ignore its errors, because it raises them again later, with its weights."""
    looking = _Activations(most)
    with suppress(Exception), torch.no_grad(), looking:
        module(torch.zeros(1, 3, *size))
    if looking.largest > most:
        raise ModelLimitsError(f"one of its tensors has {looking.largest} numbers for one image")


@contextmanager
def _counted(most: int) -> Iterator[None]:
    """Count created modules, and the elements of their parameters and buffers.

    Raises:
        ModelLimitsError: there are more than ``MODEL_MODULES`` modules, or more than ``most`` elements.
    """
    modules, numbers = 0, 0

    def count_module(*_: object) -> None:
        nonlocal modules
        modules += 1
        if modules > MODEL_MODULES:
            raise ModelLimitsError(f"it has more than {MODEL_MODULES} modules")

    def count_tensor(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        nonlocal numbers
        numbers += 0 if tensor is None else tensor.numel()
        if numbers > most:
            raise ModelLimitsError(f"it needs more than {most} numbers, far more than its weights hold")

    hooks = [
        registration.register_module_module_registration_hook(count_module),
        registration.register_module_parameter_registration_hook(count_tensor),
        registration.register_module_buffer_registration_hook(count_tensor),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Activations(TorchDispatchMode):  # type: ignore[misc]
    """Checks the size of every tensor that an operator returns, and raises if it is too large."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.largest, self._most = 0, most

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        returned = func(*args, **(kwargs or {}))
        sizes = (each.numel() for each in tree_leaves(returned) if isinstance(each, Tensor))
        self.largest = max(self.largest, *sizes, 0)
        if self.largest > self._most:
            raise ModelLimitsError
        return returned
