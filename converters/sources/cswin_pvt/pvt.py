"""Pyramid Vision Transformer v1 (Wang et al., ICCV 2021, arXiv:2102.12122), with its published parameter names.

Four stages of plain Transformer blocks work on ever smaller feature maps. Attention on large maps is affordable,
because a strided convolution reduces each patch of tokens to one token for keys and values.

Feature maps are kept as tokens, (batch, height × width, channels), row by row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate

from torch import Tensor, cat, empty, nn

from vitedge.converters.sources.cswin_pvt.layers import ImageClassifier, Mlp, initialize_linear
from vitedge.converters.sources.cswin_pvt.variants import PVTVariant
from vitedge.errors import CheckpointError, UsageError

Size = tuple[int, int]

_PATCHES = (4, 2, 2, 2)
# Published weights were trained with these two; the second is torch's own default.
_BLOCK_EPS = 1e-6
_EMBED_EPS = 1e-5


def to_map(tokens: Tensor, grid: Size) -> Tensor:
    """Reshape (batch, height × width, channels) to (batch, channels, height, width)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


def to_tokens(features: Tensor) -> Tensor:
    """Reshape (batch, channels, height, width) to (batch, height × width, channels)."""
    return features.flatten(2).transpose(1, 2)


class PatchEmbed(nn.Module):
    """Turns patches of a map into tokens: (batch, channels, height, width) to (batch, patches, dim).

    Args:
        channels: channels of the map.
        dim: channels of a token.
        patch: side of a patch in pixels of the map; what is left at the right and bottom edges is dropped.
    """

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(dim, eps=_EMBED_EPS)

    def forward(self, features: Tensor) -> Tensor:
        """Project each patch, then normalize."""
        return self.norm(to_tokens(self.proj(features)))


class Attention(nn.Module):
    """Self-attention whose keys and values come from a reduced map: (batch, tokens, dim) to the same.

    Args:
        dim: channels.
        num_heads: attention heads among ``dim``.
        reduction: side of the patch of tokens that becomes one key and value; 1 for none.
        grid: (height, width) of the map in tokens.
    """

    def __init__(self, dim: int, num_heads: int, reduction: int, grid: Size) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.grid = grid
        self.scale = (dim // num_heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, dim * 2)
        self.proj = nn.Linear(dim, dim)
        self.reduces = reduction > 1
        if self.reduces:
            self.sr = nn.Conv2d(dim, dim, kernel_size=reduction, stride=reduction)
            self.norm = nn.LayerNorm(dim, eps=_EMBED_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend from every token to the reduced tokens."""
        key, value = self.kv(self._reduced(tokens)).chunk(2, dim=-1)
        weights = (self._heads(self.q(tokens)) @ self._heads(key).transpose(-2, -1)) * self.scale
        attended = weights.softmax(dim=-1) @ self._heads(value)
        return self.proj(attended.transpose(1, 2).reshape(tokens.shape))

    def _reduced(self, tokens: Tensor) -> Tensor:
        """Reduce (batch, tokens, dim) to (batch, reduced tokens, dim)."""
        return self.norm(to_tokens(self.sr(to_map(tokens, self.grid)))) if self.reduces else tokens

    def _heads(self, tokens: Tensor) -> Tensor:
        """Reshape (batch, tokens, dim) to (batch, heads, tokens, dim of a head)."""
        batch, count, dim = tokens.shape
        return tokens.reshape(batch, count, self.num_heads, dim // self.num_heads).transpose(1, 2)


class Block(nn.Module):
    """Attention and an MLP, each behind a LayerNorm and added to its input: (batch, tokens, dim) to the same."""

    def __init__(self, variant: PVTVariant, index: int, grid: Size) -> None:
        super().__init__()
        dim = variant.dims[index]
        self.norm1 = nn.LayerNorm(dim, eps=_BLOCK_EPS)
        self.attn = Attention(dim, variant.num_heads[index], variant.reductions[index], grid)
        self.norm2 = nn.LayerNorm(dim, eps=_BLOCK_EPS)
        self.mlp = Mlp(dim, variant.mlp_ratios[index])

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (batch, tokens, dim) to the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PyramidVisionTransformer(ImageClassifier):
    """The classifier: (batch, 3, height, width) float32 images, normalized, to (batch, num_classes) logits.

    The position embeddings belong to one input size. ``fitted`` interpolates published ones to this network's size,
    as the authors' code does on every forward pass.

    Args:
        variant: sizes of the network.
        num_classes: number of logits.
        input_size: (height, width) in pixels; the trained size if omitted. As in the authors' code, pixels beyond the
            last whole patch are dropped.

    Raises:
        UsageError: the input is smaller than one patch of the last stage.
    """

    def __init__(self, variant: PVTVariant, num_classes: int = 1000, input_size: Size | None = None) -> None:
        size = input_size or variant.input_size
        _check_size(variant, size)
        super().__init__(variant, num_classes, size)
        self.grids = tuple((size[0] // stride, size[1] // stride) for stride in _strides())
        for index in range(len(_PATCHES)):
            self._add_stage(variant, index)
        self.cls_token = nn.Parameter(empty(1, 1, variant.dims[-1]))
        self.norm = nn.LayerNorm(variant.dims[-1], eps=_BLOCK_EPS)
        self.head = nn.Linear(variant.dims[-1], num_classes)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(initialize_linear)

    def _add_stage(self, variant: PVTVariant, index: int) -> None:
        grid, dim, number = self.grids[index], variant.dims[index], index + 1
        channels = variant.dims[index - 1] if index else 3
        cls_tokens = int(number == len(_PATCHES))
        positions = nn.Parameter(empty(1, math.prod(grid) + cls_tokens, dim))
        nn.init.trunc_normal_(positions, std=0.02)
        setattr(self, f"patch_embed{number}", PatchEmbed(channels, dim, _PATCHES[index]))
        setattr(self, f"pos_embed{number}", positions)
        setattr(
            self, f"block{number}", nn.ModuleList(Block(variant, index, grid) for _ in range(variant.depths[index]))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        self.check_images(images)
        features = images
        for number, grid in enumerate(self.grids[:-1], start=1):
            features = to_map(self._blocks(number, self._embed(number, features)), grid)
        tokens = self._embed(len(self.grids), features)
        cls_token = self.cls_token.expand(tokens.shape[0], -1, -1)
        tokens = self._blocks(len(self.grids), cat((cls_token, tokens), dim=1))
        return self.head(self.norm(tokens[:, 0]))

    def _embed(self, number: int, features: Tensor) -> Tensor:
        return getattr(self, f"patch_embed{number}")(features)

    def _blocks(self, number: int, tokens: Tensor) -> Tensor:
        tokens = tokens + getattr(self, f"pos_embed{number}")
        for block in getattr(self, f"block{number}"):
            tokens = block(tokens)
        return tokens

    def fitted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return published weights with position embeddings interpolated to the maps of this network.

        Args:
            state: state dict; its position embeddings belong to square maps, as the published ones, or to this
                network's size.

        Raises:
            CheckpointError: position embeddings that belong neither to a square map nor to one of this network's size.
        """
        fitted = dict(state)
        for number, grid in enumerate(self.grids, start=1):
            name = f"pos_embed{number}"
            if name in state and state[name].ndim == 3:
                fitted[name] = _resized(name, state[name], grid, cls_tokens=int(number == len(self.grids)))
        return fitted


def _strides() -> tuple[int, ...]:
    """Return the side of a token in image pixels, for each stage."""
    return tuple(accumulate(_PATCHES, lambda stride, patch: stride * patch))


def _check_size(variant: PVTVariant, size: Size) -> None:
    smallest = _strides()[-1]
    if min(size) < smallest:
        raise UsageError(
            f"{variant.name} cannot take images of {size[0]}x{size[1]} pixels: its last stage needs one whole patch",
            expected=f"height and width of at least {smallest}",
        )


def _resized(name: str, embedding: Tensor, grid: Size, *, cls_tokens: int) -> Tensor:
    """Interpolate (1, cls_tokens + positions, dim) bilinearly to the positions of ``grid``."""
    positions = embedding[:, cls_tokens:]
    side = math.isqrt(positions.shape[1])
    if side * side != positions.shape[1]:
        return _of_own_size(name, embedding, math.prod(grid) + cls_tokens)
    if grid == (side, side):
        return embedding
    resized = nn.functional.interpolate(to_map(positions.float(), (side, side)), size=grid, mode="bilinear")
    return cat((embedding[:, :cls_tokens], to_tokens(resized)), dim=1)


def _of_own_size(name: str, embedding: Tensor, expected: int) -> Tensor:
    if embedding.shape[1] != expected:
        raise CheckpointError(
            f"{name} of the checkpoint has {embedding.shape[1]} positions, which are not those of a square image",
            expected=f"a square number of positions, or {expected}",
            fix="build the network with the input_size that the checkpoint was trained for",
        )
    return embedding
