"""Families that timm does not have: CSWin Transformer and PVT v1, for the checkpoints that their authors published.

| variant | authors' name |
|---|---|
| ``cswin_tiny_224`` | ``CSWin_64_12211_tiny_224`` |
| ``cswin_small_224`` | ``CSWin_64_24322_small_224`` |
| ``cswin_base_224``, ``cswin_base_384`` | ``CSWin_96_24322_base_224``, ``CSWin_96_24322_base_384`` |
| ``pvt_tiny``, ``pvt_small``, ``pvt_medium``, ``pvt_large`` | the same |

"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitedge.converters.sources.cswin_pvt.variants import VARIANTS, CSWinVariant
from vitedge.errors import UsageError, did_you_mean
from vitedge.extras import require

if TYPE_CHECKING:
    from vitedge.converters.sources.cswin_pvt.layers import ImageClassifier

__all__ = ["VARIANTS", "build"]


def build(name: str, num_classes: int = 1000, input_size: tuple[int, int] | None = None) -> ImageClassifier:
    """A network of one variant in evaluation mode, with random weights.

    Args:
        name: a key of ``VARIANTS``.
        num_classes: number of logits.
        input_size: (height, width) in pixels; the size that the variant was trained for if omitted.

    Raises:
        UsageError: no such variant, or an input size that the family cannot take.
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
