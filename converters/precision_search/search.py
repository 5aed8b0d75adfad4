"""``--precision auto``: the fastest candidate that keeps a contract.

    Q/DQ graph ─▶ sensitivity ─▶ candidates ─▶ latency of all, in turns ─▶ loss, from the fastest on ─▶ choice

Candidates are int8, int8 with the most harmful layers in 16 bits, 16 bits, and fp32. All come from one calibration: a
mixed graph takes layers of the FP32 graph in the place of quantized ones, and nothing is searched again. Latency costs
seconds a candidate, loss costs every image of the evaluation. So the latency of all is measured first, and the loss in
the order of the measured medians: where the first candidate keeps the contract, all that are left were measured to be
slower, and none of them can win, whatever it loses. No candidate is assumed to be faster than another.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from vitedge.bundle.manifest import AutoRecord, CandidateRecord, ContractRecord
from vitedge.bundle.targets import Precision
from vitedge.calib.data.dataset import ImageDataset
from vitedge.calib.evaluation.accuracy import compare, predict, score
from vitedge.calib.evaluation.predictions import Predictions
from vitedge.calib.sensitivity.paired_graphs import Twins, mixed
from vitedge.calib.sensitivity.sensitivity import LayerSensitivity, Sensitivity, measure_sensitivity
from vitedge.converters.convert import Contract
from vitedge.converters.precision import half_weights
from vitedge.errors import CalibrationError, ConversionError, EngineError
from vitedge.prediction import StageTimes
from vitedge.progress import Progress
from vitedge.runtime.bench.measure import (
    FRAME_SIZE,
    WARM_UP_FACTOR,
    Samples,
    joined,
    synthetic_frames,
    take_turns,
    warm_up,
)
from vitedge.runtime.classifier import Classifier

SHARES = (0.5, 0.75, 0.875, 0.9375)
"""Of the noise that int8 adds to the logits: what a mixed candidate takes away. Each leaves half of what the one before
leaves, 3 dB."""

LATENCY_SECONDS = 4.0
"""Counted calls of each candidate, over all rounds."""

LEAST_JUDGED = 50
"""Images to judge by, where they are held back from calibration: each is 2 % then."""


@dataclass(frozen=True)
class Candidate:
    """What may become the bundle.

    Attributes:
        name: for people.
        precision: of its graph.
        float_layers: names of the quantized layers that it leaves in floating point.
    """

    name: str
    precision: Precision
    float_layers: tuple[str, ...] = ()


INT8, FP16, FP32 = Candidate("int8", "int8"), Candidate("fp16", "fp16"), Candidate("fp32", "fp32")


@dataclass(frozen=True)
class Latency:
    """Of a classification, as ``vitedge bench`` times it, in milliseconds."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Trial:
    """A candidate, measured.

    Attributes:
        candidate: what was tried.
        latency: of its engine.
        loss: against fp32, in points or percent; None where it was not measured.
    """

    candidate: Candidate
    latency: Latency
    loss: float | None


@dataclass(frozen=True)
class Choice:
    """What came out.

    Attributes:
        candidate: the one that was chosen.
        graph: its graph.
        record: for the manifest.
        sensitivity: of the int8 layers.
    """

    candidate: Candidate
    graph: onnx.ModelProto
    record: AutoRecord
    sensitivity: Sensitivity


@dataclass(frozen=True)
class Judged:
    """The images that candidates are judged by.

    Attributes:
        images: with classes or without.
        calibration_images: how many of them calibration used as well.
    """

    images: ImageDataset
    calibration_images: int


@dataclass(frozen=True)
class Judge:
    """What says how much a candidate loses.

    Attributes:
        images: to judge by.
        reference: what fp32 says of them.
        labelled: whether they have classes.
    """

    images: ImageDataset
    reference: Predictions
    labelled: bool

    @classmethod
    def of(cls, images: ImageDataset, reference: Classifier, progress: Progress) -> Judge:
        """Ask the reference."""
        progress.step(f"classifying {len(images)} images in fp32")
        (answers,) = predict([reference], images, progress)
        return cls(images, answers, images.is_labelled(reference.labels))

    def loss(self, classifier: Classifier, progress: Progress) -> float:
        """Points of top-1, or percent of images with another best class, that the classifier loses against fp32."""
        try:
            (answers,) = predict([classifier], self.images, progress)
        except EngineError:  # logits that are not finite, where 16 bits overflow
            return score(self.reference, self.images).top1 if self.labelled else 100.0
        if self.labelled:
            return score(self.reference, self.images).top1 - score(answers, self.images).top1
        return compare(answers, self.reference).flipped.percent


Opener: TypeAlias = Callable[[Candidate, onnx.ModelProto], AbstractContextManager[Classifier]]


def select(
    twins: Twins,
    frames: NDArray[np.uint8],
    judged: Judged,
    contract: Contract,
    opened: Opener,
    progress: Progress,
) -> Choice:
    """Try the candidates, and keep the fastest that meets the contract.

    Args:
        twins: the FP32 graph, and the Q/DQ graph that was made from it.
        frames: ``(N,H,W,3)`` uint8, preprocessed, to measure the layers on.
        judged: the images to judge by.
        contract: to keep.
        opened: compiles a candidate's graph as a device would; the classifier is closed here.
        progress: told of the steps.

    Raises:
        ConversionError: none meets the contract; the message says by how much each of them fails.
    """
    progress.step(f"measuring what each of {len(twins.layers)} layers loses in int8, on {len(frames)} images")
    sensitivity = measure_sensitivity(twins, frames, progress)
    with ExitStack() as stack:
        classifiers = {}
        for candidate in candidates(sensitivity):
            progress.step(f"compiling {candidate.name}")
            classifier = stack.enter_context(opened(candidate, graph_of(candidate, twins)))
            if candidate == FP32 or _answers(classifier):
                classifiers[candidate] = classifier
            else:
                progress.step(f"warning: {candidate.name} is left out: its logits are not finite")
        progress.step(f"timing {len(classifiers)} candidates in turns")
        latencies = measured_latencies(list(classifiers.values()), progress)
        judge = Judge.of(judged.images, classifiers[FP32], progress)
        record = _contract_record(contract, judge, judged)
        progress.step(f"judging by the {record.loss_name} on {record.images} images")
        _warn_of_coarseness(record, progress)

        def loss(candidate: Candidate) -> float:
            progress.step(f"measuring the loss of {candidate.name}")
            return judge.loss(classifiers[candidate], progress)

        trials, chosen = choose(list(zip(classifiers, latencies, strict=True)), loss, contract)
    if chosen is None:
        raise _missed(trials, record)
    return Choice(
        candidate=chosen,
        graph=graph_of(chosen, twins),
        record=AutoRecord(record, chosen.name, tuple(_recorded(each) for each in trials)),
        sensitivity=sensitivity,
    )


def split(images: ImageDataset, most: int) -> tuple[ImageDataset, ImageDataset]:
    """Images to calibrate on, and others to judge by, where no folder is given for that.

    Args:
        images: of the calibration folder.
        most: images to calibrate on. At least a quarter of all is held back.

    Raises:
        CalibrationError: too few would be held back.
    """
    calibration = min(most, len(images) * 3 // 4)
    if len(images) - calibration < LEAST_JUDGED:
        raise CalibrationError(
            f"{len(images)} images are too few to calibrate on and to judge by others",
            expected=f"{4 * LEAST_JUDGED} or more, of which a quarter is held back",
            fix="--eval DIR, with images to judge by",
        )
    return images.subset(images.files[:calibration]), images.subset(images.files[calibration:])


def candidates(sensitivity: Sensitivity) -> tuple[Candidate, ...]:
    """All that are tried, each once; ``FP32`` is the last.

    A mixed one takes layers in the order of the noise that they add to the logits for each product that they compute,
    so that little is slowed down for what is gained.
    """
    order = sorted(sensitivity.layers, key=lambda layer: _noise(layer) / max(layer.multiplications, 1), reverse=True)
    sums = np.cumsum([_noise(layer) for layer in order])
    counts = dict.fromkeys(int(np.searchsorted(sums, share * sums[-1])) + 1 for share in SHARES)
    mixes = (tuple(layer.name for layer in order[:count]) for count in counts if count < len(order))
    return (INT8, *(Candidate(f"int8, {_layers(mix)} in 16 bits", "int8", mix) for mix in mixes), FP16, FP32)


def graph_of(candidate: Candidate, twins: Twins) -> onnx.ModelProto:
    """Its graph."""
    match candidate.precision:
        case "fp32":
            return twins.full
        case "fp16":
            return half_weights(twins.full)
    return half_weights(mixed(twins, candidate.float_layers)) if candidate.float_layers else twins.quantized


def measured_latencies(classifiers: Sequence[Classifier], progress: Progress) -> list[Latency]:
    """Time all in turns, as ``vitedge bench`` does: ``classify`` on synthetic camera frames, warm."""
    frames = itertools.cycle(synthetic_frames(*FRAME_SIZE))
    calls = [partial(_stages, each, frames) for each in classifiers]
    for call in calls:
        warm_up(call, limit=WARM_UP_FACTOR * LATENCY_SECONDS)
    return latencies_of(take_turns(calls, LATENCY_SECONDS, progress))


def latencies_of(rounds: Sequence[Sequence[Samples]]) -> list[Latency]:
    """Of some engines that took turns.

    Args:
        rounds: of each engine, its samples round by round.

    Returns:
        The medians are compared within each round, where all met the same machine: that of an engine is its median
        share of a round, times the median round.
    """
    medians = np.array([[np.median(samples.milliseconds) for samples in each] for each in rounds])
    typical = medians.mean(axis=0)
    p50 = np.median(medians / typical, axis=1) * np.median(typical)
    p99 = [np.percentile(joined(each).milliseconds, 99) for each in rounds]
    return [Latency(float(middle), float(tail)) for middle, tail in zip(p50, p99, strict=True)]


def choose(
    measured: Sequence[tuple[Candidate, Latency]], loss: Callable[[Candidate], float], contract: Contract
) -> tuple[tuple[Trial, ...], Candidate | None]:
    """The fastest candidate that keeps a contract; all trials, from the fastest on.

    Args:
        measured: the candidates and their latencies.
        loss: measures a candidate's. It is asked from the fastest on, of those whose p99 is short enough, until one
            loses little enough; ``FP32``, which all are held against, loses nothing.
        contract: to keep.
    """
    trials, chosen = list[Trial](), None
    for candidate, latency in sorted(measured, key=lambda each: each[1].p50_ms):
        lost: float | None = 0.0 if candidate == FP32 else None
        if chosen is None and _in_time(latency, contract):
            lost = loss(candidate) if lost is None else lost
            chosen = candidate if lost <= contract.max_drop else None
        trials.append(Trial(candidate, latency, lost))
    return tuple(trials), chosen


def _warn_of_coarseness(contract: ContractRecord, progress: Progress) -> None:
    step = 100.0 / contract.images
    if step > contract.max_drop:
        progress.step(
            f"warning: one image of {contract.images} is {step:.2f} %, more than the {contract.max_drop:g} that "
            "may be lost"
        )


def _answers(classifier: Classifier) -> bool:
    """Whether it computes numbers: 16 bits may overflow."""
    try:
        classifier.classify(synthetic_frames(*FRAME_SIZE)[0])
    except EngineError:
        return False
    return True


def _in_time(latency: Latency, contract: Contract) -> bool:
    return contract.max_p99_ms is None or latency.p99_ms <= contract.max_p99_ms


def _noise(layer: LayerSensitivity) -> float:
    """Energy of what the layer alone adds to the logits, in parts of theirs."""
    return float(10.0 ** (-layer.only.sqnr_db / 10.0))


def _layers(names: Sequence[str]) -> str:
    return f"{len(names)} layer{'s' if len(names) > 1 else ''}"


def _stages(classifier: Classifier, frames: Iterator[NDArray[np.uint8]]) -> StageTimes:
    return classifier.classify(next(frames)).stages_ms


def _contract_record(contract: Contract, judge: Judge, judged: Judged) -> ContractRecord:
    return ContractRecord(
        max_drop=contract.max_drop,
        max_p99_ms=contract.max_p99_ms,
        loss="top1_drop" if judge.labelled else "flip_rate",
        images=len(judge.reference),
        sha256=judge.reference.sha256,
        calibration_images=judged.calibration_images,
    )


def _recorded(trial: Trial) -> CandidateRecord:
    candidate, latency = trial.candidate, trial.latency
    return CandidateRecord(
        candidate.name, candidate.precision, candidate.float_layers, latency.p50_ms, latency.p99_ms, trial.loss
    )


def _missed(trials: Sequence[Trial], contract: ContractRecord) -> ConversionError:
    failures = "".join(f"\n    {each.candidate.name}: {'; '.join(_failures(each, contract))}" for each in trials)
    limits = [f"a {contract.loss_name} of at most {contract.max_drop:g} {contract.unit}"]
    if contract.max_p99_ms is not None:
        limits.append(f"p99 of at most {contract.max_p99_ms:g} ms")
    return ConversionError(
        f"no precision meets the contract on {contract.images} images; nothing was written:{failures}",
        expected=" and ".join(limits),
        fix="allow more with --max-drop or --max-p99, calibrate with more images, or choose a smaller model",
    )


def _failures(trial: Trial, contract: ContractRecord) -> Iterator[str]:
    if contract.max_p99_ms is not None and trial.latency.p99_ms > contract.max_p99_ms:
        late = trial.latency.p99_ms - contract.max_p99_ms
        yield f"p99 is {trial.latency.p99_ms:.2f} ms, {late:.2f} ms too long"
    elif trial.loss is not None:
        excess = trial.loss - contract.max_drop
        yield f"loses {trial.loss:.2f} {contract.unit}, {excess:.2f} {contract.unit} too much"
