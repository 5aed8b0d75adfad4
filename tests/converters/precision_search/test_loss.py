"""Bounds of losses: they hold as often as they say, and images that cannot decide a contract are refused."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("onnx")

from vitedge.calib.evaluation.accuracy import Proportion
from vitedge.converters.precision_search.loss import check_decidable, flip_loss, top1_loss
from vitedge.errors import CalibrationError


@pytest.mark.parametrize("images", [100, 376, 2000])
@pytest.mark.parametrize(("lost", "gained"), [(0.0, 0.0), (0.01, 0.0), (0.02, 0.02), (0.05, 0.03)])
def test_the_true_loss_is_below_the_bound_in_about_95_of_100_samples(images: int, lost: float, gained: float) -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        kind = generator.random(images)
        candidate, reference = np.ones(images, np.bool_), np.ones(images, np.bool_)
        candidate[kind < lost] = False
        reference[(kind >= lost) & (kind < lost + gained)] = False
        loss = top1_loss(reference, candidate)
        assert loss.measured <= loss.bound
        held += 100 * (lost - gained) <= loss.bound
    assert held >= 920


def test_a_flip_rate_has_wilsons_bound() -> None:
    loss = flip_loss(Proportion(0, 100))
    assert (loss.measured, loss.bound) == (0.0, pytest.approx(2.634, abs=0.001))
    assert flip_loss(Proportion(100, 100)).bound == 100.0


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("max_drop", [0.1, 0.5, 2.0, 30.0])
def test_as_many_images_as_the_error_asks_for_can_decide(labelled: bool, max_drop: float) -> None:
    with pytest.raises(CalibrationError, match="cannot decide whether") as caught:
        check_decidable(3, max_drop, labelled=labelled)
    (enough,) = (int(number) for number in re.findall(r"at least (\d+) images", caught.value.expected))
    check_decidable(enough, max_drop, labelled=labelled)
    with pytest.raises(CalibrationError):
        check_decidable(enough - 1, max_drop, labelled=labelled)
    (allowed,) = (float(number) for number in re.findall(r"max_drop=([\d.]+)", caught.value.fix))
    check_decidable(3, allowed, labelled=labelled)


def test_fifty_images_cannot_decide_a_tenth_of_a_point() -> None:
    with pytest.raises(CalibrationError, match=r"50 images cannot decide .* at most 0\.1 points") as caught:
        check_decidable(50, 0.1, labelled=True)
    assert caught.value.expected == "at least 2703 images to measure losses on"
    assert caught.value.fix == "give more images, or allow max_drop=5.2"


def test_a_contract_of_nothing_is_decided_by_no_number_of_images() -> None:
    with pytest.raises(CalibrationError) as caught:
        check_decidable(100_000, 0.0, labelled=False)
    assert caught.value.expected == "a max_drop= above 0"
