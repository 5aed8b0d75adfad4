"""Run a new bundle as a device would, compare, and complete its manifest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vitedge.bundle.bundle import Bundle, Golden
from vitedge.bundle.manifest import (
    AccuracyRecord,
    ConfidenceRecord,
    GoldenRecord,
    Manifest,
    PrecisionRecord,
    VerificationRecord,
)
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.evaluation.accuracy import Evaluation, evaluate
from vitedge.calib.evaluation.score_calibration import MIN_IMAGES, calibrate_scores
from vitedge.converters.reference import graph_logits
from vitedge.converters.stages.drafting import Draft, count_shared
from vitedge.converters.verify import Logits, check_precision, demanded_sqnr
from vitedge.progress import Progress
from vitedge.runtime.classifier import Classifier


def verified(
    bundle: Bundle, draft: Draft, golden: Golden, evaluation_images: ImageFolder | None, progress: Progress
) -> Manifest:
    """Compare the bundle's engine with its graphs, measure its accuracy, and return the complete manifest.

    The engine is the one that a device would open, or the nearest to it that this host has.

    Raises:
        ConversionError: the engine does not compute what the graph says, or the precision destroys the model.
        CalibrationError: the scores cannot be fitted on the images.
    """
    manifest, precision = bundle.manifest, draft.precision
    full = graph_logits(draft.full.graph, draft.probes.frames, draft.card.preprocessing)
    engine = draft.backend.open_host_engine(bundle)
    card = draft.card
    with Classifier(engine, card.preprocessing, card.labels, activation=card.activation) as classifier:
        reached = np.stack([classifier.infer(frame) for frame in draft.probes.frames])
        difference = check_precision(full, reached, precision)
        half = golden.fp16_logits
        half_difference = None if half is None else check_precision(full[: len(half)], half, "fp16")
        evaluation = _evaluation(classifier, evaluation_images, progress)
        info = classifier.info
    return replace(
        manifest,
        precision=PrecisionRecord(asked=precision, effective=info.effective_precision, rest=info.rest_precision),
        golden=_demanded(draft, golden, manifest.golden, reached[: len(golden.frames)]),
        verification=VerificationRecord(draft.full.against_source, difference, half_difference),
        accuracy=_accuracy(evaluation, evaluation_images, draft, progress),
        confidence=_confidence(evaluation, draft.request.abstain_error, progress),
    )


def _demanded(draft: Draft, golden: Golden, record: GoldenRecord, reached: Logits) -> GoldenRecord:
    """Add the SQNR that every engine must reach against the golden logits."""
    random, reduced, half = draft.request.model.random_weights, draft.reduced, draft.reduced.fp16
    other = reached if reduced.unrounded is None else reduced.unrounded
    least = demanded_sqnr(golden.logits, other, draft.precision, random_weights=random)
    if half is None or half.unrounded is None or golden.fp16_logits is None:
        return replace(record, min_sqnr_db=least)
    half_least = demanded_sqnr(golden.fp16_logits, half.unrounded, "fp16", random_weights=random)
    return replace(record, min_sqnr_db=least, fp16_min_sqnr_db=half_least)


def _evaluation(classifier: Classifier, images: ImageFolder | None, progress: Progress) -> Evaluation | None:
    if images is None or not images.is_labelled(classifier.labels):
        return None
    progress.step(f"measuring accuracy on {len(images)} images of {images.folder}")
    return evaluate(classifier, images, progress, keep_logits=True)


def _accuracy(
    evaluation: Evaluation | None, images: ImageFolder | None, draft: Draft, progress: Progress
) -> AccuracyRecord | None:
    if evaluation is None or images is None:
        return None
    shared = count_shared(draft, images, progress)
    return AccuracyRecord(evaluation.top1, evaluation.top5, evaluation.images, evaluation.predictions.sha256, shared)


def _confidence(
    evaluation: Evaluation | None, abstain_error: float | None, progress: Progress
) -> ConfidenceRecord | None:
    if evaluation is None:
        return None
    if evaluation.images < MIN_IMAGES and abstain_error is None:
        progress.step(f"scores stay as they are: a temperature needs {MIN_IMAGES} images, not {evaluation.images}")
        return None
    record = calibrate_scores(evaluation, abstain_error)
    progress.step(
        f"fitted temperature {record.temperature:.3f}: calibration error {record.ece_before:.2f} → "
        f"{record.ece_after:.2f} %"
    )
    return record
