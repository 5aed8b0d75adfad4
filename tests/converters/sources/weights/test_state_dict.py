from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vitedge.converters.sources.weights.state_dict import IncompatibleKeys, check_finite, shortened
from vitedge.errors import CheckpointError

FILE = Path("weights.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(value: float) -> None:
    with pytest.raises(CheckpointError, match=r"head\.scale in weights\.pth has NaN or infinite"):
        check_finite({"a": torch.ones(2), "head.scale": torch.tensor([1.0, value])}, FILE)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("key", ["fc.weight", "fc.bias"])
def test_weights_of_integers(dtype: torch.dtype, key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{key} in weights\.pth is of {dtype}"):
        check_finite({key: torch.ones(2, dtype=dtype)}, FILE)


def test_buffers_may_be_of_integers() -> None:
    check_finite({"relative_position_index": torch.ones(2, dtype=torch.int64), "mask": torch.ones(1).bool()}, FILE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types(dtype: torch.dtype) -> None:
    check_finite({"fc.weight": torch.ones(2, dtype=dtype)}, FILE)


def test_long_keys_are_cut() -> None:
    assert shortened(("a" * 1_000_000, "b")) == f"{'a' * 200}…, b"
    assert shortened(("a", "b", "c", "d")) == "a, b, c, …"


def test_what_differs_is_counted_and_escaped() -> None:
    error = IncompatibleKeys.between(
        {"a": torch.ones(2), "c": torch.ones(1)}, {"a": torch.ones(3), "\x1b[2J": torch.ones(1)}
    )
    text = str(error.error("weights.pth", fix="give others"))
    assert "1 missing (c)" in text
    assert r"1 unexpected (\x1b[2J)" in text
    assert "1 of the wrong shape (a (3,) for (2,))" in text
