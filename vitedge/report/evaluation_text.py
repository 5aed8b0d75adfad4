"""What an evaluation says: as JSON for scripts, as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from vitedge.calib.data.dataset import NAMES_SHOWN, ImageDataset
from vitedge.calib.evaluation.accuracy import (
    Comparison,
    Evaluation,
    Flip,
    Proportion,
    check_same_labels,
    compare,
    predict,
    score,
)
from vitedge.calib.evaluation.predictions import ModelInfo, Predictions
from vitedge.calib.sensitivity.sensitivity import Sensitivity
from vitedge.metrics import Interval
from vitedge.progress import Progress
from vitedge.report import sensitivity as sensitivity_report
from vitedge.safety.escape import terminal_lines
from vitedge.version import VERSION

Ask: TypeAlias = Callable[[Sequence[Any], ImageDataset, Progress], tuple[Predictions, ...]]

JSON_VERSION = 1
FLIPS_SHOWN = 10


@dataclass(frozen=True)
class Subject:
    """A bundle and how it did.

    Attributes:
        bundle: its path.
        predictions: image by image.
        evaluation: None where the images have no classes.
    """

    bundle: str
    predictions: Predictions
    evaluation: Evaluation | None


@dataclass(frozen=True)
class Report:
    """One bundle on a set of images, and the bundle that it was compared with.

    Attributes:
        data: path of the folder or video.
        ours: the bundle.
        theirs: the other one, if there is one.
        comparison: of the two.
        layers: what each int8 layer of the bundle costs; None unless it was measured.
    """

    data: str
    ours: Subject
    theirs: Subject | None
    comparison: Comparison | None
    layers: Sensitivity | None = None


def measure(
    bundle: str,
    classifier: ModelInfo,
    images: ImageDataset,
    progress: Progress,
    against: tuple[str, ModelInfo] | None = None,
    *,
    ask: Ask = predict,
) -> Report:
    """Evaluate a bundle, and compare it with another one where there is one.

    Args:
        bundle: its path, for the report.
        classifier: the bundle's.
        images: labelled, or not where there is something to compare with.
        progress: told of every image.
        against: path and classifier of the other bundle.
        ask: what has the images answered about; by default ``predict``, in this process.

    Raises:
        CalibrationError: the images' folders are no labels, or no image can be read.
        UsageError: the two bundles have different classes.
        EngineError: an engine failed.
    """
    labelled = against is None or images.is_labelled(classifier.labels)
    if labelled:
        images.class_to_idx(classifier.labels)
    named = [(bundle, classifier), *([against] if against else [])]
    if against is not None:
        check_same_labels(classifier.labels, against[1].labels)
    progress.step(f"classifying {len(images)} images of {images.path}")
    answers = ask([each for _, each in named], images, progress)
    subjects = [
        Subject(name, each, score(each, images) if labelled else None)
        for (name, _), each in zip(named, answers, strict=True)
    ]
    theirs = subjects[1] if against else None
    comparison = compare(answers[0], answers[1]) if against else None
    return Report(str(images.path), subjects[0], theirs, comparison)


def to_json(report: Report) -> dict[str, Any]:
    """The object that ``vitedge eval --json`` writes; keys are added, never renamed.

    ``top1`` and ``top5`` are percent, and null where the images have no classes.
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
        document["against"] = _subject(report.theirs)
    if report.layers is not None:
        document["layers"] = sensitivity_report.to_json(report.layers)
    return document


def top1_drop(report: Report) -> float | None:
    """Percentage points of top-1 that the bundle has less than the other one; None without labels."""
    if report.theirs is None or report.theirs.evaluation is None or report.ours.evaluation is None:
        return None
    return report.theirs.evaluation.top1 - report.ours.evaluation.top1


def to_text(report: Report) -> str:
    """Accuracy and agreement with their 95 % intervals, the first flips, and the layers that cost most."""
    return terminal_lines(_lines(report))


def _subject(subject: Subject) -> dict[str, Any]:
    evaluation, accepted = subject.evaluation, 100.0 * float(subject.predictions.accepted.mean())
    if evaluation is None:
        return {"bundle": subject.bundle, "top1": None, "top5": None, "accepted": accepted}
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


def _flip(flip: Flip) -> dict[str, Any]:
    return {
        "file": flip.file.name,
        "label": flip.ours.label,
        "score": flip.ours.score,
        "against_label": flip.theirs.label,
        "against_score": flip.theirs.score,
        "kl": flip.divergence,
    }


def _pair(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _lines(report: Report) -> Iterator[str]:
    subjects = [report.ours, *([report.theirs] if report.theirs else [])]
    yield f"{len(report.ours.predictions)} images of {report.data}; 95 % intervals in brackets"
    skipped = report.ours.predictions.skipped
    if skipped:
        more = f" and {len(skipped) - NAMES_SHOWN} more" if len(skipped) > NAMES_SHOWN else ""
        yield f"skipped, cannot be read: {', '.join(skipped[:NAMES_SHOWN])}{more}"
    width = max(len(subject.bundle) for subject in subjects)
    for subject in subjects:
        yield f"{subject.bundle:<{width}}  {accuracy_text(subject.evaluation)}"
        if subject.predictions.threshold:
            yield f"{'':<{width}}  {_acceptance(subject)}"
    if report.comparison is not None:
        yield from _comparison_lines(report, report.comparison)
    if report.layers is not None:
        yield from sensitivity_report.lines(report.layers)


def accuracy_text(evaluation: Evaluation | None) -> str:
    """Top-1 and top-5 with their 95 % intervals and the calibration error, or that they are not known."""
    if evaluation is None:
        return "not all images have a class of the model, so accuracy is not known"
    clamped = f" (there are {evaluation.k} classes)" if len(evaluation.predictions.labels) <= evaluation.k else ""
    return (
        f"top-1 {share_text(evaluation.top1_proportion)}  "
        f"top-{evaluation.k} {share_text(evaluation.topk_proportion)}{clamped}  "
        f"calibration error {evaluation.ece:.2f} %"
    )


def _acceptance(subject: Subject) -> str:
    predictions = subject.predictions
    accepted = Proportion(int(predictions.accepted.sum()), len(predictions))
    right = None if subject.evaluation is None else subject.evaluation.accepted_top1
    of_them = "" if right is None else f", of them {share_text(right)} right"
    return f"abstains below a score of {predictions.threshold:.3f}: accepts {share_text(accepted)}{of_them}"


def _comparison_lines(report: Report, comparison: Comparison) -> Iterator[str]:
    drop = top1_drop(report)
    yield f"agreement {share_text(comparison.agreement)}" + ("" if drop is None else f"  top-1 drop {drop:+.2f} points")
    yield f"flip rate {share_text(comparison.flipped)}"
    yield f"KL divergence of the softmax: mean {comparison.kl_mean:.3g}, p99 {comparison.kl_p99:.3g} nats"
    if not comparison.flips:
        return
    yield f"{len(comparison.flips)} images are classified otherwise:"
    for flip in comparison.flips[:FLIPS_SHOWN]:
        ours, theirs = flip.ours, flip.theirs
        yield f"  {flip.file.name}: {ours.label} {ours.score:.2f}, against {theirs.label} {theirs.score:.2f}"
    if len(comparison.flips) > FLIPS_SHOWN:
        yield f"  and {len(comparison.flips) - FLIPS_SHOWN} more; --json FILE lists all, --html FILE shows them"


def share_text(share: Proportion) -> str:
    """Percent, with the 95 % interval in brackets."""
    return f"{share.percent:.2f} % [{share.ci95.low:.2f}, {share.ci95.high:.2f}]"
