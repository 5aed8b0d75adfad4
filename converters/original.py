"""A checkpoint as it is, computed by PyTorch on the host: what its bundles are compared with.

It has the checkpoint's own preprocessing and labels, as ``convert`` reads them, and computes in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vitedge.bundle.model_card import Activation, ModelCard
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.reference import normalized, one_image_logits
from vitedge.converters.request import ModelOptions
from vitedge.converters.sources.labels import check_label_count, identified
from vitedge.converters.sources.parse import parse_source
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.stages.loading import load_model
from vitedge.errors import EngineError, UsageError
from vitedge.progress import Progress
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines.base import EngineInfo
from vitedge.runtime.system.machine import processor_name

OPTIONS = ModelOptions(
    weights=None, random_weights=False, labels=None, preprocessing=None, num_classes=None, input_size=None
)
"""The checkpoint as it is."""


class TorchEngine:
    """A PyTorch module behind the Protocol ``Engine``.

    A module of one output gives two logits, 0 and the output, as in its bundle.
    """

    def __init__(self, module: nn.Module, preprocessing: Preprocessing) -> None:
        self.info = EngineInfo("pytorch", torch.__version__, processor_name(), "fp32", "fp32")
        self.frame: NDArray[np.uint8] = np.zeros((*preprocessing.input_size, 3), np.uint8)
        self._module: nn.Module | None = module
        self._preprocessing = preprocessing

    def run(self) -> NDArray[np.float32]:
        """Classify the contents of ``frame``; return ``(classes,)`` float32 logits, which the caller owns.

        Raises:
            EngineError: PyTorch failed, or the engine is closed.
        """
        if self._module is None:
            raise EngineError("this PyTorch engine is closed", fix="open the checkpoint again")
        try:
            logits = _logits(self._module, self.frame, self._preprocessing)
        except RuntimeError as error:
            raise EngineError(f"PyTorch failed while it ran the checkpoint: {error}") from error
        return logits if logits.size > 1 else np.concatenate([np.zeros_like(logits), logits])

    def close(self) -> None:
        """Free the module; a second call does nothing."""
        self._module = None


@dataclass(frozen=True)
class Original:
    """A checkpoint that was loaded.

    Attributes:
        source: how the user named it.
        card: labels, preprocessing, hash of the weights.
        activation: makes scores of the logits.
        module: the network.
    """

    source: str
    card: ModelCard
    activation: Activation
    module: nn.Module

    @property
    def digest(self) -> str:
        """Return the hex SHA-256 of the weights, which identifies the predictions."""
        return self.card.weights_sha256

    def open(self) -> Classifier:
        """Return a classifier that computes with PyTorch."""
        preprocessing = self.card.preprocessing
        engine = TorchEngine(self.module, preprocessing)
        return Classifier(engine, preprocessing, self.card.labels, activation=self.activation)


def load_original(source: str | Path, *, progress: Progress) -> Original:
    """Load a checkpoint for PyTorch.

    Args:
        source: as for ``vitedge.convert``: ``timm:NAME``, ``hf:OWNER/NAME``, a folder, or ``package.module:factory``.
        progress: receives the step.

    Raises:
        UsageError: the source is unknown, or is a graph, which PyTorch does not run; or its outputs look like scores.
        CheckpointError: weights, configuration or labels do not fit together.
        MissingExtraError: an optional package is missing.
    """
    parsed = parse_source(str(source))
    progress.step(f"loading {parsed.name}")
    model = load_model(parsed, OPTIONS, progress)
    if not isinstance(model, TorchModel):
        raise UsageError(
            f"{source} is a graph, and a checkpoint is computed by PyTorch",
            expected="timm:NAME, hf:OWNER/NAME, a folder of timm or Transformers, or package.module:factory",
            fix="convert it with precision='fp32', and compare with that bundle",
        )
    card = identified(model.card)
    probe = _logits(model.module, np.zeros((*card.preprocessing.input_size, 3), np.uint8), card.preprocessing)
    outputs = len(probe)
    check_label_count(card.labels, max(outputs, 2), where=card.name)
    if not model.gives_logits and model.activation is None and probe.min() >= 0.0 and probe.max() <= 1.0:
        raise UsageError(
            f"the outputs of {source} look like scores, and nothing says how they are made",
            expected="a module that gives logits",
            fix="convert it, and evaluate the fp32 bundle",
        )
    activation = "softmax" if outputs == 1 or model.activation is None else model.activation
    return Original(str(source), card, activation, model.module)


def _logits(module: nn.Module, frame: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    (logits,) = one_image_logits(module, normalized(frame[None], preprocessing)[0])
    return np.asarray(logits)
