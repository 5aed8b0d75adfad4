"""PVT v1: spatial reduction, position embeddings and sizes, against loops."""

from __future__ import annotations

import math

import pytest
import torch
from networks import SMALL_PVT, fill, images, pattern

from vitedge.converters.sources.cswin_pvt.build import build
from vitedge.converters.sources.cswin_pvt.published import load_published
from vitedge.converters.sources.cswin_pvt.pvt import Attention, PyramidVisionTransformer
from vitedge.errors import CheckpointError, UsageError

DIM, HEADS = 8, 2

# What the authors' code, made for SMALL_PVT at 64 × 64, computes for an image of 96 × 160, in float64.
AUTHORS_LOGITS_96X160 = [-0.81962, -0.04019, 0.01828, -0.77577, 0.98928, 0.15638]


def tokens(count: int) -> torch.Tensor:
    """(1, count, DIM) float64 noise."""
    return pattern("tokens", (1, count, DIM)) * math.sqrt(count * DIM)


def normalized(vector: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    deviation = vector - vector.mean()
    return deviation / torch.sqrt((deviation**2).mean() + norm.eps) * norm.weight + norm.bias


def naive_reduced(layer: Attention, sequence: torch.Tensor, grid: tuple[int, int], reduction: int) -> torch.Tensor:
    """One vector for each whole patch of ``reduction`` × ``reduction`` tokens: (patches, DIM)."""
    if reduction == 1:
        return sequence
    reduced = []
    for top in range(grid[0] // reduction):
        for left in range(grid[1] // reduction):
            total = layer.sr.bias.clone()
            for row in range(reduction):
                for column in range(reduction):
                    token = sequence[(top * reduction + row) * grid[1] + left * reduction + column]
                    total += layer.sr.weight[:, :, row, column] @ token
            reduced.append(normalized(total, layer.norm))
    return torch.stack(reduced)


def naive_attention(layer: Attention, sequence: torch.Tensor, grid: tuple[int, int], reduction: int) -> torch.Tensor:
    """Head by head and token by token: (tokens, DIM)."""
    source = naive_reduced(layer, sequence, grid, reduction)
    query = sequence @ layer.q.weight.T + layer.q.bias
    key = source @ layer.kv.weight[:DIM].T + layer.kv.bias[:DIM]
    value = source @ layer.kv.weight[DIM:].T + layer.kv.bias[DIM:]
    result = torch.zeros_like(sequence)
    size = DIM // HEADS
    for head in range(HEADS):
        channels = slice(head * size, (head + 1) * size)
        for index in range(len(sequence)):
            scores = torch.exp(key[:, channels] @ query[index, channels] / math.sqrt(size))
            result[index, channels] = (scores / scores.sum()) @ value[:, channels]
    return result @ layer.proj.weight.T + layer.proj.bias


def attention(reduction: int, grid: tuple[int, int]) -> Attention:
    return fill(Attention(DIM, HEADS, reduction, grid).double())


@pytest.mark.parametrize(("reduction", "grid"), [(1, (4, 6)), (2, (4, 6)), (2, (6, 4)), (4, (4, 8)), (2, (5, 7))])
def test_attention_reduces_keys_and_values_patch_by_patch(reduction, grid):
    layer = attention(reduction, grid)
    sequence = tokens(math.prod(grid))
    with torch.no_grad():
        expected = naive_attention(layer, sequence[0], grid, reduction)
        assert torch.allclose(layer(sequence)[0], expected, rtol=0, atol=1e-10)


def test_the_naive_loop_tells_grids_apart():
    """The comparison above would fail if rows and columns of the map were exchanged."""
    layer = attention(2, (4, 6))
    sequence = tokens(24)
    with torch.no_grad():
        assert (layer(sequence)[0] - naive_attention(layer, sequence[0], (6, 4), 2)).abs().max() > 1e-2


def test_stages_without_reduction_hold_no_weights_for_it():
    names = set(attention(1, (4, 6)).state_dict())
    assert set(attention(2, (4, 6)).state_dict()) - names == {"sr.weight", "sr.bias", "norm.weight", "norm.bias"}


def test_epsilons_are_those_of_the_authors():
    network = PyramidVisionTransformer(SMALL_PVT)
    epsilons = {name: module.eps for name, module in network.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    coarse = {name for name in epsilons if name.startswith("patch_embed") or name.endswith("attn.norm")}
    assert len(coarse) == 7
    assert {epsilons[name] for name in coarse} == {1e-5}
    assert {epsilons[name] for name in epsilons.keys() - coarse} == {1e-6}


def test_logits_come_from_the_class_token_of_the_last_stage():
    network = fill(PyramidVisionTransformer(SMALL_PVT, 10)).double()
    seen: list[torch.Tensor] = []
    network.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network.block4[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        network(images(64, 64).double())
    last, normed = seen
    assert last.shape == (1, 1 + 4, 32)
    assert torch.equal(normed, last[:, 0])


def naive_bilinear(positions: torch.Tensor, side: int, grid: tuple[int, int]) -> torch.Tensor:
    """(side², dim) to (height · width, dim): pixel centers at half coordinates, edges repeated."""

    def blend(index: int, size: int) -> tuple[int, int, float]:
        place = max((index + 0.5) * side / size - 0.5, 0.0)
        low = min(int(place), side - 1)
        return low, min(low + 1, side - 1), place - low

    rows = []
    for row in range(grid[0]):
        top, bottom, down = blend(row, grid[0])
        for column in range(grid[1]):
            left, right, across = blend(column, grid[1])
            upper = (1 - across) * positions[top * side + left] + across * positions[top * side + right]
            lower = (1 - across) * positions[bottom * side + left] + across * positions[bottom * side + right]
            rows.append((1 - down) * upper + down * lower)
    return torch.stack(rows)


# At 128 × 128 the second stage has as many positions as the first had at 64 × 64; at 32 × 128 the first one has.
@pytest.mark.parametrize("size", [(96, 64), (128, 128), (32, 128), (32, 32), (70, 100)])
def test_position_embeddings_are_interpolated_to_the_maps(size):
    state = fill(PyramidVisionTransformer(SMALL_PVT)).state_dict()
    network = PyramidVisionTransformer(SMALL_PVT, input_size=size)
    load_published(network, state, where="weights.pth")
    for number, stride in enumerate((4, 8, 16, 32), start=1):
        loaded, published = getattr(network, f"pos_embed{number}").detach()[0], state[f"pos_embed{number}"][0]
        cls_tokens = int(number == 4)
        grid = (size[0] // stride, size[1] // stride)
        expected = naive_bilinear(published[cls_tokens:], 64 // stride, grid)
        assert torch.allclose(loaded[cls_tokens:], expected, rtol=0, atol=1e-5)
        assert torch.equal(loaded[:cls_tokens], published[:cls_tokens])


def test_logits_at_another_size_are_those_of_the_authors_code():
    network = PyramidVisionTransformer(SMALL_PVT, 10, (96, 160)).eval()
    load_published(network, fill(PyramidVisionTransformer(SMALL_PVT, 10)).state_dict(), where="weights.pth")
    with torch.no_grad():
        logits = network(images(96, 160))[0, :6]
    assert logits.tolist() == pytest.approx(AUTHORS_LOGITS_96X160, abs=1e-4)


def test_embeddings_of_the_same_size_are_loaded_as_they_are():
    state = fill(PyramidVisionTransformer(SMALL_PVT, input_size=(64, 96))).state_dict()
    network = PyramidVisionTransformer(SMALL_PVT, input_size=(64, 96))
    load_published(network, state, where="weights.pth")
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_embeddings_of_another_oblong_size_are_refused():
    state = fill(PyramidVisionTransformer(SMALL_PVT, input_size=(64, 96))).state_dict()
    with pytest.raises(CheckpointError, match="pos_embed1 of the checkpoint has 384 positions") as caught:
        load_published(PyramidVisionTransformer(SMALL_PVT), state, where="weights.pth")
    assert "input_size" in caught.value.fix


@pytest.mark.parametrize("size", [(31, 224), (224, 31), (0, 0), (-32, 64)])
def test_images_smaller_than_the_last_patch_are_refused(size):
    with pytest.raises(UsageError, match=f"pvt_tiny cannot take images of {size[0]}x{size[1]} pixels") as caught:
        build("pvt_tiny", input_size=size)
    assert "at least 32" in caught.value.expected


def test_pixels_beyond_the_last_whole_patch_do_not_count():
    network = fill(PyramidVisionTransformer(SMALL_PVT, 10, (67, 66)))
    frame = images(67, 66)
    cropped = frame.clone()
    cropped[:, :, 64:] = 0
    cropped[:, :, :, 64:] = 0
    with torch.no_grad():
        assert torch.equal(network(frame), network(cropped))
