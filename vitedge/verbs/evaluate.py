"""``vitedge.evaluate``: the accuracy of a bundle or checkpoint on images, and its comparison with others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vitedge.bundle.bundle import MANIFEST, Bundle, open_bundle
from vitedge.bundle.model_card import ModelCard
from vitedge.calib.data.dataset import ImageDataset
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.data.open import open_dataset
from vitedge.calib.evaluation import accuracy
from vitedge.calib.evaluation.accuracy import (
    Comparison,
    Evaluation,
    check_same_labels,
    collect_predictions,
    compare,
    score,
)
from vitedge.calib.evaluation.dask import RemoteModel, cluster_predictor
from vitedge.calib.evaluation.label_thresholds import fit_label_thresholds, write_thresholds
from vitedge.calib.evaluation.multilabel import (
    LabelComparison,
    LabelEvaluation,
    compare_labels,
    label_targets,
    score_labels,
)
from vitedge.calib.evaluation.predictions import ModelInfo, Predictions
from vitedge.calib.evaluation.resume_log import ResumeLog, resume_key
from vitedge.calib.evaluation.score_calibration import (
    calibrate_scores,
    check_abstain_error,
    check_image_count,
    write_confidence,
)
from vitedge.counts import counted
from vitedge.errors import CalibrationError, UsageError
from vitedge.progress import Progress, Silent, reporting
from vitedge.report.evaluation_text import ComparedBundle, EvaluatedBundle, EvaluationReport
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines.open import EngineName, check_threads
from vitedge.runtime.load import load

if TYPE_CHECKING:
    from vitedge.calib.sensitivity.result import Sensitivity
    from vitedge.converters.original import Original

Given: TypeAlias = Bundle | str | Path
"""A bundle, the path of one, or the source of a checkpoint."""
Predict: TypeAlias = Callable[[Sequence[Any], ImageDataset, Progress], tuple[Predictions, ...]]

CHECKPOINT_CONFIG = "config.json"
"""Every folder of timm and of Transformers has it."""
GRAPH_SUFFIXES = (".onnx", ".pt2")
_SOURCE = re.compile(r"(timm|hf|[A-Za-z_][\w.]*):[^/\\]")
"""A source with a scheme, or ``package.module:factory``."""


def evaluate(
    bundle: Given,
    data: str | Path | ImageDataset,
    *,
    against: Given | Sequence[Given] | None = None,
    limit: int | None = None,
    layers: bool = False,
    fit_confidence: bool = False,
    abstain_error: float | None = None,
    engine: EngineName | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    resume: str | Path | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> EvaluationReport:
    """Measure the accuracy of a bundle, and compare it with other bundles or its checkpoint, image by image.

    Args:
        bundle: a bundle, or the path of one; or a checkpoint as in ``vitedge.convert`` (``timm:NAME``,
            ``hf:OWNER/NAME``, a folder of timm or Transformers, or ``package.module:factory``), which PyTorch computes
            in fp32 with the preprocessing and labels that the checkpoint states.
        data: a folder of images, one folder a class; a text file that lists images; a label file (``.jsonl``), which
            multi-label bundles need; or a video. Without classes, ``against`` is needed.
        against: another bundle or checkpoint of the same classes, or several. All are compared with the last one.
        limit: greatest number of images, spread evenly over the classes or over the video.
        layers: with ``against`` an fp32 bundle, also measure the effect of each int8 layer.
        fit_confidence: fit the temperature of the scores on these images, and write it into the bundle; for a
            multi-label bundle, fit the threshold of each label, to the highest F1.
        abstain_error: with ``fit_confidence``, the largest share of wrong predictions, 0…1, among predictions that
            reach the score threshold; the threshold is written into the bundle too. For a multi-label bundle, the same
            holds for each label. By default the share that the bundle was fitted to before, if it was.
        engine: ``openvino``, ``onnxruntime`` or ``tensorrt``; by default the engine of the bundle's target.
        threads: number of CPU threads; by default the engine decides.
        scheduler: address of a Dask scheduler, whose workers find data and bundles at the same paths.
        resume: a file that keeps the predictions so far. After an interrupt, the same call continues from it; remove
            the file when the report is saved. Not for multi-label bundles.
        progress: receives the steps; ``vitedge.Terminal()`` prints them.

    Raises:
        UsageError: the arguments contradict each other, or the models have different classes.
        CheckpointError: weights, configuration or labels of a checkpoint do not fit together.
        BundleError: a bundle cannot be read, or a file of it was altered.
        CalibrationError: a folder is not a label, an image cannot be read, or there are too few images to fit on.
        FrameSourceError: the video cannot be read.
        EngineError: an engine does not load, run or pass its self-test.
        MissingExtraError: an optional package is not installed.
    """
    _check(against, layers, fit_confidence, abstain_error, scheduler, resume)
    if scheduler is not None and threads is not None:
        raise UsageError("threads= is for engines on this machine", fix="leave out threads= or scheduler=")
    given = [bundle, *_several(against)]
    check_threads(threads)
    _check_kinds(given, layers=layers, fit_confidence=fit_confidence, scheduler=scheduler)
    images = open_dataset(data, limit=limit) if isinstance(data, (str, Path)) else data
    if fit_confidence:
        check_image_count(len(images))
    with _computing_in(threads, given):
        subjects = [_opened(each, progress) for each in given]
        bundles = [each for each in subjects if isinstance(each, Bundle)]
        _check_multilabel(bundles, scheduler)
        card = _card(subjects[0])
        if isinstance(images, ImageFolder):
            images = images.by_label(card.labels, card.class_ids)
        resume_log = None if resume is None else ResumeLog(Path(resume), resume_key(subjects, images, engine))
        sensitivity = _sensitivity(bundles[0], bundles[-1], images, progress) if layers else None
        with reporting(progress), ExitStack() as opened:
            if scheduler is None:
                classifiers = [opened.enter_context(_classifier(each, engine, threads, progress)) for each in subjects]
                models: Sequence[ModelInfo] = classifiers
                predict: Predict = partial(accuracy.predict, keep_logits=fit_confidence, resume_log=resume_log)
            else:
                models = [RemoteModel.of(each) for each in bundles]
                predict = partial(_predict_remotely, scheduler, bundles, engine, resume_log)
            if fit_confidence:
                _check_labelled(images, models[0])
            first, *others = [(_name(each), model) for each, model in zip(subjects, models, strict=True)]
            reference = others.pop() if others else None
            report = measure(*first, images, progress, reference, others=others, predict=predict)
        report = replace(report, layers=sensitivity)
        return _fit(bundles[0], report, abstain_error, progress) if fit_confidence else report


def is_checkpoint(given: Given) -> bool:
    """Return whether text names a checkpoint, as for ``vitedge.convert``, and not the path of a bundle."""
    if isinstance(given, Bundle):
        return False
    path = Path(given)
    if path.is_dir():
        return not (path / MANIFEST).exists() and (path / CHECKPOINT_CONFIG).exists()
    return _SOURCE.match(str(given)) is not None or path.suffix in GRAPH_SUFFIXES


def _several(against: Given | Sequence[Given] | None) -> list[Given]:
    if against is None:
        return []
    return [against] if isinstance(against, (Bundle, str, Path)) else list(against)


def _check_kinds(given: Sequence[Given], *, layers: bool, fit_confidence: bool, scheduler: str | None) -> None:
    """Refuse checkpoints where only a bundle will do, before they are loaded."""
    if not any(map(is_checkpoint, given)):
        return
    if scheduler is not None:
        raise UsageError("scheduler= runs bundles, not checkpoints", fix="leave out scheduler=, or set a limit=")
    if layers:
        raise UsageError("layers= compares the graphs of two bundles", fix="convert the checkpoint in fp32")
    if fit_confidence and is_checkpoint(given[0]):
        raise UsageError("fit_confidence= writes into a bundle", fix="convert the checkpoint, and fit on the bundle")


def _computing_in(threads: int | None, given: Sequence[Given]) -> AbstractContextManager[None]:
    """Import what checkpoints need, and have PyTorch compute in so many threads within the context."""
    if not any(map(is_checkpoint, given)):
        return nullcontext()  # engines take the number when they are opened, and a device has no PyTorch
    from vitedge.converters.convert import import_packages

    import_packages("the evaluation of a checkpoint")
    from vitedge.converters.threads import computing_in

    return computing_in(threads)


def _opened(given: Given, progress: Progress) -> Bundle | Original:
    if isinstance(given, Bundle) or not is_checkpoint(given):
        return open_bundle(given)
    from vitedge.converters.original import load_original

    return load_original(given, progress=progress)


def _classifier(
    subject: Bundle | Original, engine: EngineName | None, threads: int | None, progress: Progress
) -> Classifier:
    if isinstance(subject, Bundle):
        return load(subject, engine=engine, threads=threads, progress=progress)
    return subject.open()


def _card(subject: Bundle | Original) -> ModelCard:
    return subject.manifest.model if isinstance(subject, Bundle) else subject.card


def _name(subject: Bundle | Original) -> str:
    return str(subject.path) if isinstance(subject, Bundle) else subject.source


def measure(
    bundle: str,
    model: ModelInfo,
    images: ImageDataset,
    progress: Progress,
    against: tuple[str, ModelInfo] | None = None,
    *,
    others: Sequence[tuple[str, ModelInfo]] = (),
    predict: Predict = accuracy.predict,
) -> EvaluationReport:
    """Evaluate a model, and compare it with another one if there is one.

    Args:
        bundle: path of its bundle, for the report.
        model: a classifier, or a model that ``predict`` finds elsewhere.
        images: with classes, or without if there is a model to compare with.
        progress: receives every image.
        against: path and model of the other bundle.
        others: paths and models of more bundles, to compare with ``against`` too.
        predict: classifies the images with all models; by default in this process.

    Raises:
        CalibrationError: a folder is not a label, or no image can be read.
        UsageError: the two models have different classes.
        EngineError: an engine failed.
    """
    labelled = _is_labelled(images, model)
    if against is None or labelled:
        _check_labelled(images, model)
    else:
        progress.step(f"note: no accuracy, because {_unlabelled(images, model)}")
    named = [(bundle, model), *others, *([against] if against else [])]
    for _, other in named[1:]:
        check_same_labels(model.labels, other.labels)
    for notice in images.notices:
        progress.step(f"note: {notice}")
    progress.step(f"classifying {counted(len(images), 'image')} of {images.path}")
    predictions = predict([each for _, each in named], images, progress)
    evaluated = [
        EvaluatedBundle(name, each, _scored(each, images) if labelled else None)
        for (name, _), each in zip(named, predictions, strict=True)
    ]
    theirs = evaluated[-1] if against else None
    comparison = _compared(predictions[0], predictions[-1]) if against else None
    between = tuple(ComparedBundle(each, _compared(each.predictions, predictions[-1])) for each in evaluated[1:-1])
    return EvaluationReport(str(images.path), evaluated[0], theirs, comparison, others=between)


def _is_labelled(images: ImageDataset, model: ModelInfo) -> bool:
    if model.thresholds is None:
        return images.is_labelled(model.labels)
    return all(file.labels is not None for file in images.files)


def _check_labelled(images: ImageDataset, model: ModelInfo) -> None:
    """Refuse images whose labels are unknown, or are no labels of the model."""
    if model.thresholds is not None:
        label_targets(images.files, model.labels)
        return
    several = next((file for file in images.files if file.labels is not None and len(file.labels) != 1), None)
    if several is not None:
        raise CalibrationError(
            f"{several.name} has {len(several.labels or ())} labels, and the model gives one class an image",
            expected="exactly one label for each image",
        )
    _check_classes(images, model.labels)


def _scored(predictions: Predictions, images: ImageDataset) -> Evaluation | LabelEvaluation:
    return score(predictions, images) if predictions.thresholds is None else score_labels(predictions)


def _compared(ours: Predictions, theirs: Predictions) -> Comparison | LabelComparison:
    return compare(ours, theirs) if ours.thresholds is None else compare_labels(ours, theirs)


def _check(
    against: object,
    layers: bool,
    fit_confidence: bool,
    abstain_error: float | None,
    scheduler: str | None,
    resume: object,
) -> None:
    check_abstain_error(abstain_error)
    if abstain_error is not None and not fit_confidence:
        raise UsageError("abstain_error= is for fit_confidence=True", fix="give both, or neither")
    if layers and against is None:
        raise UsageError("layers= needs the model in fp32 to compare with", fix="against=BUNDLE, an fp32 bundle")
    if scheduler and fit_confidence:
        raise UsageError("fit_confidence= runs on this machine alone", fix="leave out scheduler=, or set a limit=")
    if resume is not None and fit_confidence:
        raise UsageError("resume= keeps no logits, which fit_confidence= needs", fix="leave out one of them")


def _check_classes(images: ImageDataset, labels: Sequence[str]) -> None:
    """Refuse images whose classes are no labels, and tell what can be measured without labels."""
    try:
        images.class_to_idx(labels)
    except CalibrationError as error:
        if "against=" in error.fix:
            raise
        without = "without labels, against=BUNDLE measures how often two bundles agree"
        fix = f"{error.fix}; {without}" if error.fix else without
        raise CalibrationError(error.problem, expected=error.expected, fix=fix) from error


def _unlabelled(images: ImageDataset, model: ModelInfo) -> str:
    try:
        _check_labelled(images, model)
    except CalibrationError as error:
        return error.problem
    return f"the classes of {images.path} are no labels of the model"


def _check_multilabel(bundles: Sequence[Bundle], scheduler: str | None) -> None:
    if scheduler is not None and any(each.manifest.model.is_multilabel for each in bundles):
        raise UsageError(
            "scheduler= sends no logits, which a multi-label model needs", fix="leave out scheduler=, or set a limit="
        )


def _sensitivity(bundle: Bundle, against: Bundle, images: ImageDataset, progress: Progress) -> Sensitivity:
    from vitedge.calib.sensitivity.sensitivity import bundle_sensitivity  # imports onnx, which a device does not need

    return bundle_sensitivity(bundle, against, images, progress)


def _predict_remotely(
    scheduler: str,
    bundles: Sequence[Bundle],
    engine: EngineName | None,
    resume_log: ResumeLog | None,
    models: Sequence[ModelInfo],
    images: ImageDataset,
    progress: Progress,
) -> tuple[Predictions, ...]:
    predictor = cluster_predictor(scheduler, bundles, images, engine)
    return collect_predictions(models, images, predictor, progress, resume_log=resume_log)


def _fit(bundle: Bundle, report: EvaluationReport, abstain_error: float | None, progress: Progress) -> EvaluationReport:
    """Fit the temperature, or the thresholds of the labels, write them into the bundle, and add them to the report.

    A threshold that the bundle has for an error rate is fitted again for it, unless another one is given. A score
    threshold without an error rate is dropped, and reported: scores change with the temperature.
    """
    evaluation = report.ours.evaluation
    if abstain_error is None:
        abstain_error = _earlier_error_rate(bundle)
        if abstain_error is not None:
            progress.step(f"its threshold is fitted again, for at most {100 * abstain_error:g} % wrong predictions")
        elif (earlier := bundle.manifest.confidence) is not None and earlier.threshold > 0:
            progress.step(
                f"note: its threshold of {earlier.threshold:g} is dropped, because it was fitted to no error rate and "
                "scores change with the temperature; give abstain_error= for another one"
            )
    if isinstance(evaluation, LabelEvaluation):
        thresholds = fit_label_thresholds(evaluation, abstain_error)
        write_thresholds(bundle, thresholds)
        return replace(report, thresholds=thresholds)
    assert evaluation is not None  # the images have classes
    confidence = calibrate_scores(evaluation, abstain_error)
    write_confidence(bundle, confidence)
    return replace(report, confidence=confidence)


def _earlier_error_rate(bundle: Bundle) -> float | None:
    """Return the error rate that the thresholds of a bundle were fitted to; None if there is none."""
    fitted = bundle.manifest.confidence or bundle.manifest.thresholds
    return None if fitted is None else fitted.abstain_error
