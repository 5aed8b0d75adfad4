"""A PyTorch classifier with its model card, and helpers for every source that gives one."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitedge.bundle.model_card import Activation, ModelCard
from vitedge.converters.quiet import quiet
from vitedge.errors import UsageError, class_and_first_line

RANDOM_SEED = 0


@dataclass(frozen=True)
class TorchModel:
    """A PyTorch classifier.

    Attributes:
        card: identity, labels, preprocessing.
        module: maps ``(1, 3, H, W)`` float32, normalized, to ``(1, classes)`` float32; in evaluation mode, on the CPU.
        activation: makes scores of the outputs; None if the checkpoint does not say.
        gives_logits: whether a library of models defines the module, so that it has no activation of its own.
    """

    card: ModelCard
    module: nn.Module
    activation: Activation | None = None
    gives_logits: bool = False


def check_input_size(module: nn.Module, size: tuple[int, int], *, name: str) -> None:
    """Refuse an input size that a module cannot take, or of which it would ignore pixels.

    Args:
        module: classifier in evaluation mode.
        size: (height, width) in pixels.
        name: name of the module, for the error.

    Raises:
        UsageError: patches do not tile the image, so that pixels at its edge would be ignored, or the module raises.
    """
    asked = f"{name} cannot take {size[0]}x{size[1]} images"
    for embed in module.modules():
        patch = getattr(embed, "patch_size", None)
        if isinstance(patch, tuple) and hasattr(embed, "img_size") and any(map(operator.mod, size, patch)):
            raise UsageError(
                f"{asked}: its patches of {patch[0]}x{patch[1]} pixels do not tile them",
                expected=f"a height that {patch[0]} divides, and a width that {patch[1]} divides",
                fix=f"input_size=({_nearest(size[0], patch[0])}, {_nearest(size[1], patch[1])})",
            )
    try:
        with quiet(), torch.no_grad():
            module(torch.zeros(1, 3, *size))
    except Exception as error:  # the model's own code runs here
        raise UsageError(
            f"{asked}: {class_and_first_line(error)}",
            expected="a size that its family takes; some families take only the size of the training",
            fix="convert it without input_size=",
        ) from error


def _nearest(side: int, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple


def state_dict_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the hex SHA-256 of the names and values of all tensors, in order."""
    digest = hashlib.sha256()
    for key, tensor in tensors.items():
        digest.update(key.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy() if tensor.ndim else tensor.numpy().tobytes())
    return digest.hexdigest()
