"""The model card: identity, labels and preprocessing of a model."""

from __future__ import annotations

from dataclasses import dataclass

from vitedge.bundle.preprocessing import Preprocessing


@dataclass(frozen=True)
class ModelCard:
    """Identity, labels and preprocessing of a classifier, read from the checkpoint's own configuration.

    Attributes:
        name: short name for people and file names, such as ``deit_tiny_patch16_224``.
        source: the source as the user wrote it, such as ``timm:deit_tiny_patch16_224``.
        architecture: timm's architecture name, the class of Transformers or of a user's module, or ``onnx`` or
            ``torch.export`` if only a graph is known.
        labels: one label for each logit, in order.
        preprocessing: turns images into inputs.
        weights_sha256: hash of the weights file, or of all weights in order; empty if weights are random.
        pretrained: whether the weights come from training; random weights say nothing about accuracy.
        revision: commit of the repository that was downloaded from the hub; empty if nothing was downloaded.
    """

    name: str
    source: str
    architecture: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    weights_sha256: str
    pretrained: bool
    revision: str = ""

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return len(self.labels)
