"""The published variants of CSWin and PVT v1, as plain data without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vitedge.bundle.preprocessing import Preprocessing, resize_size_for

PerStage = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Parameters of a variant of either family.

    Attributes:
        name: name of the published checkpoint file without its suffix.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        input_size: (height, width) of the training images in pixels.
        crop_pct: fraction of the resized image's side that the authors' evaluation keeps.
        published_at: address of the authors' checkpoints.
    """

    name: str
    depths: PerStage
    num_heads: PerStage
    input_size: tuple[int, int] = (224, 224)
    crop_pct: float
    published_at: str

    def preprocessing(self, input_size: tuple[int, int] | None = None) -> Preprocessing:
        """Return the authors' evaluation transform: bicubic resize, center crop, ImageNet's mean and std.

        Args:
            input_size: (height, width) in pixels; None for the training size.
        """
        size = input_size or self.input_size
        return Preprocessing(input_size=size, resize_size=resize_size_for(size, self.crop_pct))


@dataclass(frozen=True, kw_only=True)
class CSWinVariant(Variant):
    """A variant of the CSWin Transformer.

    Attributes:
        embed_dim: channels of the first stage; each later stage doubles them.
        stripe_widths: width of the stripes of the first three stages, in tokens; the last stage attends to all tokens.
    """

    embed_dim: int
    stripe_widths: tuple[int, int, int]
    crop_pct: float = 0.9
    published_at: str = "github.com/microsoft/CSWin-Transformer"


@dataclass(frozen=True, kw_only=True)
class PVTVariant(Variant):
    """A variant of the Pyramid Vision Transformer, version 1.

    Attributes:
        dims: channels of each stage.
        mlp_ratios: hidden units of each stage's MLP, in multiples of its channels.
        reductions: side of the patch of tokens that becomes one key and value, for each stage.
    """

    dims: PerStage = (64, 128, 320, 512)
    num_heads: PerStage = (1, 2, 5, 8)
    mlp_ratios: PerStage = (8, 8, 4, 4)
    reductions: PerStage = (8, 4, 2, 1)
    crop_pct: float = 0.875
    published_at: str = "github.com/whai362/PVT (classification)"


_TINY: PerStage = (1, 2, 21, 1)
_DEEP: PerStage = (2, 4, 32, 2)
_STRIPES_224 = (1, 2, 7)
_STRIPES_384 = (1, 2, 12)

_CSWIN = (
    CSWinVariant(
        name="cswin_tiny_224", embed_dim=64, depths=_TINY, num_heads=(2, 4, 8, 16), stripe_widths=_STRIPES_224
    ),
    CSWinVariant(
        name="cswin_small_224", embed_dim=64, depths=_DEEP, num_heads=(2, 4, 8, 16), stripe_widths=_STRIPES_224
    ),
    CSWinVariant(
        name="cswin_base_224", embed_dim=96, depths=_DEEP, num_heads=(4, 8, 16, 32), stripe_widths=_STRIPES_224
    ),
    CSWinVariant(
        name="cswin_base_384",
        embed_dim=96,
        depths=_DEEP,
        num_heads=(4, 8, 16, 32),
        stripe_widths=_STRIPES_384,
        input_size=(384, 384),
        crop_pct=1.0,
    ),
)

_PVT = (
    PVTVariant(name="pvt_tiny", depths=(2, 2, 2, 2)),
    PVTVariant(name="pvt_small", depths=(3, 4, 6, 3)),
    PVTVariant(name="pvt_medium", depths=(3, 4, 18, 3)),
    PVTVariant(name="pvt_large", depths=(3, 8, 27, 3)),
)

VARIANTS: Mapping[str, CSWinVariant | PVTVariant] = MappingProxyType(
    {variant.name: variant for variant in (*_CSWIN, *_PVT)}
)
