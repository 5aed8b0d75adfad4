"""Load the weights of a published checkpoint into a network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vitedge.converters.sources.cswin_pvt.layers import ImageClassifier
from vitedge.converters.sources.weights.state_dict import IncompatibleKeys


def load_published(network: ImageClassifier, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Load published weights into a network, and interpolate weights that depend on the input size.

    Args:
        network: from ``vitedge.converters.sources.cswin_pvt.build.build``; unchanged if the weights do not fit.
        tensors: state dict, as ``sources.weights.checkpoints.read_checkpoint`` returns it.
        where: origin of the weights, for the error.

    Raises:
        CheckpointError: the weights belong to another network or another number of classes.
    """
    state = network.fitted(tensors)
    mismatch = IncompatibleKeys.between(network.state_dict(), state)
    if mismatch:
        raise mismatch.error(where, fix="name the variant that the weights were saved from")
    network.load_state_dict(state)
