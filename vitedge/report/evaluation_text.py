"""An evaluation as JSON for scripts, and as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vitedge.bundle.accuracy_records import ConfidenceRecord, ThresholdsRecord
from vitedge.calib.data.dataset import NAMES_SHOWN
from vitedge.calib.evaluation.accuracy import Comparison, Evaluation, Flip, Proportion
from vitedge.calib.evaluation.multilabel import LabelComparison, LabelEvaluation, LabelFlip
from vitedge.calib.evaluation.predictions import Predictions
from vitedge.calib.sensitivity.result import Sensitivity
from vitedge.counts import counted, dropped
from vitedge.metrics import Interval
from vitedge.prediction import ClassScore
from vitedge.records import encode
from vitedge.report import sensitivity as sensitivity_report
from vitedge.safety.escape import terminal_lines
from vitedge.version import VERSION

JSON_VERSION = 1
FLIPS_SHOWN = 10
LABELS_SHOWN = 20


@dataclass(frozen=True)
class EvaluatedBundle:
    """A bundle and its predictions.

    Attributes:
        bundle: its path; for a checkpoint, its source as it was given.
        predictions: image by image.
        evaluation: its accuracy; None if the images have no classes.
    """

    bundle: str
    predictions: Predictions
    evaluation: Evaluation | LabelEvaluation | None


@dataclass(frozen=True)
class ComparedBundle:
    """A bundle between the first and the reference.

    Attributes:
        subject: the bundle.
        comparison: with the reference.
    """

    subject: EvaluatedBundle
    comparison: Comparison | LabelComparison


@dataclass(frozen=True)
class EvaluationReport:
    """The accuracy of a bundle on a set of images, and its comparison with a reference.

    Attributes:
        data: path of the folder, list or video.
        ours: the bundle, or the checkpoint.
        theirs: the reference: another bundle, or the checkpoint; None if there is no other.
        comparison: of the two.
        others: more bundles, compared with the reference.
        layers: the effect of each int8 layer; None unless it was measured.
        confidence: the temperature and threshold that were fitted; None unless they were.
        thresholds: the thresholds of a multi-label bundle that were fitted; None unless they were.
    """

    data: str
    ours: EvaluatedBundle
    theirs: EvaluatedBundle | None
    comparison: Comparison | LabelComparison | None
    layers: Sensitivity | None = None
    confidence: ConfidenceRecord | None = None
    thresholds: ThresholdsRecord | None = None
    others: tuple[ComparedBundle, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``vitedge eval --json`` writes."""
        return to_json(self)

    def to_text(self) -> str:
        """Return the text that ``vitedge eval`` prints."""
        return to_text(self)


def to_json(report: EvaluationReport) -> dict[str, Any]:
    """Return plain JSON values; keys are added, never renamed.

    ``top1`` and ``top5`` are percent, and null where the images have no classes, or for a multi-label bundle.
    """
    document: dict[str, Any] = {
        "version": JSON_VERSION,
        "vitedge_version": VERSION,
        "data": report.data,
        "images": len(report.ours.predictions),
        "skipped": list(report.ours.predictions.skipped),
        "sha256": report.ours.predictions.sha256,
        **_subject(report.ours),
    }
    if report.theirs is not None and report.comparison is not None:
        document["agreement"] = report.comparison.agreement.percent
        document["agreement_ci95"] = _pair(report.comparison.agreement.ci95)
        document["flip_rate"] = report.comparison.flipped.percent
        document["flip_rate_ci95"] = _pair(report.comparison.flipped.ci95)
        document["kl_mean"] = report.comparison.kl_mean
        document["kl_p99"] = report.comparison.kl_p99
        document["top1_drop"] = top1_drop(report)
        document["flips"] = [_flip(flip) for flip in report.comparison.flips]
        if isinstance(report.comparison, LabelComparison):
            document["decision_agreement"] = report.comparison.decisions.percent
            document["label_flips"] = report.comparison.label_flips
        document["against"] = _subject(report.theirs)
        document["others"] = [_other(report.theirs, each) for each in report.others]
    if report.layers is not None:
        document["layers"] = sensitivity_report.to_json(report.layers)
    return document


def top1_drop(report: EvaluationReport) -> float | None:
    """Return the percentage points of top-1 that the bundle loses against the other one; None without labels."""
    return None if report.theirs is None else drop_against(report.ours, report.theirs)


def drop_against(ours: EvaluatedBundle, theirs: EvaluatedBundle) -> float | None:
    """Return the percentage points of top-1 that one bundle loses against another; None without labels."""
    if not isinstance(ours.evaluation, Evaluation) or not isinstance(theirs.evaluation, Evaluation):
        return None
    return theirs.evaluation.top1 - ours.evaluation.top1


def to_text(report: EvaluationReport) -> str:
    """Describe accuracy and agreement with their 95 % intervals, the first flips, and the layers that cost most."""
    return terminal_lines(_lines(report))


def _subject(subject: EvaluatedBundle) -> dict[str, Any]:
    evaluation, accepted = subject.evaluation, 100.0 * float(subject.predictions.accepted.mean())
    if evaluation is None:
        return {"bundle": subject.bundle, "top1": None, "top5": None, "accepted": accepted}
    if isinstance(evaluation, LabelEvaluation):
        return {
            "bundle": subject.bundle,
            "top1": None,
            "top5": None,
            "accepted": accepted,
            "mean_average_precision": evaluation.mean_average_precision,
            "micro_f1": evaluation.micro_f1,
            "macro_f1": evaluation.macro_f1,
            "exact_match": evaluation.exact_match,
            "exact_match_ci95": _pair(evaluation.exact_proportion.ci95),
            "labels": [encode(label) for label in evaluation.labels],
        }
    return {
        "bundle": subject.bundle,
        "top1": evaluation.top1,
        "top1_ci95": _pair(evaluation.top1_proportion.ci95),
        "top5": evaluation.top5,
        "top5_ci95": _pair(evaluation.topk_proportion.ci95),
        "top5_k": evaluation.k,
        "ece": evaluation.ece,
        "accepted": accepted,
        "accepted_top1": None if evaluation.accepted_top1 is None else evaluation.accepted_top1.percent,
    }


def _other(reference: EvaluatedBundle, other: ComparedBundle) -> dict[str, Any]:
    return {
        **_subject(other.subject),
        "agreement": other.comparison.agreement.percent,
        "agreement_ci95": _pair(other.comparison.agreement.ci95),
        "kl_mean": other.comparison.kl_mean,
        "kl_p99": other.comparison.kl_p99,
        "top1_drop": drop_against(other.subject, reference),
    }


def _flip(flip: Flip | LabelFlip) -> dict[str, Any]:
    if isinstance(flip, LabelFlip):
        return {
            "file": flip.file.name,
            "labels": [encode(each) for each in flip.ours],
            "against_labels": [encode(each) for each in flip.theirs],
            "kl": flip.divergence,
        }
    return {
        "file": flip.file.name,
        "label": flip.ours.label,
        "score": flip.ours.score,
        "against_label": flip.theirs.label,
        "against_score": flip.theirs.score,
        "margin": flip.margin,
        "kl": flip.divergence,
    }


def _pair(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _lines(report: EvaluationReport) -> Iterator[str]:
    subjects = [report.ours, *(each.subject for each in report.others), *([report.theirs] if report.theirs else [])]
    yield f"{counted(len(report.ours.predictions), 'image')} of {report.data}; 95 % intervals in brackets"
    skipped = report.ours.predictions.skipped
    if skipped:
        more = f" and {len(skipped) - NAMES_SHOWN} more" if len(skipped) > NAMES_SHOWN else ""
        yield f"skipped, cannot be read: {', '.join(skipped[:NAMES_SHOWN])}{more}"
    width = max(len(subject.bundle) for subject in subjects)
    for subject in subjects:
        drop = None if report.theirs is None or subject is report.theirs else drop_against(subject, report.theirs)
        yield f"{subject.bundle:<{width}}  {accuracy_text(subject.evaluation)}{drop_text(drop)}"
        if subject.predictions.threshold:
            yield f"{'':<{width}}  {_acceptance(subject)}"
    if report.theirs is not None:
        for other in report.others:
            agreement = share_text(other.comparison.agreement)
            yield f"{other.subject.bundle} against {report.theirs.bundle}: agreement {agreement}"
    if isinstance(report.ours.evaluation, LabelEvaluation):
        yield from label_lines(report.ours.evaluation)
    if report.comparison is not None and report.theirs is not None:
        if report.others:
            yield f"{report.ours.bundle} against {report.theirs.bundle}:"
        yield from _comparison_lines(report, report.comparison)
    if report.layers is not None:
        yield from sensitivity_report.lines(report.layers)


def drop_text(drop: float | None) -> str:
    """Describe the points of top-1 that are lost, to be appended; empty without labels."""
    return "" if drop is None else f"  top-1 {dropped(drop)}"


def label_lines(evaluation: LabelEvaluation) -> Iterator[str]:
    """Describe the labels of a multi-label model, the one with the lowest F1 first, at most 20."""
    known = sorted(evaluation.known_labels, key=lambda each: each.f1 or 0.0)
    width = max(len(each.label) for each in known[:LABELS_SHOWN])
    yield f"{len(known)} of {counted(len(evaluation.labels), 'label')} occur, the lowest F1 first:"
    for label in known[:LABELS_SHOWN]:
        yield (
            f"  {label.label:<{width}}  F1 {_percent(label.f1)}  precision {_percent(label.precision)}  "
            f"recall {_percent(label.recall)}  average precision {_percent(label.average_precision)}  "
            f"from a score of {label.threshold:.3f}  {counted(label.images, 'image')}"
        )
    if len(known) > LABELS_SHOWN:
        yield f"  and {len(known) - LABELS_SHOWN} more; the JSON report lists all"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} %"


def accuracy_text(evaluation: Evaluation | LabelEvaluation | None) -> str:
    """Describe the accuracy with its 95 % intervals, or say that it is not known.

    It is top-1, top-5 and calibration error, or the figures of a multi-label model.
    """
    if evaluation is None:
        return "not all images have a class of the model, so accuracy is not known"
    if isinstance(evaluation, LabelEvaluation):
        return (
            f"mAP {evaluation.mean_average_precision:.2f} %  micro F1 {_percent(evaluation.micro_f1)}  "
            f"macro F1 {evaluation.macro_f1:.2f} %  exact match {share_text(evaluation.exact_proportion)}"
        )
    clamped = (
        f" (there are {counted(evaluation.k, 'class', 'classes')})"
        if len(evaluation.predictions.labels) <= evaluation.k
        else ""
    )
    return (
        f"top-1 {share_text(evaluation.top1_proportion)}  "
        f"top-{evaluation.k} {share_text(evaluation.topk_proportion)}{clamped}  "
        f"calibration error {evaluation.ece:.2f} %"
    )


def _acceptance(subject: EvaluatedBundle) -> str:
    predictions = subject.predictions
    accepted = Proportion(int(predictions.accepted.sum()), len(predictions))
    right = subject.evaluation.accepted_top1 if isinstance(subject.evaluation, Evaluation) else None
    of_them = "" if right is None else f", of them {share_text(right)} right"
    return f"abstains below a score of {predictions.threshold:.3f}: accepts {share_text(accepted)}{of_them}"


def _comparison_lines(report: EvaluationReport, comparison: Comparison | LabelComparison) -> Iterator[str]:
    if isinstance(comparison, LabelComparison):
        yield from _label_comparison_lines(comparison)
        if report.theirs is not None and report.theirs.predictions.thresholds != report.ours.predictions.thresholds:
            yield "the bundles have different thresholds, which flips labels even where scores are equal"
        return
    yield f"agreement {share_text(comparison.agreement)}"
    yield f"flip rate {share_text(comparison.flipped)}"
    yield f"KL divergence of the softmax: mean {comparison.kl_mean:.3g}, p99 {comparison.kl_p99:.3g} nats"
    if not comparison.flips:
        return
    yield f"{counted(len(comparison.flips), 'image is classified otherwise', 'images are classified otherwise')}:"
    for flip in comparison.flips[:FLIPS_SHOWN]:
        ours, theirs = flip.ours, flip.theirs
        yield f"  {flip.file.name}: {ours.label} {ours.score:.2f}, against {theirs.label} {theirs.score:.2f}"
    if len(comparison.flips) > FLIPS_SHOWN:
        yield f"  and {len(comparison.flips) - FLIPS_SHOWN} more; the JSON report lists all, the HTML report shows them"


def _label_comparison_lines(comparison: LabelComparison) -> Iterator[str]:
    yield f"agreement on all labels of an image {share_text(comparison.agreement)}"
    yield f"agreement on one label of an image {share_text(comparison.decisions)}"
    yield f"flip rate {share_text(comparison.flipped)}"
    yield f"KL divergence, summed over the labels: mean {comparison.kl_mean:.3g}, p99 {comparison.kl_p99:.3g} nats"
    if not comparison.flips:
        return
    most = [f"{label} {count}" for label, count in list(comparison.label_flips.items())[:FLIPS_SHOWN]]
    yield f"flips by label: {', '.join(most)}"
    yield f"{counted(len(comparison.flips), 'image gets other labels', 'images get other labels')}:"
    for flip in comparison.flips[:FLIPS_SHOWN]:
        yield f"  {flip.file.name}: {labels_text(flip.ours)}, against {labels_text(flip.theirs)}"
    if len(comparison.flips) > FLIPS_SHOWN:
        yield f"  and {len(comparison.flips) - FLIPS_SHOWN} more; the JSON report lists all, the HTML report shows them"


def labels_text(labels: Sequence[ClassScore]) -> str:
    """Name labels with their scores."""
    return " + ".join(f"{each.label} {each.score:.2f}" for each in labels) or "no label"


def share_text(share: Proportion) -> str:
    """Format percent, with the 95 % interval in brackets."""
    return f"{share.percent:.2f} % [{share.ci95.low:.2f}, {share.ci95.high:.2f}]"
