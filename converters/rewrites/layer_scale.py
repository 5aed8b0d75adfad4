"""LayerScale, and any other multiplication by constants, into the layer before it.

``γ·(W·x + b)`` is ``(γ·W)·x + γ·b``: Touvron et al., "Going deeper with Image Transformers", 2021, learn γ for each
channel of the attention's and the MLP's last linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from vitedge.converters.rewrites.multipliers import Fold, fold, multipliers
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.preprocessing import Preprocessing


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Applies where a layer with constant weights makes what is multiplied, and nothing else reads those channels."""
    return refusal(_folds(model.graph), nothing="nothing is multiplied by constants")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Scale the rows of the weights and the bias; remove the multiplications."""
    return apply_all(model, _folds(model.graph))


def _folds(graph: ir.Graph) -> Iterator[Fold | str]:
    return (fold(graph, multiplier) for multiplier in list(multipliers(graph)))
