"""Logits become scores, ranked classes and accepted labels; what cannot be ranked is an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from vitedge.errors import EngineError, UsageError
from vitedge.metrics import sigmoid, softmax
from vitedge.runtime.postprocess import Postprocessor
from vitedge.testing import FAKE_INFO

logits_of_some_length = arrays(np.float32, st.integers(1, 40), elements=st.floats(-50, 50, width=32))
with_ties = arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-1.0, 0.0, 0.0, 2.0]))


def postprocessor(labels: int, **options: Any) -> Postprocessor:
    defaults = {"temperature": 1.0, "threshold": 0.0, "activation": "softmax", "thresholds": None}
    return Postprocessor(FAKE_INFO, [f"class {index}" for index in range(labels)], **{**defaults, **options})


@given(logits_of_some_length | with_ties, st.integers(1, 50))
def test_ranking_is_a_stable_sort_of_the_softmax(logits: NDArray[np.float32], topk: int) -> None:
    ranked = postprocessor(len(logits)).rank(logits, topk)
    order = sorted(range(len(logits)), key=lambda index: (-logits[index], index))[:topk]
    assert [each.index for each in ranked] == order
    assert [each.label for each in ranked] == [f"class {index}" for index in order]
    assert np.allclose([each.score for each in ranked], softmax(logits)[order], rtol=1e-4, atol=1e-7)
    assert order[0] == int(logits.argmax())


@given(logits_of_some_length, st.sampled_from([0.25, 1.0, 3.0]))
def test_scores_are_those_of_the_logits_over_the_temperature(logits: NDArray[np.float32], temperature: float) -> None:
    plain = postprocessor(len(logits))
    ranked = postprocessor(len(logits), temperature=temperature).rank(logits, 5)
    assert [each.index for each in ranked] == [each.index for each in plain.rank(logits, 5)]
    expected = softmax(logits / np.float32(temperature))[[each.index for each in ranked]]
    assert np.allclose([each.score for each in ranked], expected, rtol=1e-3, atol=1e-7)


@given(logits_of_some_length | with_ties, st.integers(1, 50))
def test_the_scores_of_a_multilabel_model_are_the_sigmoid_of_each_logit(logits: NDArray[np.float32], topk: int) -> None:
    ranked = postprocessor(len(logits), activation="sigmoid").rank(logits, topk)
    order = sorted(range(len(logits)), key=lambda index: (-logits[index], index))[:topk]
    assert [each.index for each in ranked] == order
    expected = 1.0 / (1.0 + np.exp(-logits[order].astype(np.float64)))
    assert np.allclose([each.score for each in ranked], expected, rtol=1e-6, atol=1e-12)


@given(logits_of_some_length, st.data())
def test_a_multilabel_model_accepts_every_label_that_reaches_its_threshold(
    logits: NDArray[np.float32], data: st.DataObject
) -> None:
    scores = st.lists(st.floats(0, 1), min_size=len(logits), max_size=len(logits))
    thresholds = tuple(data.draw(scores))
    decision = postprocessor(len(logits), activation="sigmoid", thresholds=thresholds)(logits, topk=1)
    assert decision.accepted is not None
    expected = {index for index, logit in enumerate(sigmoid(logits)) if float(logit) >= thresholds[index]}
    assert {each.index for each in decision.accepted} == expected
    found = [each.score for each in decision.accepted]
    assert found == sorted(found, reverse=True)
    assert decision.abstained == (not expected)
    assert len(decision.topk) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"activation": "relu"}, "the activation is 'relu'"),
        ({"thresholds": (0.5, 0.5, 0.5)}, "thresholds= is for activation='sigmoid'"),
        ({"activation": "sigmoid", "thresholds": (0.5,)}, "1 threshold"),
        ({"activation": "sigmoid", "temperature": 2.0}, "temperature= and threshold= are for activation='softmax'"),
        ({"activation": "sigmoid", "threshold": 0.2}, "temperature= and threshold= are for activation='softmax'"),
    ],
)
def test_options_of_another_activation_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        postprocessor(3, **options)
    assert caught.value.problem == problem


def test_only_a_multilabel_model_accepts_labels() -> None:
    with pytest.raises(UsageError, match="one class an image"):
        postprocessor(3).accept(np.zeros(3, np.float32))


@pytest.mark.parametrize("topk", [0, -1])
def test_less_than_one_class_is_refused(topk: int) -> None:
    with pytest.raises(UsageError, match=f"topk is {topk}"):
        postprocessor(3).rank(np.zeros(3, np.float32), topk)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_an_engine_error(poison: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        postprocessor(3).rank(np.array([1, poison, 3], np.float32), 1)


@pytest.mark.parametrize("logits", [[1, 2], [1, 2, 3, 4], []])
def test_another_number_of_logits_than_labels_is_an_engine_error(logits: list[float]) -> None:
    with pytest.raises(EngineError, match=f"gave {len(logits)} logits") as caught:
        postprocessor(3).rank(np.array(logits, np.float32), 1)
    assert "3, one for each label" in caught.value.expected
