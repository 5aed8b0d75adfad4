"""Small CSWin and PVT networks, and weights and images that depend on nothing but their names and shapes."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch

from vitedge.converters.sources.cswin_pvt.variants import CSWinVariant, PVTVariant

SMALL_CSWIN = CSWinVariant(
    name="cswin_small_for_tests",
    embed_dim=16,
    depths=(1, 1, 2, 1),
    num_heads=(2, 2, 4, 8),
    stripe_widths=(1, 2, 2),
    input_size=(64, 64),
)
SMALL_PVT = PVTVariant(
    name="pvt_small_for_tests",
    depths=(1, 1, 1, 2),
    dims=(8, 16, 24, 32),
    num_heads=(1, 2, 3, 4),
    mlp_ratios=(4, 4, 2, 2),
    input_size=(64, 64),
)


def pattern(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Values of a healthy size for the parameter ``name``, from NumPy's frozen legacy generator."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.startswith(("pos_embed", "cls_token")):
        return torch.from_numpy(0.5 * noise)
    if len(shape) == 1:
        return torch.from_numpy((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
    return torch.from_numpy(noise / math.sqrt(math.prod(shape[1:])))


def fill(network: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter its pattern."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(pattern(name, tuple(parameter.shape)))
    return network.eval()


def images(height: int, width: int, batch: int = 1) -> torch.Tensor:
    """(batch, 3, height, width) normal noise."""
    return torch.from_numpy(np.random.RandomState(7).standard_normal((batch, 3, height, width))).float()


def relative_error(reference: torch.Tensor, candidate: torch.Tensor) -> float:
    """Largest absolute difference, in parts of the reference's range."""
    return float((reference - candidate).abs().max() / (reference.max() - reference.min()))
