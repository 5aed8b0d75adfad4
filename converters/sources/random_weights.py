"""Random weights with logits that depend on the image.

Initial weights for training hide the image: norms or LayerScale near 0 close residual branches, classifiers are 0, and
BatchNorm statistics fit no image. Their logits are nearly the same for all images, so that neither a wrong graph nor
the noise of int8 shows in them.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.reference import normalized
from vitedge.converters.verify import synthetic_frames

SEED = 0
CLOSED = 1e-2
"""A branch whose scale is below this is closed."""
OPENED = 0.1
"""Scale of an opened branch. At 1, deep residual networks with BatchNorm amplify float32 rounding to 1e-2 of the
logits. At 0.3, LeViT in bfloat16 reaches 19 dB; at 0.1, 35 dB."""
LEAST_VARIANCE = 0.05
"""Lowest BatchNorm variance. A lower one amplifies rounding; with a higher one, the signal fades in a network without
residual branches."""


def randomize(module: nn.Module, preprocessing: Preprocessing) -> None:
    """Draw the weights of linear layers and convolutions, open closed branches, and set BatchNorm statistics.

    Each layer keeps the scale of its input: weights have variance 1 / fan-in, scales of norms and LayerScale near 0
    become 0.1, and BatchNorm takes mean and variance from deterministic noise with the spectrum of photos. All other
    parameters (embeddings, biases, attention temperatures) stay unchanged.

    Args:
        module: an image classifier in evaluation mode; changed in place.
        preprocessing: preprocessing of its images.
    """
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            _draw(name.rpartition(".")[2], parameter, generator)
        _take_statistics(module, preprocessing)


def _draw(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    if name == "weight" and parameter.ndim > 1:
        parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    elif (name == "weight" or "gamma" in name) and bool(parameter.abs().max() < CLOSED):
        parameter.fill_(OPENED)


def _take_statistics(module: nn.Module, preprocessing: Preprocessing) -> None:
    norms = [each for each in module.modules() if isinstance(each, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average, not an exponential one
        norm.train()
    module(torch.from_numpy(normalized(synthetic_frames(preprocessing.input_size), preprocessing)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.running_var.clamp_(min=LEAST_VARIANCE)
        norm.eval()
