"""CSWin: stripes, LePE and sizes, against loops that know nothing of windows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SMALL_CSWIN, fill, pattern

from vitedge.converters.sources.cswin_pvt.build import build
from vitedge.converters.sources.cswin_pvt.cswin import (
    CSWinBlock,
    CSWinTransformer,
    StripeAttention,
    join_stripes,
    side_multiple,
    split_into_stripes,
)
from vitedge.converters.sources.cswin_pvt.variants import VARIANTS
from vitedge.errors import UsageError

HEIGHT, WIDTH, DIM, HEADS = 6, 4, 8, 2
STRIPES = {"vertical": (6, 2), "one column": (6, 1), "horizontal": (3, 4), "one row": (1, 4), "whole map": (6, 4)}


def features(name: str, channels: int = DIM) -> torch.Tensor:
    """(1, HEIGHT, WIDTH, channels) float64 noise."""
    return pattern(name, (1, HEIGHT, WIDTH, channels)) * (HEIGHT * WIDTH * channels) ** 0.5


def attention(stripe: tuple[int, int], heads: int = HEADS) -> StripeAttention:
    return fill(StripeAttention(DIM, heads, stripe).double())


def stripe_of(row: int, column: int, stripe: tuple[int, int]) -> tuple[int, int]:
    return (row // stripe[0], column // stripe[1])


TOKENS = [(row, column) for row in range(HEIGHT) for column in range(WIDTH)]


def naive_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, stripe, heads: int) -> torch.Tensor:
    """Full attention over the map, token by token, with every pair that shares no stripe masked out."""
    result = torch.zeros_like(value)
    size = DIM // heads
    for row, column in TOKENS:
        peers = [t for t in TOKENS if stripe_of(*t, stripe) == stripe_of(row, column, stripe)]
        for head in range(heads):
            channels = slice(head * size, (head + 1) * size)
            scores = torch.stack([query[0, row, column, channels] @ key[0, r, c, channels] for r, c in peers])
            weights = torch.exp(scores / size**0.5) / torch.exp(scores / size**0.5).sum()
            result[0, row, column, channels] = sum(
                weight * value[0, r, c, channels] for weight, (r, c) in zip(weights, peers, strict=True)
            )
    return result


def naive_lepe(value: torch.Tensor, convolution: torch.nn.Conv2d, stripe: tuple[int, int]) -> torch.Tensor:
    """Each token and its eight neighbours, those of other stripes and beyond the map left out, channel by channel."""
    result = convolution.bias.expand_as(value).clone()
    for row, column in TOKENS:
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                r, c = row + down, column + right
                if (r, c) in TOKENS and stripe_of(r, c, stripe) == stripe_of(row, column, stripe):
                    result[0, row, column] += convolution.weight[:, 0, 1 + down, 1 + right] * value[0, r, c]
    return result


@given(
    rows=st.integers(1, 4), columns=st.integers(1, 4), down=st.integers(1, 3), right=st.integers(1, 3),
    batch=st.integers(1, 2),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_stripes_hold_neighbouring_tokens_and_join_to_the_map(rows, columns, down, right, batch):
    height, width = rows * down, columns * right
    count = batch * height * width
    whole = torch.arange(count * 3).reshape(batch, height, width, 3)
    stripes = split_into_stripes(whole, (rows, columns))
    assert stripes.shape == (batch * down * right, rows, columns, 3)
    expected = [
        image[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns]
        for image in whole
        for r in range(down)
        for c in range(right)
    ]
    assert torch.equal(stripes, torch.stack(expected))
    assert torch.equal(join_stripes(stripes, (height, width)), whole)


@pytest.mark.parametrize("stripe", STRIPES.values(), ids=STRIPES.keys())
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_tokens_attend_inside_their_stripe_and_receive_lepe(stripe, heads):
    layer = attention(stripe, heads)
    query, key, value = features("query"), features("key"), features("value")
    with torch.no_grad():
        actual = layer(query, key, value)
        expected = naive_attention(query, key, value, stripe, heads) + naive_lepe(value, layer.get_v, stripe)
    assert torch.allclose(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("others", [(6, 4), (3, 2), (6, 1), (3, 4)])
def test_the_naive_loops_tell_stripes_apart(others):
    """The comparison above would fail if the layer used other stripes than it should."""
    layer = attention((6, 2))
    query, key, value = features("query"), features("key"), features("value")
    with torch.no_grad():
        actual = layer(query, key, value)
        attended = actual - naive_lepe(value, layer.get_v, (6, 2))
        assert (attended - naive_attention(query, key, value, others, HEADS)).abs().max() > 1e-2
        difference = naive_lepe(value, layer.get_v, (6, 2)) - naive_lepe(value, layer.get_v, others)
        assert difference.abs().max() > 1e-2


def attended_change(block: CSWinBlock, row: int, column: int) -> torch.Tensor:
    """(HEIGHT, WIDTH, channels), true where a change of one token changes what the attention hands on."""
    before = features("block", 16)
    after = before.clone()
    after[0, row, column] += features("change", 16)[0, 0, 0]
    with torch.no_grad():
        return ((block(after) - after) - (block(before) - before)).abs()[0] > 1e-9


def bare_block() -> CSWinBlock:
    """A block of a vertical and a horizontal group that adds its heads' output as it is, and no MLP."""
    block = fill(CSWinBlock(16, 4, ((HEIGHT, 1), (2, WIDTH))).double())
    with torch.no_grad():
        block.proj.weight.copy_(torch.eye(16))
        block.mlp.fc2.weight.zero_()
        block.mlp.fc2.bias.zero_()
    return block


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 2), (5, 3)])
def test_one_half_of_the_heads_sees_columns_and_the_other_rows(row, column):
    changed = attended_change(bare_block(), row, column)
    first, second = changed[..., :8].any(dim=-1), changed[..., 8:].any(dim=-1)
    expected_first = torch.tensor([[c == column for c in range(WIDTH)] for _ in range(HEIGHT)])
    expected_second = torch.tensor([[r // 2 == row // 2] * WIDTH for r in range(HEIGHT)])
    assert torch.equal(first, expected_first)
    assert torch.equal(second, expected_second)


def test_stripe_shapes_of_the_published_stages():
    network = CSWinTransformer(SMALL_CSWIN, 10, (64, 128))
    stages = (network.stage1, network.stage2, network.stage3, network.stage4)
    stripes = [[layer.stripe for layer in stage[0].attns] for stage in stages]
    assert stripes == [[(16, 1), (1, 32)], [(8, 2), (2, 16)], [(4, 2), (2, 8)], [(2, 4)]]


@pytest.mark.parametrize(("name", "multiple"), [("cswin_tiny_224", 224), ("cswin_base_384", 192)])
def test_side_multiple(name, multiple):
    assert side_multiple(VARIANTS[name]) == multiple


@pytest.mark.parametrize(
    ("size", "nearest"),
    [((256, 224), "224x224"), ((224, 384), "224x448"), ((100, 1), "224x224"), ((0, 224), "224x224")],
)
def test_sizes_that_stripes_cannot_tile_are_refused(size, nearest):
    with pytest.raises(UsageError, match=f"cswin_tiny_224 cannot take images of {size[0]}x{size[1]} pixels") as caught:
        build("cswin_tiny_224", input_size=size)
    assert caught.value.expected == "height and width that are multiples of 224"
    assert caught.value.fix == f"use {nearest}"


@pytest.mark.parametrize(
    ("name", "size"), [("cswin_tiny_224", (448, 224)), ("cswin_base_384", (192, 384)), ("cswin_tiny_224", (224, 672))]
)
def test_sizes_that_stripes_tile_are_accepted_with_the_same_weights(name, size):
    with torch.device("meta"):
        network, trained = build(name, input_size=size), build(name)
        assert network(torch.empty(1, 3, *size)).shape == (1, 1000)
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in trained.state_dict().items()
    }


def test_batches_are_classified_image_by_image():
    network = fill(CSWinTransformer(SMALL_CSWIN, 10)).double()
    batch = pattern("images", (2, 3, 64, 64))
    with torch.no_grad():
        assert torch.allclose(network(batch), torch.cat([network(batch[:1]), network(batch[1:])]), rtol=0, atol=1e-12)
