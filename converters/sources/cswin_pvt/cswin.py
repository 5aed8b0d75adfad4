"""CSWin Transformer (Dong et al., CVPR 2022, arXiv:2107.00652), with the parameter names of its published checkpoints.

A block splits its attention heads in two groups. One group attends inside vertical stripes of the feature map, the
other inside horizontal ones, so that together a token sees a cross. Position comes from LePE, a depthwise convolution
of the values which, like the attention, does not look across the edge of a stripe.

Feature maps are kept as (batch, height, width, channels).
"""

from __future__ import annotations

import math

from torch import Tensor, cat, nn

from vitedge.converters.sources.cswin_pvt.layers import ImageClassifier, Mlp, initialize_linear
from vitedge.converters.sources.cswin_pvt.variants import CSWinVariant
from vitedge.errors import UsageError

Size = tuple[int, int]

_STRIDES = (4, 8, 16, 32)
_MLP_RATIO = 4


def side_multiple(variant: CSWinVariant) -> int:
    """Return the number of pixels that must divide both sides of the input.

    The stem and the three mergers halve the map five times, and the stripes of a stage must tile its map.
    """
    stripes = (stride * width for stride, width in zip(_STRIDES[:-1], variant.stripe_widths, strict=True))
    return math.lcm(_STRIDES[-1], *stripes)


def split_into_stripes(features: Tensor, stripe: Size) -> Tensor:
    """Split (batch, height, width, channels) into (batch × stripes, stripe height, stripe width, channels)."""
    batch, height, width, channels = features.shape
    rows, columns = stripe
    tiles = features.reshape(batch, height // rows, rows, width // columns, columns, channels)
    return tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, rows, columns, channels)


def join_stripes(stripes: Tensor, size: Size) -> Tensor:
    """Invert ``split_into_stripes`` for a map of ``size`` (height, width)."""
    _, rows, columns, channels = stripes.shape
    height, width = size
    tiles = stripes.reshape(-1, height // rows, width // columns, rows, columns, channels)
    return tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


class StripeAttention(nn.Module):
    """Self-attention inside stripes of one shape, plus LePE.

    Args:
        dim: channels of the queries, and of the keys and of the values.
        num_heads: attention heads among ``dim``.
        stripe: (height, width) of a stripe in tokens.
    """

    def __init__(self, dim: int, num_heads: int, stripe: Size) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.stripe = stripe
        self.scale = (dim // num_heads) ** -0.5
        self.get_v = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend; arguments and result are (batch, height, width, dim)."""
        size = (value.shape[1], value.shape[2])
        values = split_into_stripes(value, self.stripe)
        weights = (self._heads(query) * self.scale) @ self._heads(key).transpose(-2, -1)
        attended = weights.softmax(dim=-1) @ self._heads(value)
        merged = attended.transpose(1, 2).reshape(values.shape)
        return join_stripes(merged + self._lepe(values), size)

    def _heads(self, features: Tensor) -> Tensor:
        """Reshape (batch, height, width, dim) to (batch × stripes, heads, tokens of a stripe, dim of a head)."""
        stripes = split_into_stripes(features, self.stripe)
        tokens = stripes.shape[1] * stripes.shape[2]
        return stripes.reshape(-1, tokens, self.num_heads, stripes.shape[3] // self.num_heads).transpose(1, 2)

    def _lepe(self, values: Tensor) -> Tensor:
        """Convolve the values of each stripe separately: (batch × stripes, height, width, dim) to the same."""
        return self.get_v(values.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class CSWinBlock(nn.Module):
    """Attention in stripes and an MLP, each behind a LayerNorm and added to its input.

    Args:
        dim: channels.
        num_heads: attention heads, divided evenly among ``stripes``.
        stripes: (height, width) of a stripe for each group of heads, in tokens.
    """

    def __init__(self, dim: int, num_heads: int, stripes: tuple[Size, ...]) -> None:
        super().__init__()
        groups = len(stripes)
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, dim * 3)
        self.attns = nn.ModuleList(StripeAttention(dim // groups, num_heads // groups, stripe) for stripe in stripes)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, _MLP_RATIO)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, height, width, dim) to the same shape."""
        features = features + self.proj(self._attend(self.norm1(features)))
        return features + self.mlp(self.norm2(features))

    def _attend(self, features: Tensor) -> Tensor:
        groups = len(self.attns)
        query, key, value = (part.chunk(groups, dim=-1) for part in self.qkv(features).chunk(3, dim=-1))
        attended = [attention(query[i], key[i], value[i]) for i, attention in enumerate(self.attns)]
        return cat(attended, dim=-1)


class ChannelsLast(nn.Module):
    """Permutes (batch, channels, height, width) to (batch, height, width, channels)."""

    def forward(self, features: Tensor) -> Tensor:
        """Move the channels to the end."""
        return features.permute(0, 2, 3, 1)


class MergeBlock(nn.Module):
    """Halve the map and double the channels: (batch, height, width, dim) to (batch, height / 2, width / 2, 2 · dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim * 2, kernel_size=3, stride=2, padding=1)
        self.norm = nn.LayerNorm(dim * 2)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve with stride 2, then normalize."""
        return self.norm(self.conv(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class CSWinTransformer(ImageClassifier):
    """The classifier: (batch, 3, height, width) float32 images, normalized, to (batch, num_classes) logits.

    Published weights fit every input size that the stripes can tile, because no weight depends on the size.

    Args:
        variant: sizes of the network.
        num_classes: number of logits.
        input_size: (height, width) in pixels, of which ``side_multiple(variant)`` divides both; the trained size if
            omitted.

    Raises:
        UsageError: the stripes cannot tile the feature maps of this input size.
    """

    def __init__(self, variant: CSWinVariant, num_classes: int = 1000, input_size: Size | None = None) -> None:
        size = input_size or variant.input_size
        _check_size(variant, size)
        super().__init__(variant, num_classes, size)
        dim = variant.embed_dim
        self.stage1_conv_embed = nn.Sequential(
            nn.Conv2d(3, dim, kernel_size=7, stride=4, padding=2), ChannelsLast(), nn.LayerNorm(dim)
        )
        self.stage1 = _stage(variant, 0, size)
        self.merge1 = MergeBlock(dim)
        self.stage2 = _stage(variant, 1, size)
        self.merge2 = MergeBlock(dim * 2)
        self.stage3 = _stage(variant, 2, size)
        self.merge3 = MergeBlock(dim * 4)
        self.stage4 = _stage(variant, 3, size)
        self.norm = nn.LayerNorm(dim * 8)
        self.head = nn.Linear(dim * 8, num_classes)
        self.apply(initialize_linear)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        self.check_images(images)
        features = _run(self.stage1, self.stage1_conv_embed(images))
        features = _run(self.stage2, self.merge1(features))
        features = _run(self.stage3, self.merge2(features))
        features = _run(self.stage4, self.merge3(features))
        return self.head(self.norm(features).mean(dim=(1, 2)))


def _check_size(variant: CSWinVariant, size: Size) -> None:
    multiple = side_multiple(variant)
    if min(size) < 1 or any(side % multiple for side in size):
        raise UsageError(
            f"{variant.name} cannot take images of {size[0]}x{size[1]} pixels: its stripes of "
            f"{', '.join(map(str, variant.stripe_widths))} tokens do not tile its feature maps",
            expected=f"height and width that are multiples of {multiple}",
            fix=f"use {_nearest(size[0], multiple)}x{_nearest(size[1], multiple)}",
        )


def _nearest(side: int, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple


def _stage(variant: CSWinVariant, index: int, input_size: Size) -> nn.ModuleList:
    dim = variant.embed_dim * 2**index
    stripes = _stripes(variant, index, (input_size[0] // _STRIDES[index], input_size[1] // _STRIDES[index]))
    return nn.ModuleList(CSWinBlock(dim, variant.num_heads[index], stripes) for _ in range(variant.depths[index]))


def _stripes(variant: CSWinVariant, index: int, size: Size) -> tuple[Size, ...]:
    """Return vertical, then horizontal stripes, in the checkpoints' order; one for the whole map in the last stage."""
    if index == len(variant.stripe_widths):
        return (size,)
    stripe_width = variant.stripe_widths[index]
    return ((size[0], stripe_width), (stripe_width, size[1]))


def _run(blocks: nn.ModuleList, features: Tensor) -> Tensor:
    for block in blocks:
        features = block(features)
    return features
