"""Layers that CSWin and PVT share.

They serve inference only, without dropout and stochastic depth, which have no weights.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from vitedge.converters.sources.cswin_pvt.variants import Variant
from vitedge.counts import counted
from vitedge.errors import UsageError


class ImageClassifier(nn.Module):
    """Base class of both families.

    Attributes:
        name: name of the variant.
        num_classes: number of logits.
        input_size: (height, width) in pixels; fixed when the network is built.
        preprocessing: turns images into inputs of ``input_size``.
        head: the linear classifier; each family defines it.
    """

    head: nn.Linear

    def __init__(self, variant: Variant, num_classes: int, input_size: tuple[int, int]) -> None:
        if num_classes < 1:
            raise UsageError(
                f"{variant.name} was asked for {counted(num_classes, 'class', 'classes')}", expected="at least 1"
            )
        super().__init__()
        self.name = variant.name
        self.num_classes = num_classes
        self.input_size = input_size
        self.preprocessing = variant.preprocessing(input_size)

    def check_images(self, images: Tensor) -> None:
        """Refuse images of another size than the network's.

        Args:
            images: (batch, 3, height, width).

        Raises:
            UsageError: the size differs.
        """
        height, width = self.input_size
        if tuple(images.shape[1:]) != (3, height, width):
            raise UsageError(
                f"{self.name} got images of shape {tuple(images.shape)}",
                expected=f"(batch, 3, {height}, {width})",
                fix="resize the images, or build the network with their input_size",
            )

    def fitted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return published weights for this network's input size."""
        return dict(state)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them: (…, dim) to (…, dim)."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim * ratio)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(dim * ratio, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map each token by itself."""
        return self.fc2(self.act(self.fc1(tokens)))


def initialize_linear(module: nn.Module) -> None:
    """Initialize a linear layer as the authors do, for ``nn.Module.apply``; leave other modules unchanged."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
