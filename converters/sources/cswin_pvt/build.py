"""Build the network of a variant of CSWin or PVT v1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitedge.converters.sources.cswin_pvt.variants import VARIANTS, CSWinVariant
from vitedge.errors import UsageError, did_you_mean
from vitedge.extras import require

if TYPE_CHECKING:
    from vitedge.converters.sources.cswin_pvt.layers import ImageClassifier


def build(name: str, num_classes: int = 1000, input_size: tuple[int, int] | None = None) -> ImageClassifier:
    """Build the network of a variant in evaluation mode, with random weights.

    Args:
        name: a key of ``VARIANTS``.
        num_classes: number of logits.
        input_size: (height, width) in pixels; None for the training size of the variant.

    Raises:
        UsageError: there is no such variant, or the family cannot take the input size.
        MissingExtraError: torch is not installed.
    """
    variant = VARIANTS.get(name)
    if variant is None:
        raise UsageError(
            f"there is no model {name}",
            expected=f"one of {', '.join(VARIANTS)}",
            fix=did_you_mean(name, VARIANTS),
        )
    require("torch", extra="convert", purpose=f"building {name}")
    from vitedge.converters.sources.cswin_pvt.cswin import CSWinTransformer
    from vitedge.converters.sources.cswin_pvt.pvt import PyramidVisionTransformer

    network: ImageClassifier = (
        CSWinTransformer(variant, num_classes, input_size)
        if isinstance(variant, CSWinVariant)
        else PyramidVisionTransformer(variant, num_classes, input_size)
    )
    network.eval()
    return network
