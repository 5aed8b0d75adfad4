"""The precision ``auto``: search the fastest candidate that meets a contract.

    Q/DQ graph ─▶ sensitivity ─▶ candidates ─▶ latency of all, in turns ─▶ loss, from the fastest on ─▶ choice

The candidates are int8, int8 with the most harmful layers in 16 bits, fp16 and fp32. They share one calibration: a
mixed graph replaces some quantized layers by the layers of the FP32 graph. A latency takes seconds to measure, a loss
takes a classification of every evaluation image. So the search first measures all latencies, and then the losses from
the fastest candidate on. It stops at the first candidate that meets the contract, because all others are slower. No
candidate is assumed to be faster than another.
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

from vitedge.bundle.model_card import Activation
from vitedge.bundle.precision_records import AutoRecord, CandidateRecord, ContractRecord
from vitedge.bundle.targets import Precision
from vitedge.calib.data.dataset import ImageDataset
from vitedge.calib.evaluation.accuracy import Proportion, compare, predict, score
from vitedge.calib.evaluation.multilabel import compare_labels
from vitedge.calib.evaluation.predictions import Predictions
from vitedge.calib.sensitivity.paired_graphs import PairedGraphs, mixed
from vitedge.calib.sensitivity.result import Sensitivity, by_noise_per_product
from vitedge.calib.sensitivity.sensitivity import measure_sensitivity
from vitedge.converters.precision_search.loss import Loss, flip_loss, top1_loss
from vitedge.converters.request import Contract
from vitedge.counts import counted
from vitedge.errors import ConversionError, EngineError
from vitedge.prediction import StageTimes
from vitedge.progress import Progress
from vitedge.runtime.bench.measure import FRAME_SIZE, WARM_UP_FACTOR, random_frames
from vitedge.runtime.bench.timing import Samples, concatenate, take_turns, warm_up
from vitedge.runtime.classifier import Classifier

SHARES = (0.5, 0.75, 0.875, 0.9375)
"""Shares of int8's noise in the logits that the mixed candidates remove. Each leaves half as much noise as the one
before it, 3 dB less."""

LATENCY_SECONDS = 4.0
"""Duration of the counted calls of each candidate, over all rounds."""


@dataclass(frozen=True)
class PrecisionConfig:
    """A candidate for the bundle: a precision, and the layers that do not take part in it.

    Attributes:
        name: for people.
        precision: of its graph.
        float_layers: names of the layers that stay in floating point.
    """

    name: str
    precision: Precision
    float_layers: tuple[str, ...] = ()


INT8, FP16, FP32 = PrecisionConfig("int8", "int8"), PrecisionConfig("fp16", "fp16"), PrecisionConfig("fp32", "fp32")
NOTHING = Loss(0.0, 0.0)


@dataclass(frozen=True)
class CandidateLatency:
    """The time of a classification, as ``vitedge.bench`` measures it, in milliseconds."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Trial:
    """A measured candidate.

    Attributes:
        candidate: the candidate.
        latency: of its engine.
        loss: against fp32; None where it was not measured.
    """

    candidate: PrecisionConfig
    latency: CandidateLatency
    loss: Loss | None


@dataclass(frozen=True)
class Choice:
    """The result of a search.

    Attributes:
        candidate: the chosen candidate.
        graph: its graph.
        record: the search, for the manifest.
        sensitivity: of the int8 layers.
    """

    candidate: PrecisionConfig
    graph: onnx.ModelProto
    record: AutoRecord
    sensitivity: Sensitivity


@dataclass(frozen=True)
class SelectionImages:
    """The images that losses are measured on.

    Attributes:
        images: with classes or without.
        calibration_images: number of them that calibration used as well.
    """

    images: ImageDataset
    calibration_images: int


@dataclass(frozen=True)
class LossMeter:
    """Measures how much a candidate loses against fp32.

    Attributes:
        images: the images to measure on.
        reference: the predictions of fp32 for them.
        labelled: whether the images have classes.
    """

    images: ImageDataset
    reference: Predictions
    labelled: bool

    @classmethod
    def of(cls, images: ImageDataset, reference: Classifier, progress: Progress) -> LossMeter:
        """Classify the images with the reference."""
        progress.step(f"classifying {counted(len(images), 'image')} in fp32")
        (predictions,) = predict([reference], images, progress)
        labelled = reference.thresholds is None and images.is_labelled(reference.labels)
        return cls(images, predictions, labelled)

    def loss(self, classifier: Classifier, progress: Progress) -> Loss:
        """Measure the loss of a classifier: points of top-1, or percent of images with another best class.

        The loss of a multi-label model is the percent of images that get other labels.
        """
        try:
            (predictions,) = predict([classifier], self.images, progress)
        except EngineError:  # logits that are not finite, where 16 bits overflow
            return self._total_loss()
        if self.labelled:
            return top1_loss(self._correct(self.reference), self._correct(predictions))
        if predictions.thresholds is not None:
            return flip_loss(compare_labels(predictions, self.reference).flipped)
        return flip_loss(compare(predictions, self.reference).flipped)

    def _total_loss(self) -> Loss:
        if not self.labelled:
            return flip_loss(Proportion(len(self.reference), len(self.reference)))
        correct = self._correct(self.reference)
        return top1_loss(correct, np.zeros_like(correct))

    def _correct(self, predictions: Predictions) -> NDArray[np.bool_]:
        return score(predictions, self.images).correct


Reduce: TypeAlias = Callable[[onnx.ModelProto, Precision], onnx.ModelProto]
Opener: TypeAlias = Callable[[PrecisionConfig, onnx.ModelProto], AbstractContextManager[Classifier]]


def select(
    pair: PairedGraphs,
    frames: NDArray[np.uint8],
    selection: SelectionImages,
    contract: Contract,
    reduce: Reduce,
    opened: Opener,
    progress: Progress,
    *,
    activation: Activation = "softmax",
) -> Choice:
    """Try the candidates, and keep the fastest that meets the contract.

    Args:
        pair: the FP32 graph, and the Q/DQ graph that was made from it.
        frames: ``(N,H,W,3)`` uint8, preprocessed, to measure the layers on.
        selection: the images to measure losses on.
        contract: to keep.
        reduce: brings the floating-point part of a graph to fp32 or fp16 (``Backend.reduce``).
        opened: compiles a candidate's graph as a device would; the classifier is closed here.
        progress: receives the steps.
        activation: of the model.

    Raises:
        ConversionError: no candidate meets the contract; the message says by how much each of them fails.
    """
    progress.step(
        f"measuring what each of {counted(len(pair.layers), 'layer')} loses in int8, on {counted(len(frames), 'image')}"
    )
    sensitivity = measure_sensitivity(pair, frames, progress, activation=activation)
    with ExitStack() as stack:
        classifiers = {}
        for candidate in candidates(sensitivity):
            progress.step(f"compiling {candidate.name}")
            classifier = stack.enter_context(opened(candidate, graph_of(candidate, pair, reduce)))
            if candidate == FP32 or _is_finite(classifier):
                classifiers[candidate] = classifier
            else:
                progress.step(f"warning: {candidate.name} is left out: its logits are not finite")
        progress.step(f"timing {counted(len(classifiers), 'candidate')} in turns")
        latencies = measured_latencies(list(classifiers.values()), progress)
        meter = LossMeter.of(selection.images, classifiers[FP32], progress)
        record = _contract_record(contract, meter, selection)
        progress.step(f"judging by the {record.loss_name} on {counted(record.images, 'image')}")

        def loss(candidate: PrecisionConfig) -> Loss:
            progress.step(f"measuring the loss of {candidate.name}")
            return meter.loss(classifiers[candidate], progress)

        trials, chosen = choose(list(zip(classifiers, latencies, strict=True)), loss, contract)
    if chosen is None:
        raise _missed(trials, record)
    return Choice(
        candidate=chosen,
        graph=graph_of(chosen, pair, reduce),
        record=AutoRecord(record, chosen.name, tuple(_recorded(each) for each in trials)),
        sensitivity=sensitivity,
    )


def candidates(sensitivity: Sensitivity) -> tuple[PrecisionConfig, ...]:
    """List the candidates, each once; ``FP32`` is the last.

    A mixed candidate keeps the layers in floating point that add most noise to the logits for each multiplication, so
    that a small slowdown buys much accuracy.
    """
    order = by_noise_per_product(sensitivity.layers)
    sums = np.cumsum([layer.noise for layer in order])
    counts = dict.fromkeys(int(np.searchsorted(sums, share * sums[-1])) + 1 for share in SHARES)
    mixes = (tuple(layer.name for layer in order[:count]) for count in counts if count < len(order))
    return (INT8, *(PrecisionConfig(f"int8, {_layers(mix)} in 16 bits", "int8", mix) for mix in mixes), FP16, FP32)


def graph_of(candidate: PrecisionConfig, pair: PairedGraphs, reduce: Reduce) -> onnx.ModelProto:
    """Make the graph of a candidate: the int8 graph as it is, all others through the backend's ``reduce``."""
    if candidate == INT8:
        return pair.quantized
    if candidate.precision == "int8":
        return reduce(mixed(pair, candidate.float_layers), "fp16")
    return reduce(pair.full, candidate.precision)


def measured_latencies(classifiers: Sequence[Classifier], progress: Progress) -> list[CandidateLatency]:
    """Time the classifiers in turns as ``vitedge.bench`` does: ``classify`` on synthetic camera frames, warm."""
    frames = itertools.cycle(random_frames(*FRAME_SIZE))
    calls = [partial(_stages, each, frames) for each in classifiers]
    for call in calls:
        warm_up(call, limit=WARM_UP_FACTOR * LATENCY_SECONDS)
    return latencies_of(take_turns(calls, LATENCY_SECONDS, progress))


def latencies_of(rounds: Sequence[Sequence[Samples]]) -> list[CandidateLatency]:
    """Compute p50 and p99 of engines that took turns.

    The medians are compared within each round, because all engines met the same load there: the p50 of an engine is
    its median share of a round, times the median round.

    Args:
        rounds: the samples of each engine, round by round.
    """
    medians = np.array([[np.median(samples.milliseconds) for samples in each] for each in rounds])
    typical = medians.mean(axis=0)
    p50 = np.median(medians / typical, axis=1) * np.median(typical)
    p99 = [np.percentile(concatenate(each).milliseconds, 99) for each in rounds]
    return [CandidateLatency(float(middle), float(tail)) for middle, tail in zip(p50, p99, strict=True)]


def choose(
    measured: Sequence[tuple[PrecisionConfig, CandidateLatency]],
    loss: Callable[[PrecisionConfig], Loss],
    contract: Contract,
) -> tuple[tuple[Trial, ...], PrecisionConfig | None]:
    """Choose the fastest candidate that meets a contract.

    Args:
        measured: the candidates and their latencies.
        loss: measures the loss of a candidate. It is called from the fastest candidate on, where p99 is short enough,
            until the bound of a loss is small enough. ``FP32`` is the reference, and loses nothing.
        contract: to keep.

    Returns:
        All trials, from the fastest on, and the chosen candidate; None if no candidate meets the contract.
    """
    trials, chosen = list[Trial](), None
    for candidate, latency in sorted(measured, key=lambda each: each[1].p50_ms):
        lost: Loss | None = NOTHING if candidate == FP32 else None
        if chosen is None and _in_time(latency, contract):
            lost = loss(candidate) if lost is None else lost
            chosen = candidate if lost.bound <= contract.max_drop else None
        trials.append(Trial(candidate, latency, lost))
    return tuple(trials), chosen


def _is_finite(classifier: Classifier) -> bool:
    """Tell whether the classifier computes finite logits: 16 bits may overflow."""
    try:
        classifier.classify(random_frames(*FRAME_SIZE)[0])
    except EngineError:
        return False
    return True


def _in_time(latency: CandidateLatency, contract: Contract) -> bool:
    return contract.max_p99_ms is None or latency.p99_ms <= contract.max_p99_ms


def _layers(names: Sequence[str]) -> str:
    return f"{len(names)} layer{'s' if len(names) > 1 else ''}"


def _stages(classifier: Classifier, frames: Iterator[NDArray[np.uint8]]) -> StageTimes:
    return classifier.classify(next(frames)).stages_ms


def _contract_record(contract: Contract, meter: LossMeter, selection: SelectionImages) -> ContractRecord:
    return ContractRecord(
        max_drop=contract.max_drop,
        max_p99_ms=contract.max_p99_ms,
        loss="top1_drop" if meter.labelled else "flip_rate",
        images=len(meter.reference),
        sha256=meter.reference.sha256,
        calibration_images=selection.calibration_images,
    )


def _recorded(trial: Trial) -> CandidateRecord:
    candidate, latency, loss = trial.candidate, trial.latency, trial.loss
    return CandidateRecord(
        candidate.name,
        candidate.precision,
        candidate.float_layers,
        latency.p50_ms,
        latency.p99_ms,
        None if loss is None else loss.measured,
        None if loss is None else loss.bound,
    )


def _missed(trials: Sequence[Trial], contract: ContractRecord) -> ConversionError:
    failures = "".join(f"\n    {each.candidate.name}: {'; '.join(_failures(each, contract))}" for each in trials)
    limits = [f"a {contract.loss_name} of at most {contract.max_drop:g} {contract.unit}, with 95 % confidence"]
    if contract.max_p99_ms is not None:
        limits.append(f"p99 of at most {contract.max_p99_ms:g} ms")
    return ConversionError(
        f"no precision meets the contract on {counted(contract.images, 'image')}; nothing was written:{failures}",
        expected=" and ".join(limits),
        fix="allow a larger max_drop= or max_p99_ms=, calibrate with more images, or choose a smaller model",
    )


def _failures(trial: Trial, contract: ContractRecord) -> Iterator[str]:
    if contract.max_p99_ms is not None and trial.latency.p99_ms > contract.max_p99_ms:
        late = trial.latency.p99_ms - contract.max_p99_ms
        yield f"p99 is {trial.latency.p99_ms:.2f} ms, {late:.2f} ms too long"
    elif trial.loss is not None:
        measured, worst = contract.lost(trial.loss.measured), contract.lost(trial.loss.bound)
        yield f"{measured}, at worst {worst} with 95 % confidence"
