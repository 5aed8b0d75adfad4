"""Run a new bundle as a device would, compare, and complete its manifest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from vitedge.bundle.accuracy_records import AccuracyRecord, ConfidenceRecord, LabelAccuracyRecord
from vitedge.bundle.bundle import Bundle, Golden
from vitedge.bundle.manifest import Manifest
from vitedge.bundle.precision_records import PrecisionRecord
from vitedge.bundle.targets import Precision
from vitedge.bundle.verification_records import GateRecord, GoldenRecord, VerificationRecord
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.evaluation.accuracy import Evaluation, evaluate, predict
from vitedge.calib.evaluation.label_thresholds import fit_label_thresholds
from vitedge.calib.evaluation.multilabel import LabelEvaluation, score_labels
from vitedge.calib.evaluation.score_calibration import MIN_IMAGES, calibrate_scores
from vitedge.converters.precision_gate import LogitComparison, Reference, judge, noisy_frames
from vitedge.converters.reference import graph_logits
from vitedge.converters.stages.drafting import Draft, count_shared
from vitedge.converters.stages.timing import against_fp16
from vitedge.converters.verify import GOLDEN_FRAMES, ROUNDED_DB, Frames, Logits, check_explained, demanded_sqnr
from vitedge.counts import counted
from vitedge.metrics import parity
from vitedge.progress import Progress
from vitedge.runtime.classifier import Classifier


def verified(
    bundle: Bundle, draft: Draft, golden: Golden, evaluation_images: ImageFolder | None, progress: Progress
) -> Manifest:
    """Compare the bundle's engine with its graphs, measure its accuracy, and return the complete manifest.

    The engine is the one that a device would open, or the nearest to it that this host has.

    Raises:
        ConversionError: the engine does not compute what the graph says, or the precision loses more than fp32's own
            noise explains.
        CalibrationError: the scores cannot be fitted on the images.
    """
    manifest, card = bundle.manifest, draft.card
    engine = draft.backend.open_host_engine(bundle)
    with Classifier(engine, card.preprocessing, card.labels, activation=card.activation) as classifier:
        reached, info = _logits(classifier, golden.frames), classifier.info
        demanded = _demanded(draft, golden, manifest.golden, reached)
        _check_explained(draft, golden, reached, info.rest_precision)
        logits, reference = _logits(classifier, draft.gate.frames), _reference(draft)
        verification = _verification(draft, reference, logits, progress)
        timed = against_fp16(engine, logits, reference.logits, draft, progress)
        evaluation = _evaluation(classifier, evaluation_images, progress)
    return replace(
        manifest,
        precision=PrecisionRecord(draft.precision, info.effective_precision, info.rest_precision),
        stages=draft.backend.record_stages(bundle, draft.reduced.graph, golden.frames[0]),
        golden=demanded,
        verification=verification,
        against_fp16=timed,
        **_measured(evaluation, evaluation_images, draft, progress),
    )


def _logits(classifier: Classifier, frames: Frames) -> Logits:
    return np.stack([classifier.infer(frame) for frame in frames])


def _verification(draft: Draft, reference: Reference, reduced: Logits, progress: Progress) -> VerificationRecord:
    """Compare the engine and the fp16 graph with fp32, on the frames of the gate."""
    found = _judged(draft, reference, reduced, draft.precision, progress)
    half = _half_judged(draft, reference, progress)
    return VerificationRecord(
        fp32_against_source=draft.full.against_source,
        precision_against_fp32=found.parity,
        fp16_against_fp32=None if half is None else half.parity,
        gate=GateRecord(draft.gate.inputs, found.noise_sqnr_db, found.flips, found.unexplained_flips),
    )


def _reference(draft: Draft) -> Reference:
    graph, frames, preprocessing = draft.full.graph, draft.gate.frames, draft.card.preprocessing
    both = graph_logits(graph, np.concatenate([frames, noisy_frames(frames)]), preprocessing)
    return Reference(both[: len(frames)], both[len(frames) :], draft.card.activation)


def _judged(
    draft: Draft, reference: Reference, reduced: Logits, precision: Precision, progress: Progress
) -> LogitComparison:
    """Compare with fp32, and tell of what is no reason to refuse."""
    random = not draft.card.pretrained
    found, warning = judge(reference, reduced, precision, draft.gate.inputs, random_weights=random)
    if warning is not None:
        progress.step(warning)
    return found


def _half_judged(draft: Draft, reference: Reference, progress: Progress) -> LogitComparison | None:
    """Compare the fp16 graph of an 8-bit bundle with fp32, on as many frames as there are golden ones."""
    half = draft.reduced.fp16
    if half is None:
        return None
    frames = draft.gate.frames[:GOLDEN_FRAMES]
    logits = graph_logits(draft.backend.computed(half.graph), frames, draft.card.preprocessing)
    return _judged(draft, reference.first(len(frames)), logits, "fp16", progress)


def _check_explained(draft: Draft, golden: Golden, reached: Logits, rest: str) -> None:
    """Refuse an engine whose 16-bit numbers differ from the graph by more than their rounding explains."""
    if parity(golden.logits, reached).sqnr_db >= ROUNDED_DB:
        return
    rounded = draft.backend.rounded(draft.reduced.graph, rest)
    if rounded is not None:
        check_explained(golden.logits, reached, graph_logits(rounded, golden.frames, draft.card.preprocessing))


def _demanded(draft: Draft, golden: Golden, record: GoldenRecord, reached: Logits) -> GoldenRecord:
    """Add the SQNR that every engine must reach against the golden logits."""
    random, reduced, half = draft.request.model.random_weights, draft.reduced, draft.reduced.fp16
    other = reached if reduced.unrounded is None else reduced.unrounded
    least = demanded_sqnr(golden.logits, other, draft.precision, random_weights=random)
    if half is None or half.unrounded is None or golden.fp16_logits is None:
        return replace(record, min_sqnr_db=least)
    half_least = demanded_sqnr(golden.fp16_logits, half.unrounded, "fp16", random_weights=random)
    return replace(record, min_sqnr_db=least, fp16_min_sqnr_db=half_least)


def _evaluation(
    classifier: Classifier, images: ImageFolder | None, progress: Progress
) -> Evaluation | LabelEvaluation | None:
    multilabel = classifier.thresholds is not None
    if images is None or not (multilabel or images.is_labelled(classifier.labels)):
        return None
    progress.step(f"measuring accuracy on {counted(len(images), 'image')} of {images.path}")
    if not multilabel:
        return evaluate(classifier, images, progress, keep_logits=True)
    (predictions,) = predict([classifier], images, progress)
    return score_labels(predictions)


def _measured(
    evaluation: Evaluation | LabelEvaluation | None, images: ImageFolder | None, draft: Draft, progress: Progress
) -> dict[str, Any]:
    """Return the records of the accuracy and of the scores, by their name in the manifest."""
    if evaluation is None or images is None:
        return {}
    shared, error = count_shared(draft, images, progress), draft.request.abstain_error
    if isinstance(evaluation, LabelEvaluation):
        thresholds = None if error is None else fit_label_thresholds(evaluation, error)
        return {"label_accuracy": _label_accuracy(evaluation, shared), "thresholds": thresholds}
    accuracy = AccuracyRecord(
        evaluation.top1, evaluation.top5, evaluation.images, evaluation.predictions.sha256, shared
    )
    return {"accuracy": accuracy, "confidence": _confidence(evaluation, error, progress)}


def _label_accuracy(evaluation: LabelEvaluation, shared: int) -> LabelAccuracyRecord:
    assert evaluation.micro_f1 is not None  # an image has a label
    return LabelAccuracyRecord(
        mean_average_precision=evaluation.mean_average_precision,
        micro_f1=evaluation.micro_f1,
        macro_f1=evaluation.macro_f1,
        exact_match=evaluation.exact_match,
        images=evaluation.images,
        sha256=evaluation.predictions.sha256,
        calibration_images=shared,
    )


def _confidence(evaluation: Evaluation, abstain_error: float | None, progress: Progress) -> ConfidenceRecord | None:
    if evaluation.images < MIN_IMAGES and abstain_error is None:
        progress.step(f"scores stay as they are: a temperature needs {MIN_IMAGES} images, not {evaluation.images}")
        return None
    record = calibrate_scores(evaluation, abstain_error)
    progress.step(
        f"fitted temperature {record.temperature:.3f}: calibration error {record.ece_before:.2f} → "
        f"{record.ece_after:.2f} %"
    )
    return record
