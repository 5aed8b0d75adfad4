"""Checkpoints in the forms that authors publish."""

from __future__ import annotations

import argparse
from collections import OrderedDict

import pytest
import torch
from networks import SMALL_CSWIN, SMALL_PVT, fill, images

from vitedge.converters.models.cswin import CSWinTransformer
from vitedge.converters.models.published import load_published, published_state
from vitedge.converters.models.pvt import PyramidVisionTransformer
from vitedge.errors import CheckpointError


def cswin(num_classes: int = 10) -> CSWinTransformer:
    return CSWinTransformer(SMALL_CSWIN, num_classes).eval()


def pvt(num_classes: int = 10) -> PyramidVisionTransformer:
    return PyramidVisionTransformer(SMALL_PVT, num_classes).eval()


NETWORKS = pytest.mark.parametrize("make", [cswin, pvt])


def wrappings(state: dict[str, torch.Tensor]) -> dict[str, object]:
    """A state dict as the training scripts of CSWin and PVT leave it."""
    parallel = OrderedDict((f"module.{name}", value) for name, value in state.items())
    zeros = {name: torch.zeros_like(value) for name, value in state.items()}
    return {
        "plain": state,
        "ema": {"state_dict_ema": state},
        "training": {"epoch": 299, "arch": "cswin", "state_dict": zeros, "state_dict_ema": parallel, "metric": 82.8},
        "state_dict": {"state_dict": parallel, "optimizer": {"lr": 0.1}},
        "model": {"model": state, "epoch": 300, "args": argparse.Namespace(lr=0.1)},
    }


@NETWORKS
@pytest.mark.parametrize("form", ["plain", "ema", "training", "state_dict", "model"])
def test_a_saved_checkpoint_gives_the_same_logits(make, form, tmp_path):
    source, target = fill(make()), make()
    torch.save(wrappings(source.state_dict())[form], tmp_path / "weights.pth")
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(tmp_path / "weights.pth", weights_only=True)
    load_published(target, checkpoint)
    with torch.no_grad():
        assert torch.equal(target(images(64, 64)), source(images(64, 64)))


@NETWORKS
def test_half_precision_weights_are_widened(make):
    source, target = fill(make()), make()
    load_published(target, {name: value.half() for name, value in source.state_dict().items()})
    assert {value.dtype for value in target.state_dict().values()} == {torch.float32}
    assert torch.equal(target.head.weight, source.head.weight.half().float())


@pytest.mark.parametrize(
    ("checkpoint", "problem"),
    [
        ([1, 2], "the checkpoint is of type list"),
        ({}, "holds no weights"),
        ({"state_dict": {}}, "holds no weights"),
        ({"epoch": 3, "head.weight": torch.zeros(1)}, "also holds epoch, which are no tensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused(checkpoint, problem):
    with pytest.raises(CheckpointError, match=problem):
        published_state(checkpoint)


def refused(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> CheckpointError:
    """The error of loading, after which the network must be as it was."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_published(network, state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    return caught.value


@NETWORKS
def test_missing_and_unknown_weights_are_named(make):
    network = make()
    state = fill(make()).state_dict()
    del state["head.bias"], state["norm.weight"]
    state |= {f"extra{i}": torch.zeros(1) for i in range(5)}
    problem = refused(network, state).problem
    assert f"does not fit {network.name}" in problem
    assert "2 weights are missing (head.bias, norm.weight)" in problem
    assert "5 are unknown (extra0, extra1, extra2, …)" in problem


@NETWORKS
def test_a_head_of_other_classes_says_what_to_build(make):
    network = make(10)
    error = refused(network, fill(make(7)).state_dict())
    dim = network.head.in_features
    assert f"head.weight: (7, {dim}) instead of (10, {dim})" in error.problem
    assert error.fix == "build the network with num_classes=7"


@NETWORKS
def test_weights_of_another_shape_are_named(make):
    state = fill(make()).state_dict()
    state["norm.weight"] = torch.zeros(3)
    error = refused(make(), state)
    assert "norm.weight: (3,) instead of" in error.problem
    assert "variant" in error.fix


def test_weights_of_the_other_family_are_refused():
    assert "does not fit pvt_small_for_tests" in refused(pvt(), fill(cswin()).state_dict()).problem


def test_a_position_embedding_that_is_none_is_refused():
    state = fill(pvt()).state_dict()
    state["pos_embed2"] = torch.zeros(64)
    assert "pos_embed2: (64,) instead of (1, 64, 16)" in refused(pvt(), state).problem
