"""Postprocessing: from the logits of an image to scores, ranked classes, and what a threshold accepts of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.model_card import LABEL_THRESHOLD, Activation
from vitedge.counts import counted
from vitedge.errors import EngineError, UsageError
from vitedge.metrics import reach, sigmoid
from vitedge.prediction import ClassScore
from vitedge.runtime.engines.base import EngineInfo


@dataclass(frozen=True)
class Decision:
    """What the logits of one image say.

    Attributes:
        topk: the best classes, best first.
        abstained: whether the best class does not reach the threshold, or no label its own.
        accepted: the labels that reach their thresholds; None for one class an image.
    """

    topk: tuple[ClassScore, ...]
    abstained: bool
    accepted: tuple[ClassScore, ...] | None


class Postprocessor:
    """Ranks the classes of logits; safe in any thread.

    Args:
        engine: gave the logits, for errors.
        labels: one for each logit.
        temperature: the logits are divided by it before the softmax.
        threshold: predictions with a lower score abstain, 0…1.
        activation: ``softmax`` for one class an image, ``sigmoid`` for any number of labels an image (multi-label).
        thresholds: with ``sigmoid``, the score that each label must reach, 0…1; by default 0.5 for every label.

    Raises:
        UsageError: ``temperature`` or ``threshold`` is given with ``sigmoid``, or ``thresholds`` with ``softmax``; or
            there is not one threshold for each label.
    """

    def __init__(
        self,
        engine: EngineInfo,
        labels: Sequence[str],
        *,
        temperature: float,
        threshold: float,
        activation: Activation,
        thresholds: Sequence[float] | None,
    ) -> None:
        self._engine = engine
        self.labels = tuple(labels)
        self.temperature = temperature
        self.threshold = threshold
        self.activation: Activation = activation
        self.thresholds = self._label_thresholds(thresholds)

    def __call__(self, logits: NDArray[np.float32], topk: int) -> Decision:
        """Rank the classes and apply the thresholds; errors as for ``rank``."""
        best = self.rank(logits, topk)
        accepted = None if self.thresholds is None else self.accept(logits)
        abstained = best[0].score < self.threshold if accepted is None else not accepted
        return Decision(best, abstained, accepted)

    def rank(self, logits: NDArray[np.float32], topk: int) -> tuple[ClassScore, ...]:
        """Return the ``topk`` best classes, best first; ties in the order of their index.

        Raises:
            UsageError: ``topk`` is less than 1.
            EngineError: the logits are not finite, or there is not one for each label.
        """
        peak = self._peak(logits, topk)
        best = _best(logits, min(topk, logits.size))
        return self._scored(best, self._scores(logits, peak)[best])

    def accept(self, logits: NDArray[np.float32]) -> tuple[ClassScore, ...]:
        """Return the labels whose scores reach their thresholds, best first.

        Raises:
            UsageError: there is one class an image.
            EngineError: the logits are not finite, or there is not one for each label.
        """
        if self.thresholds is None:
            raise UsageError(
                "this classifier gives one class an image", expected="a classifier with activation='sigmoid'"
            )
        scores = self._scores(logits, self._peak(logits))
        reached = np.flatnonzero(reach(scores, self.thresholds))
        order = reached[np.argsort(-logits[reached], kind="stable")]
        return self._scored(order, scores[order])

    def _label_thresholds(self, thresholds: Sequence[float] | None) -> tuple[float, ...] | None:
        """Return one threshold for each label of a multi-label model; None for one class an image."""
        if self.activation == "softmax":
            if thresholds is not None:
                raise UsageError("thresholds= is for activation='sigmoid'", fix="threshold=, one score for all classes")
            return None
        if self.activation != "sigmoid":
            raise UsageError(f"the activation is {self.activation!r}", expected="softmax or sigmoid")
        if self.temperature != 1.0 or self.threshold != 0.0:
            raise UsageError(
                "temperature= and threshold= are for activation='softmax'", fix="thresholds=, one score for each label"
            )
        if thresholds is None:
            return (LABEL_THRESHOLD,) * len(self.labels)
        if len(thresholds) != len(self.labels):
            raise UsageError(
                f"{counted(len(thresholds), 'threshold')}", expected=f"{len(self.labels)}, one for each label"
            )
        return tuple(thresholds)

    def _scored(self, indices: NDArray[np.intp], scores: NDArray[np.float32]) -> tuple[ClassScore, ...]:
        return tuple(
            ClassScore(self.labels[index], index, score)
            for index, score in zip(indices.tolist(), scores.tolist(), strict=True)
        )

    def _scores(self, logits: NDArray[np.float32], peak: np.float32) -> NDArray[np.float32]:
        """Return the ``(classes,)`` float32 scores of finite logits, of which ``peak`` is the largest."""
        if self.activation == "sigmoid":
            return sigmoid(logits)
        weights = np.exp((logits - peak) / self.temperature)
        return np.asarray(weights / weights.sum())

    def _peak(self, logits: NDArray[np.float32], topk: int = 1) -> np.float32:
        """Return the largest logit.

        Raises:
            UsageError: ``topk`` is less than 1.
            EngineError: the logits are not finite, or there is not one for each label.
        """
        peak: np.float32 = logits.max(initial=-math.inf)
        least = float(logits.min(initial=math.inf))
        if topk < 1 or not math.isfinite(float(peak) - least) or logits.size != len(self.labels):
            raise self._unrankable(logits, topk)
        return peak

    def _unrankable(self, logits: NDArray[np.float32], topk: int) -> UsageError | EngineError:
        if topk < 1:
            return UsageError(f"topk is {topk}", expected="1 or more")
        if logits.size != len(self.labels):
            return EngineError(
                f"the engine gave {counted(logits.size, 'logit')}", expected=f"{len(self.labels)}, one for each label"
            )
        return EngineError(
            f"{self._engine.name} gave logits that are not finite numbers",
            expected="finite logits",
            fix=f"{self._engine.effective_precision} overflows on this machine: convert with another precision",
        )


def _best(logits: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return the indices of the ``count`` largest logits in descending order, without sorting all of them."""
    threshold = np.partition(logits, logits.size - count)[logits.size - count]
    candidates: NDArray[np.intp] = (logits >= threshold).nonzero()[0]
    order = (-logits[candidates]).argsort(kind="stable")
    return candidates[order[:count]]
