"""The model card: identity, labels and preprocessing of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from vitedge.bundle.preprocessing import Preprocessing

Activation: TypeAlias = Literal["softmax", "sigmoid"]
"""Turns logits into scores: ``softmax`` for one class an image, ``sigmoid`` for any number of labels an image."""

LABEL_THRESHOLD = 0.5
"""Score that a label of a multi-label model must reach, unless its thresholds were fitted."""


@dataclass(frozen=True)
class ModelCard:
    """Identity, labels and preprocessing of a classifier, read from the checkpoint's own configuration.

    Attributes:
        name: short name for people and file names, such as ``deit_tiny_patch16_224``.
        source: the source as the user wrote it, such as ``timm:deit_tiny_patch16_224``.
        architecture: timm's architecture name, the class of Transformers or of a user's module, or ``onnx`` or
            ``torch.export`` if only a graph is known.
        labels: one label for each logit, in order; ``vitedge convert`` makes them differ from each other.
        preprocessing: turns images into inputs.
        weights_sha256: hash of the weights file, or of all weights in order; empty if weights are random.
        pretrained: whether the weights come from training; random weights say nothing about accuracy.
        revision: commit of the repository that was downloaded from the hub; empty if nothing was downloaded.
        class_ids: the ID of each class in its data set, such as ``n01440764`` of ImageNet; empty if unknown.
        activation: ``softmax`` where an image has one class, so that the scores add up to 1; ``sigmoid`` where it has
            any number of labels (multi-label), so that every label has a score of its own.
    """

    name: str
    source: str
    architecture: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    weights_sha256: str
    pretrained: bool
    revision: str = ""
    class_ids: tuple[str, ...] = ()
    activation: Activation = "softmax"

    @property
    def num_classes(self) -> int:
        """Return the number of logits."""
        return len(self.labels)

    @property
    def is_multilabel(self) -> bool:
        """Return whether an image has any number of labels, each with a score of its own."""
        return self.activation == "sigmoid"
