"""The gate before a bundle is published: its engine against fp32, on images that calibration has not used.

    fp32's logits ──────────────┐
    the engine's logits ────────┼─▶ compare ─▶ LogitComparison ─▶ judge ─▶ publish, warn or refuse
    fp32's logits, ±1 level ────┘

A loss of precision that changes the logits about as much as one level of every pixel does is fp32's own noise: a camera
changes more from frame to frame. A loss beyond that is the precision's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.model_card import Activation
from vitedge.bundle.targets import Precision
from vitedge.bundle.verification_records import GATE_INPUTS, GateInputs
from vitedge.converters.reference import Frames, Logits, check_reference
from vitedge.errors import ConversionError
from vitedge.metrics import ONE_SIDED_Z_95, Parity, parity, wilson_interval

LEAST_AGREEMENT = 90.0
"""Percent of images with fp32's answer. Below it, the gate warns, or refuses what fp32's noise does not explain."""
LEAST_AGREEING_DB = 20.0
"""The same for the SQNR against fp32, in dB: errors of a tenth of the logits."""
EXPLAINED_DB = 20.0
"""The noise explains an SQNR that is lower than its own by at most this: errors ten times larger. Trained models lie 0
to 12 dB lower in int8, and networks with random weights up to 20 dB."""
HOPELESS_DB = 5.0
"""Nothing explains a lower SQNR: zeros reach 0 dB."""
NEAR_TIE = 3.0
"""The noise explains another answer where fp32 prefers its own by at most so many standard deviations of the noise."""
NOISE_SEED = 2026


@dataclass(frozen=True)
class GateFrames:
    """The frames that a bundle is judged on.

    Attributes:
        frames: ``(N,H,W,3)`` uint8, preprocessed.
        inputs: their origin: images that calibration has not used, images that it used, or no images at all.
    """

    frames: Frames
    inputs: GateInputs


@dataclass(frozen=True)
class Reference:
    """fp32's logits for the frames, and what its own noise does to them.

    Attributes:
        logits: ``(N, classes)``.
        noisy: ``(N, classes)`` logits for the frames of ``noisy_frames``.
        activation: of the model.
    """

    logits: Logits
    noisy: Logits
    activation: Activation

    def __post_init__(self) -> None:
        check_reference(self.logits, "the fp32 graph")
        check_reference(self.noisy, "the fp32 graph, for images with noise of one level,")

    def first(self, count: int) -> Reference:
        """Return the reference for the first frames."""
        return Reference(self.logits[:count], self.noisy[:count], self.activation)

    @property
    def sqnr_db(self) -> float:
        """Return the SQNR of the noisy logits, in dB."""
        return parity(self.logits, self.noisy).sqnr_db


@dataclass(frozen=True)
class LogitComparison:
    """The engine's logits against fp32's.

    Attributes:
        parity: of the logits.
        noise_sqnr_db: SQNR of fp32's own noise, in dB.
        flips: number of images with another answer: another best class, or other labels of a multi-label model.
        unexplained_flips: number of these that are no near tie for fp32.
    """

    parity: Parity
    noise_sqnr_db: float
    flips: int
    unexplained_flips: int

    @property
    def agreement(self) -> float:
        """Return the percentage of images with the same answer."""
        return 100.0 * (1 - self.flips / self.parity.images)

    @property
    def explained_agreement(self) -> float:
        """Return the upper bound, with 95 % confidence, of the percentage of answers that the noise explains.

        Few images that disagree by chance are no reason to refuse a bundle.
        """
        images = self.parity.images
        return wilson_interval(images - self.unexplained_flips, images, z=ONE_SIDED_Z_95).high

    @property
    def explained_sqnr_db(self) -> float:
        """Return the lowest SQNR that the noise explains, in dB."""
        return max(HOPELESS_DB, min(LEAST_AGREEING_DB, self.noise_sqnr_db - EXPLAINED_DB))


def noisy_frames(frames: Frames) -> Frames:
    """Raise or lower every value by one level at random, always in the same way; 0 and 255 stay within their range."""
    rises = np.random.default_rng(NOISE_SEED).integers(0, 2, frames.shape, dtype=np.uint8).view(np.bool_)
    higher, lower = np.minimum(frames, 254) + np.uint8(1), np.maximum(frames, 1) - np.uint8(1)
    return np.asarray(np.where(rises, higher, lower))


def compare(reference: Reference, reduced: Logits) -> LogitComparison:
    """Compare the logits of a bundle's engine with fp32's.

    Args:
        reference: fp32's logits.
        reduced: ``(N, classes)`` logits of the engine.
    """
    margins = _sigmoid_margins if reference.activation == "sigmoid" else _softmax_margins
    flipped = margins(reference, reduced)
    return LogitComparison(
        parity=parity(reference.logits, reduced),
        noise_sqnr_db=reference.sqnr_db,
        flips=len(flipped),
        unexplained_flips=int(np.sum(flipped > NEAR_TIE)),
    )


def _softmax_margins(reference: Reference, reduced: Logits) -> NDArray[np.float64]:
    """Return, for each image with another best class, by how much fp32 prefers its own, in deviations of the noise."""
    logits, change = reference.logits.astype(np.float64), reference.noisy.astype(np.float64) - reference.logits
    images, best, other = np.arange(len(logits)), logits.argmax(axis=1), reduced.argmax(axis=1)
    against_best = change[images, best][:, None] - change
    deviation = np.sqrt(np.square(against_best).sum() / max(change.size - len(change), 1))
    return _deviations((logits[images, best] - logits[images, other])[best != other], deviation)


def _sigmoid_margins(reference: Reference, reduced: Logits) -> NDArray[np.float64]:
    """Return the same for each image with other labels: how far the clearest label that changed was from its threshold.

    A label is given from a score of 0.5 on: a logit of 0.
    """
    logits, change = reference.logits.astype(np.float64), reference.noisy.astype(np.float64) - reference.logits
    changed = (logits >= 0) != (reduced >= 0)
    clearest = np.where(changed, np.abs(logits), 0.0).max(axis=1)
    return _deviations(clearest[changed.any(axis=1)], np.sqrt(np.square(change).mean()))


def _deviations(margins: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Divide by the deviation of the noise; a margin of 0 is a tie even without noise."""
    return np.where(margins > 0, margins / max(deviation, np.finfo(np.float64).tiny), 0.0)


def judge(
    reference: Reference, reduced: Logits, precision: Precision, inputs: GateInputs, *, random_weights: bool
) -> tuple[LogitComparison, str | None]:
    """Decide whether a bundle may be published.

    Synthetic frames are judged by SQNR alone, because a best class of noise means nothing; so are random weights.

    Args:
        reference: fp32's logits.
        reduced: ``(N, classes)`` logits of the bundle's engine.
        precision: of the bundle.
        inputs: the origin of the frames.
        random_weights: whether the weights of the model are random.

    Returns:
        The comparison, and a warning; None where nothing is to be warned of.

    Raises:
        ConversionError: the bundle differs from fp32 by more than fp32's own noise explains.
    """
    if not np.all(np.isfinite(reduced)):
        raise _refusal(f"{precision} gives NaN or infinite logits on {GATE_INPUTS[inputs]}", "finite logits", precision)
    found = compare(reference, reduced)
    by_answers = inputs != "synthetic" and not random_weights
    measured = f"{precision} differs from the fp32 graph: {describe(found, inputs, by_answers=by_answers)}"
    if found.parity.sqnr_db < found.explained_sqnr_db:
        raise _refusal(measured, f"at least {found.explained_sqnr_db:.1f} dB, because {_noise(found)}", precision)
    if by_answers and found.explained_agreement < LEAST_AGREEMENT:
        raise _refusal(
            f"{measured}; on {found.unexplained_flips} of them fp32 decides clearly",
            f"the same answer on {LEAST_AGREEMENT:.0f} % of the images on which fp32 decides clearly: {_noise(found)}",
            precision,
        )
    low = found.parity.sqnr_db < LEAST_AGREEING_DB or (by_answers and found.agreement < LEAST_AGREEMENT)
    return found, f"warning: {measured}; but {_noise(found)}" if low else None


def describe(found: LogitComparison, inputs: GateInputs, *, by_answers: bool) -> str:
    """Describe a comparison in a phrase."""
    images = f"{found.parity.images} {GATE_INPUTS[inputs]}"
    if not by_answers:
        return f"SQNR {found.parity.sqnr_db:.1f} dB on {images}"
    return f"SQNR {found.parity.sqnr_db:.1f} dB, another answer on {found.flips} of {images}"


def _noise(found: LogitComparison) -> str:
    return f"one level more or less in every pixel leaves fp32 itself {found.noise_sqnr_db:.1f} dB"


def _refusal(problem: str, expected: str, precision: Precision) -> ConversionError:
    fixes = {"fp32": "try another version of the engine's library", "fp16": "precision='fp32'"}
    calibrate = "precision='fp16', or calibrate with images like those the camera will see"
    return ConversionError(problem, expected=expected, fix=fixes.get(precision, calibrate))
