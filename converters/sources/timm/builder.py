"""Build a module with timm, and load weights into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from vitedge.converters.quiet import quiet
from vitedge.converters.sources.model_limits import check_model_size
from vitedge.converters.sources.weights.state_dict import IncompatibleKeys, check_finite, shortened
from vitedge.errors import CheckpointError, class_and_first_line

MISFIT = "name the timm model that the weights were trained as, and input_size= if they were trained at another size"


@dataclass(frozen=True)
class TimmBuilder:
    """Builds a module with timm.

    Attributes:
        name: name for ``timm.create_model``.
        where: what names the model, for errors.
        input_size: (height, width) in pixels; None for the size in the configuration.
        classes: number of logits; None for the number in the configuration.
        arguments: of the architecture, beyond the name's own.
    """

    name: str
    where: str
    input_size: tuple[int, int] | None
    classes: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self, **options: Any) -> nn.Module:
        """Build the module.

        Raises:
            CheckpointError: timm refuses the configuration, the input size, or the weights that ``options`` name.
        """
        with quiet(), self._translated():
            return self._create(**options)

    def check(self, tensors: Mapping[str, Tensor], size: tuple[int, int]) -> None:
        """Refuse a configuration of a model far larger than its weights; see ``check_model_size``.

        Raises:
            CheckpointError: the model is too large, or timm refuses the configuration.
        """
        with quiet(), self._translated():
            check_model_size(self._create, tensors, size)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # timm's constructors and key mappings raise anything
            raise CheckpointError(
                f"timm cannot build {self.name} from {self.where}{self._at()}: {class_and_first_line(error)}",
                expected="a checkpoint that timm saved, and an input size that its family takes",
            ) from error

    def _create(self, **options: Any) -> nn.Module:
        """Pass the size to families that have a fixed input size; other families take any size."""
        options = {**self.arguments, **options}
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


def load_weights(
    builder: TimmBuilder, tensors: Mapping[str, Tensor], file: Path, *, remap: Callable[[], nn.Module]
) -> nn.Module:
    """Load a state dict by its keys; if keys or shapes differ, through timm's own mapping (``remap``).

    A position table for a rectangular input may have as many entries as the checkpoint's table for a square input. For
    a rectangular input, timm's mapping therefore comes first, because it treats the checkpoint's tables as square.
    """
    check_finite(tensors, file)
    module = builder.build()
    mismatch = IncompatibleKeys.between(module.state_dict(), tensors)
    if mismatch or _oblong(builder.input_size):
        try:
            if mismatch.misshaped and builder.input_size is None:
                raise mismatch.error(str(file), fix=MISFIT)
            return remap()
        except CheckpointError as error:
            if mismatch:
                raise _misfit(builder, mismatch, tensors, file) from error.__cause__
    module.load_state_dict(dict(tensors))
    return module


def _oblong(size: tuple[int, int] | None) -> bool:
    return size is not None and size[0] != size[1]


def _misfit(
    builder: TimmBuilder, mismatch: IncompatibleKeys, tensors: Mapping[str, Tensor], file: Path
) -> CheckpointError:
    """Return the error: the weights belong to another model, or timm does not interpolate them to this size."""
    if builder.input_size is None or IncompatibleKeys.between(
        replace(builder, input_size=None).build().state_dict(), tensors
    ):
        return mismatch.error(str(file), fix=MISFIT)
    return CheckpointError(
        f"timm does not interpolate the weights of {builder.name} to images of "
        f"{builder.input_size[0]}x{builder.input_size[1]} pixels: "
        f"{shortened(mismatch.misshaped)}",
        expected="a family whose position tables timm interpolates, such as ViT, DeiT or Swin",
        fix="convert it without input_size=, or give weights that were trained at this size",
    )
