"""Compare the state dict of a checkpoint with a module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitedge.counts import counted
from vitedge.errors import CheckpointError

SHOWN_KEYS = 3
SHOWN_CHARACTERS = 200
PARAMETERS = ("weight", "bias")


@dataclass(frozen=True)
class IncompatibleKeys:
    """Differences between a state dict and a module.

    Attributes:
        missing: keys that only the module has.
        unexpected: keys that only the state dict has.
        misshaped: key and both shapes of each tensor whose shape differs.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]

    @classmethod
    def between(cls, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> IncompatibleKeys:
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

    def error(self, where: str, *, fix: str) -> CheckpointError:
        """Return an error that counts the differences and shows the first of each kind.

        Args:
            where: name of the checkpoint.
            fix: what to do.
        """
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of the wrong shape": self.misshaped}
        parts = [f"{len(keys)} {kind} ({shortened(keys)})" for kind, keys in kinds.items() if keys]
        return CheckpointError(
            f"{where} does not fit the model: {'; '.join(parts)}",
            expected="weights of this architecture and input size",
            fix=fix,
        )


def shortened(keys: tuple[str, ...]) -> str:
    """Join the first keys; cut off long ones, and mark omitted keys by an ellipsis."""
    shown = (key if len(key) <= SHOWN_CHARACTERS else f"{key[:SHOWN_CHARACTERS]}…" for key in keys[:SHOWN_KEYS])
    return ", ".join(shown) + (", …" if len(keys) > SHOWN_KEYS else "")


def check_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuse weights that are not finite or not floating-point.

    Raises:
        CheckpointError: a tensor has NaN or infinite values, or a weight or bias has an integer type.
    """
    for key, tensor in tensors.items():
        if key.endswith(PARAMETERS) and not tensor.is_floating_point():
            raise CheckpointError(
                f"{shortened((key,))} in {file} is of {tensor.dtype}",
                expected="weights in floating point, before any quantization",
                fix="give the checkpoint that was trained",
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{shortened((key,))} in {file} has NaN or infinite values",
                expected="finite weights",
                fix="take a checkpoint from before the training diverged",
            )


def check_classes(classes: int, asked: int | None, *, where: str) -> None:
    """Refuse a requested number of classes that differs from the weights.

    Args:
        classes: number of classes of the weights.
        asked: requested number of classes; None for any.
        where: origin of the weights, for the error.

    Raises:
        CheckpointError: the numbers differ.
    """
    if asked is not None and asked != classes:
        raise CheckpointError(
            f"{where} has a classifier of {counted(classes, 'class', 'classes')}, not of {asked}",
            expected="the weights of a model that was fine-tuned for this number of classes",
            fix="give such weights: weights=FILE; random_weights=True is enough to measure latency",
        )
