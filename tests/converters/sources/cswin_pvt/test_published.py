"""Checkpoints in the forms that authors publish."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from networks import SMALL_CSWIN, SMALL_PVT, fill, images

from vitedge.converters.sources.cswin_pvt.cswin import CSWinTransformer
from vitedge.converters.sources.cswin_pvt.published import load_published
from vitedge.converters.sources.cswin_pvt.pvt import PyramidVisionTransformer
from vitedge.converters.sources.weights.checkpoints import read_checkpoint
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
def test_a_saved_checkpoint_gives_the_same_logits(make, form: str, tmp_path: Path) -> None:
    source, target = fill(make()), make()
    torch.save(wrappings(source.state_dict())[form], tmp_path / "weights.pth")
    load_published(target, read_checkpoint(tmp_path / "weights.pth").state_dict, where="weights.pth")
    with torch.no_grad():
        assert torch.equal(target(images(64, 64)), source(images(64, 64)))


@NETWORKS
def test_half_precision_weights_are_widened(make) -> None:
    source, target = fill(make()), make()
    load_published(target, {name: value.half() for name, value in source.state_dict().items()}, where="weights.pth")
    assert {value.dtype for value in target.state_dict().values()} == {torch.float32}
    assert torch.equal(target.head.weight, source.head.weight.half().float())


def refused(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> CheckpointError:
    """The error of loading, after which the network must be as it was."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_published(network, state, where="weights.pth")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert "variant" in caught.value.fix
    return caught.value


@NETWORKS
def test_missing_and_unknown_weights_are_named(make) -> None:
    network = make()
    state = fill(make()).state_dict()
    del state["head.bias"], state["norm.weight"]
    state |= {f"extra{i}": torch.zeros(1) for i in range(5)}
    problem = refused(network, state).problem
    assert problem.startswith("weights.pth does not fit")
    assert "2 missing (norm.weight, head.bias)" in problem
    assert "5 unexpected (extra0, extra1, extra2, …)" in problem


@NETWORKS
def test_weights_of_another_shape_are_named(make) -> None:
    state = fill(make()).state_dict()
    state["norm.weight"] = torch.zeros(3)
    assert "norm.weight (3,) for (" in refused(make(), state).problem


def test_weights_of_the_other_family_are_refused() -> None:
    assert "missing" in refused(pvt(), fill(cswin()).state_dict()).problem


def test_a_position_embedding_that_is_none_is_refused() -> None:
    state = fill(pvt()).state_dict()
    state["pos_embed2"] = torch.zeros(64)
    assert "pos_embed2 (64,) for (1, 64, 16)" in refused(pvt(), state).problem
