"""What rounding costs a layer, and how to pay less: error feedback between weights, and the bias.

Both look at the activations that the layer really reads, with everything before it quantized.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import WEIGHT_LEVELS

DAMPING = 0.01
"""Added to the diagonal, as a share of its mean: directions that the calibration images never excite count a little."""


def feedback_round(
    weight: NDArray[np.float64], scales: NDArray[np.float32], gram: NDArray[np.float64]
) -> NDArray[np.int8]:
    """Levels ``(out, in)`` whose errors cancel in the layer's output instead of each being smallest by itself.

    Input channel by input channel, the error of rounding is handed on to the channels not rounded yet, in the way that
    changes the output least (Frantar et al., "GPTQ", 2022, algorithm 1; channels in falling order of their energy).

    Args:
        weight: ``(out, in)``.
        scales: of the output channels, ``(out,)``.
        gram: ``XᵀX`` of the layer's inputs, ``(in, in)``.
    """
    order = np.argsort(-np.diag(gram), kind="stable")
    feedback = _feedback(gram[np.ix_(order, order)])
    left, steps = weight[:, order].T.copy(), scales.astype(np.float64)
    levels = np.empty(left.shape, np.int8)
    for channel, row in enumerate(feedback):
        levels[channel] = np.clip(np.rint(left[channel] / steps), -WEIGHT_LEVELS, WEIGHT_LEVELS)
        error = (left[channel] - levels[channel] * steps) / row[channel]
        left[channel + 1 :] -= np.outer(row[channel + 1 :], error)
    restored = np.empty_like(levels)
    restored[order] = levels
    return np.ascontiguousarray(restored.T)


def _feedback(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper triangular Cholesky factor of the damped inverse, ``(in, in)``."""
    energy = float(np.diag(gram).mean())
    damped = gram + (DAMPING * energy if energy > 0 else 1.0) * np.eye(len(gram))
    return np.asarray(np.linalg.cholesky(np.linalg.inv(damped)).T)
