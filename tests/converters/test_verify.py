from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vitedge.bundle.targets import Precision
from vitedge.bundle.verification_records import LEAST_DEMANDED_DB
from vitedge.converters.reference import graph_logits, module_logits
from vitedge.converters.rewrites.apply import Rewritten
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.verify import ENGINE_GATES, check_source, demanded_sqnr, golden_frames, synthetic_frames
from vitedge.errors import ConversionError
from vitedge.metrics import sqnr_db
from vitedge.safety.limits import GOLDEN_BYTES

Logits = NDArray[np.float32]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def logits_of(count: int = 8, classes: int = 10) -> Logits:
    return np.random.default_rng(0).normal(0, 3, (count, classes)).astype(np.float32)


def with_sqnr(logits: Logits, decibels: float) -> Logits:
    """Logits with noise that far below them."""
    noise = np.random.default_rng(1).standard_normal(logits.shape)
    noise *= np.sqrt(np.square(logits).sum() / np.square(noise).sum() / 10 ** (decibels / 10))
    return (logits + noise).astype(np.float32)


class TestSyntheticFrames:
    def test_they_are_always_the_same(self) -> None:
        frames = synthetic_frames((40, 56))
        assert (frames.shape, frames.dtype) == ((8, 40, 56, 3), np.uint8)
        np.testing.assert_array_equal(frames, synthetic_frames((40, 56)))

    def test_they_differ_from_each_other_and_between_channels(self) -> None:
        frames = synthetic_frames((64, 64)).astype(float)
        planes = frames.transpose(0, 3, 1, 2).reshape(24, -1)
        correlation = np.corrcoef(planes) - np.eye(24)
        assert np.abs(correlation).max() < 0.9
        assert planes.std(axis=1).min() > 20

    def test_their_energy_falls_with_frequency_as_in_photos(self) -> None:
        plane = synthetic_frames((128, 128))[0, :, :, 0].astype(float)
        power = np.abs(np.fft.fft2(plane - plane.mean())) ** 2
        assert power[1:4, 1:4].mean() > 50 * power[40:60, 40:60].mean()


class TestSource:
    def test_rounding_passes(self) -> None:
        logits = logits_of()
        result = check_source(logits, logits + np.float32(1e-6))
        assert result.sqnr_db > 100

    @pytest.mark.parametrize("wrong", [2.0, 0.0, -1.0, 1.001, np.nan])
    def test_anything_else_does_not(self, wrong: float) -> None:
        with pytest.raises(ConversionError, match="differs from the model"):
            check_source(logits_of(), logits_of() * np.float32(wrong))

    def test_one_wrong_logit_is_enough(self) -> None:
        graph = logits_of()
        graph[3, 4] += 0.01
        with pytest.raises(ConversionError, match="differs from the model"):
            check_source(logits_of(), graph)

    @pytest.mark.parametrize("change", ["channels", "mean", "scale"])
    def test_a_wrong_normalization_is_caught(
        self, change: str, small_model: TorchModel, small_graph: Rewritten, frames: NDArray[np.uint8]
    ) -> None:
        preprocessing = small_model.card.preprocessing
        source = module_logits(small_model.module, frames, preprocessing)
        changed = {
            "channels": frames[..., ::-1],
            "mean": np.clip(frames.astype(int) + 1, 0, 255).astype(np.uint8),
            "scale": (frames * 0.99).astype(np.uint8),
        }[change]
        with pytest.raises(ConversionError, match="differs from the model"):
            check_source(source, graph_logits(small_graph.graph, changed, preprocessing))


class TestEngine:
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_a_device_is_asked_for_less_than_the_host_reached(self, precision: Precision) -> None:
        gate = ENGINE_GATES[precision]
        for reached in (gate.floor + 0.5, gate.floor + 8, gate.cap + 20):
            demanded = demanded_sqnr(logits_of(), with_sqnr(logits_of(), reached), precision)
            assert gate.floor <= demanded <= min(reached, gate.cap)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_less_than_the_floor_is_refused(self, precision: Precision) -> None:
        gate = ENGINE_GATES[precision]
        with pytest.raises(ConversionError, match="engine differs from its graph"):
            demanded_sqnr(logits_of(), with_sqnr(logits_of(), gate.floor - 0.5), precision)

    @pytest.mark.parametrize("precision", ["fp16", "int8"])
    def test_less_is_demanded_of_random_weights(self, precision: Precision) -> None:
        gate, golden = ENGINE_GATES[precision], logits_of()
        reached = with_sqnr(golden, gate.random_floor + 1)
        assert demanded_sqnr(golden, reached, precision, random_weights=True) == gate.random_floor
        with pytest.raises(ConversionError, match="engine differs from its graph"):
            demanded_sqnr(golden, with_sqnr(golden, gate.random_floor - 1), precision, random_weights=True)

    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("factor", [2.0, 0.0, np.nan])
    def test_wrong_outputs_are_refused(self, precision: Precision, factor: float) -> None:
        with pytest.raises(ConversionError, match="engine differs from its graph"):
            demanded_sqnr(logits_of(), logits_of() * np.float32(factor), precision)


def one_nan(logits: Logits) -> Logits:
    logits[3, 4] = np.nan
    return logits


FREE: dict[str, Callable[[Logits], Any]] = {
    "NaN": lambda logits: np.full_like(logits, np.nan),
    "infinity": lambda logits: np.full_like(logits, np.inf),
    "one NaN": one_nan,
    "zeros": np.zeros_like,
    "one number": lambda logits: np.full_like(logits, 7.0),
    "complex": lambda logits: logits.astype(np.complex64),
    "text": lambda logits: logits.astype("U8"),
    "objects": lambda logits: logits.astype(object),
    "dates": lambda logits: logits.astype("datetime64[s]"),
    "no classes": lambda logits: logits[:, :0],
}


@pytest.mark.parametrize("change", FREE.values(), ids=FREE)
def test_references_that_any_or_no_engine_would_pass_are_refused(change: Callable[[Logits], Any]) -> None:
    """A reference is compared even with itself here."""
    reference = change(logits_of())
    for check in (
        lambda: check_source(reference, reference),
        lambda: demanded_sqnr(reference, reference, "fp32"),
    ):
        with pytest.raises(ConversionError, match=r"NaN or infinite|for every class and image|of shape") as caught:
            check()
        assert caught.value.expected


def test_no_bundle_demands_less_than_random_weights_do() -> None:
    assert min(each for gate in ENGINE_GATES.values() for each in (gate.floor, gate.random_floor)) == LEAST_DEMANDED_DB
    golden = logits_of()
    demanded = [
        demanded_sqnr(golden, with_sqnr(golden, 50.5), precision, random_weights=True) for precision in ENGINE_GATES
    ]
    assert min(demanded) >= LEAST_DEMANDED_DB


def test_golden_frames_fit_into_what_is_read_of_them() -> None:
    assert golden_frames(np.zeros((64, 224, 224, 3), np.uint8)).shape == (8, 224, 224, 3)
    assert golden_frames(np.zeros((3, 224, 224, 3), np.uint8)).shape == (3, 224, 224, 3)
    large = golden_frames(np.broadcast_to(np.uint8(0), (64, 2048, 2048, 3)))
    assert len(large) == 5
    assert large.nbytes < GOLDEN_BYTES
    with pytest.raises(ConversionError, match="8192x8192 is too large") as caught:
        golden_frames(np.broadcast_to(np.uint8(0), (1, 8192, 8192, 3)))
    assert "input_size=" in caught.value.fix


def test_with_sqnr_is_right() -> None:
    assert sqnr_db(logits_of(), with_sqnr(logits_of(), 30)) == pytest.approx(30, abs=0.1)
