"""LayerScale, and any other multiplication by constants, into the layer before it.

``γ·(W·x + b)`` is ``(γ·W)·x + γ·b``: Touvron et al., "Going deeper with Image Transformers", 2021, learn γ for each
channel of the attention's and the MLP's last linear layer.
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from vitedge.converters.rewrites.multipliers import Fold, fold, multipliers
from vitedge.converters.rewrites.places import Places, refusal
from vitedge.preprocessing import Preprocessing


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Applies where a layer with constant weights makes what is multiplied, and nothing else reads those channels."""
    found = (fold(model.graph, multiplier) for multiplier in multipliers(model.graph))
    return refusal(
        ("" if isinstance(each, Fold) else each for each in found), nothing="nothing is multiplied by constants"
    )


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Scale the rows of the weights and the bias; remove the multiplications."""
    changed, left = 0, Counter[str]()
    for multiplier in list(multipliers(model.graph)):
        found = fold(model.graph, multiplier)
        if isinstance(found, Fold):
            found.apply(model)
            changed += 1
        else:
            left[found] += 1
    return Places(changed, left)
