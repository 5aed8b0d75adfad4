"""Random weights through which an image still shows.

Training starts from weights that hide the image: residual branches closed by norms or LayerScale at nearly 0,
classifiers at 0, BatchNorm statistics that no image has made. Logits from such weights are nearly the same for all
images, so that neither a wrong graph nor the noise of int8 shows in them.
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
"""A factor below this lets nearly nothing through."""
OPENED = 0.1
"""What it becomes: at 1, deep residual networks with BatchNorm amplify float32 rounding to 1e-2 of the logits; at 0.3,
LeViT leaves 19 dB of its logits in bfloat16, where 35 remain with 0.1."""
LEAST_VARIANCE = 0.05
"""Of BatchNorm: dividing by less amplifies rounding; with more, a network without residual branches fades out."""


def randomize(module: nn.Module, preprocessing: Preprocessing) -> None:
    """Draw the weights of linear layers and convolutions, open closed branches, and take BatchNorm statistics.

    Each layer keeps the scale of its input: weights have variance 1 / fan-in, factors of norms and LayerScale that are
    nearly 0 become 0.1, and BatchNorm takes mean and variance from deterministic noise with the spectrum of photos.
    What remains (embeddings, biases, attention temperatures) stays as it is.

    Args:
        module: an image classifier in evaluation mode; changed in place.
        preprocessing: of its images.
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
        norm.momentum = None  # the average over all that passes, not a running one
        norm.train()
    module(torch.from_numpy(normalized(synthetic_frames(preprocessing.input_size), preprocessing)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.running_var.clamp_(min=LEAST_VARIANCE)
        norm.eval()
