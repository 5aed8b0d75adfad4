from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.reference import module_logits
from vitedge.converters.sources.random_weights import LEAST_VARIANCE, randomize
from vitedge.converters.verify import synthetic_frames

PREPROCESSING = Preprocessing(input_size=(64, 64), resize_size=(64, 64))
SMALL_VIT = {"img_size": 64, "patch_size": 16, "depth": 2, "embed_dim": 48, "num_heads": 3}
SMALL_LEVIT = {"embed_dim": (32, 48, 64), "key_dim": 8, "num_heads": (2, 2, 2), "depth": (1, 1, 1), "img_size": 64}
MODELS: dict[str, dict[str, Any]] = {
    "efficientnet_b0": {},
    "levit_128s": SMALL_LEVIT,
    "repvit_m0_9": {},
    "vit_tiny_patch16_224": {**SMALL_VIT, "weight_init": "jax"},
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = timm.create_model(name, num_classes=10, **MODELS[name]).eval()
    return module


def shows_the_image(module: nn.Module) -> bool:
    """Whether logits are of a healthy size, and spread over the images and not over the classes alone."""
    logits = module_logits(module, synthetic_frames((64, 64)), PREPROCESSING)
    return bool(logits.std() > 0.1 and logits.std(axis=0).mean() > 0.3 * logits.std())


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_depend_on_the_image(name: str) -> None:
    module = network(name)
    assert not shows_the_image(module)
    randomize(module, PREPROCESSING)
    assert shows_the_image(module)


def test_they_are_always_the_same_and_leave_the_generator_alone() -> None:
    first, second = network("repvit_m0_9"), network("repvit_m0_9")
    randomize(first, PREPROCESSING)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    randomize(second, PREPROCESSING)
    assert torch.equal(torch.get_rng_state(), state)
    tensors = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in tensors)


def test_the_module_is_left_in_evaluation_mode() -> None:
    module = network("repvit_m0_9")
    randomize(module, PREPROCESSING)
    assert not any(each.training for each in module.modules())
    assert {each.momentum for each in module.modules() if isinstance(each, _BatchNorm)} == {0.1}


def test_embeddings_and_temperatures_stay() -> None:
    module = network("vit_tiny_patch16_224")
    before = module.get_parameter("pos_embed").clone()
    randomize(module, PREPROCESSING)
    assert torch.equal(module.get_parameter("pos_embed"), before)


def test_batchnorm_does_not_amplify_a_channel_that_hardly_varies() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    flat = Preprocessing(input_size=(64, 64), resize_size=(64, 64), std=(100.0, 100.0, 100.0))
    randomize(module, flat)
    assert bool((module.get_buffer("1.running_var") == LEAST_VARIANCE).all())
