"""What a configuration may ask for: numbers, modules, parameters and activations, counted before memory is taken."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from vitedge.converters.sources import model_limits
from vitedge.converters.sources.model_limits import ModelLimitsError, check_config_numbers, check_model_size
from vitedge.errors import CheckpointError
from vitedge.safety.limits import MODEL_MODULES, MODEL_NUMBER, MODEL_SPARE

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    "config",
    [
        {"depth": MODEL_NUMBER + 1},
        {"depth": -MODEL_NUMBER - 1},
        {"depth": 10**400},
        {"a": {"b": [{"depth": 1}, [[{"depth": 1e300}]]]}},
        {"depths": [1, 2, MODEL_NUMBER * 2]},
        {"depth": float("nan")},
        {"depth": float("inf")},
    ],
)
def test_numbers_that_no_model_has_are_refused_by_their_key(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"depths? of config\.json is"):
        check_config_numbers(config, "config.json")


def test_other_values_pass() -> None:
    check_config_numbers({"a": MODEL_NUMBER, "b": [0.5, -3, True, None, "9" * 100], "c": {}, "d": []}, "config.json")


class Deep(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(depth))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=(2, 3))


class Table(nn.Module):
    def __init__(self, numbers: int, *, buffer: bool) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("table", torch.zeros(numbers))
        else:
            self.table = nn.Parameter(torch.zeros(numbers))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=(2, 3))


class Pairs(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pixels = image.flatten()
        return (pixels[:, None] * pixels).mean()[None]


def test_modules_are_counted_while_they_are_made() -> None:
    with pytest.raises(ModelLimitsError, match=f"more than {MODEL_MODULES} modules"):
        check_model_size(lambda: Deep(10**7), {}, (8, 8))
    check_model_size(lambda: Deep(MODEL_MODULES - 2), {}, (8, 8))


@pytest.mark.parametrize("buffer", [False, True])
def test_numbers_are_counted_without_memory(buffer: bool) -> None:
    with pytest.raises(ModelLimitsError, match="numbers, far more than its weights hold"):
        check_model_size(lambda: Table(10**12, buffer=buffer), {}, (8, 8))
    check_model_size(lambda: Table(MODEL_SPARE, buffer=buffer), {}, (8, 8))


def test_a_model_may_be_as_large_as_its_weights() -> None:
    weights = {"table": torch.zeros(1).expand(10**12)}
    check_model_size(lambda: Table(10**12, buffer=False), weights, (8, 8))


def test_tensors_for_one_image_are_counted() -> None:
    with pytest.raises(ModelLimitsError, match="one of its tensors has 36864000000 numbers for one image"):
        check_model_size(Pairs, {}, (80, 800))
    check_model_size(Pairs, {}, (32, 32))


def test_a_model_that_does_not_run_is_told_elsewhere() -> None:
    check_model_size(lambda: nn.Linear(5, 5), {}, (32, 32))


def test_nothing_is_counted_afterwards() -> None:
    with pytest.raises(ModelLimitsError):
        check_model_size(lambda: Table(10**12, buffer=False), {}, (8, 8))
    assert Deep(MODEL_MODULES + 5).layers[0].training
    assert torch.zeros(1).device.type == "cpu"


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "convnext_atto",
        "mobilevit_xxs",
        "levit_128s",
        "resnet18",
    ],
)
def test_models_of_timm_pass(name: str) -> None:
    module = timm.create_model(name)
    check_model_size(lambda: timm.create_model(name), module.state_dict(), module.pretrained_cfg["input_size"][1:])


def test_activations_of_a_large_model_may_be_as_large_as_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_limits, "MODEL_ACTIVATION", 100)
    with pytest.raises(ModelLimitsError):
        check_model_size(Pairs, {}, (4, 4))
    check_model_size(Pairs, {"weights": torch.zeros(48 * 48)}, (4, 4))
