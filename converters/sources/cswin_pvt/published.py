"""Loading the weights of a published checkpoint into a network that they fit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vitedge.converters.sources.cswin_pvt.layers import ImageClassifier
from vitedge.converters.sources.weights.fitting import Mismatch


def load_published(network: ImageClassifier, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Load published weights into a network; those that depend on the input size are interpolated.

    Args:
        network: from ``vitedge.converters.sources.cswin_pvt.build.build``. Left as it was if the weights do not fit.
        tensors: weights by parameter name, as ``sources.weights.checkpoints.read_weights`` gives them.
        where: what holds them, for the error.

    Raises:
        CheckpointError: weights of another network or of another number of classes.
    """
    state = network.fitted(tensors)
    mismatch = Mismatch.between(network.state_dict(), state)
    if mismatch:
        raise mismatch.error(where, fix="name the variant that the weights were saved from")
    network.load_state_dict(state)
