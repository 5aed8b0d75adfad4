"""The activation of a classifier's head: by the checkpoint, by the graph, or by the user."""

from __future__ import annotations

from vitedge.bundle.model_card import Activation
from vitedge.errors import CheckpointError

SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
"""Values of ``problem_type`` in Transformers."""


def activation_of_problem(problem_type: object, logits: int, where: str) -> Activation:
    """Return the activation of a model of Transformers, as its own pipeline chooses it.

    Args:
        problem_type: of ``config.json``; None if it has none.
        logits: number of logits.
        where: path of ``config.json``, for errors.

    Raises:
        CheckpointError: the model is no classifier, or the value is unknown.
    """
    if problem_type == REGRESSION:
        raise CheckpointError(
            f"{where} has the problem_type {REGRESSION}: the outputs are measures, and no scores of classes",
            expected=f"a classifier: {SINGLE_LABEL} or {MULTI_LABEL}",
            fix=f"set problem_type to {MULTI_LABEL}, if it was trained to tell one label" if logits == 1 else "",
        )
    if problem_type not in (None, SINGLE_LABEL, MULTI_LABEL):
        raise CheckpointError(
            f"{where} has the problem_type {problem_type!r:.60}", expected=f"{SINGLE_LABEL} or {MULTI_LABEL}"
        )
    return "sigmoid" if problem_type == MULTI_LABEL or (problem_type is None and logits == 1) else "softmax"
