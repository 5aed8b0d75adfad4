"""A few random configurations of each library; ``benchmarks/preprocessing_parity.py`` runs many."""

from __future__ import annotations

import random

import preprocessing_parity
import pytest
from preprocessing_parity import (
    TIMM_CONFIG,
    Outcome,
    compare_processor,
    compare_timm,
    random_image,
    random_processor,
    random_timm,
)

from vitedge.errors import CheckpointError

GOOD = ("equal", "refused")
PROCESSOR = {"image_processor_type": "CLIPImageProcessor", "size": 64, "crop_size": 48}


def assert_good(outcome: Outcome) -> None:
    assert outcome.kind in GOOD, f"{outcome.detail}: {outcome.config}"


@pytest.mark.parametrize("seed", range(40))
def test_image_processors_at_random(seed: int) -> None:
    pytest.importorskip("transformers")
    rnd = random.Random(10_000 + seed)
    assert_good(compare_processor(random_processor(rnd), (random_image(rnd), random_image(rnd))))


@pytest.mark.parametrize("seed", range(40))
def test_timm_configurations_at_random(seed: int) -> None:
    rnd = random.Random(10_000 + seed)
    assert_good(compare_timm(random_timm(rnd), random_image(rnd)))


def test_the_comparison_fails_on_other_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guards of this test: another filter, another mean, another crop, a refusal without a reason."""
    pytest.importorskip("transformers")
    rnd = random.Random(0)
    images = (random_image(rnd), random_image(rnd))
    right = preprocessing_parity.processor_preprocessing
    assert compare_processor(PROCESSOR, images).kind == "equal"
    for changes in ({"resample": 2}, {"image_mean": 0.5}, {"crop_size": 46}, {"size": 66}):
        monkeypatch.setattr(
            preprocessing_parity,
            "processor_preprocessing",
            lambda config, changes=changes, **others: right({**config, **changes}, **others),
        )
        assert compare_processor(PROCESSOR, images).kind == "different"

    def refuse(*_: object, **__: object) -> None:
        raise CheckpointError("do_center_crop of x is False")

    monkeypatch.setattr(preprocessing_parity, "processor_preprocessing", refuse)
    monkeypatch.setattr(preprocessing_parity, "preprocessing_from", refuse)
    assert compare_processor(PROCESSOR, images).kind == "wrong reason"
    assert compare_timm({**TIMM_CONFIG, "architecture": None}, images[0]).kind == "wrong reason"
