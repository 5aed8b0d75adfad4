"""``convert``: from a checkpoint to a bundle. Checks the request before anything heavy is imported or computed."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.model_card import Activation
from vitedge.bundle.targets import (
    FP8_COMPUTE_CAPABILITY,
    TARGETS,
    Precision,
    PrecisionChoice,
    Target,
    TargetName,
    target_named,
)
from vitedge.calib.evaluation.score_calibration import check_abstain_error
from vitedge.converters.publish import BUNDLE_NAMES, check_output
from vitedge.converters.request import Contract, ModelOptions, Request
from vitedge.converters.sources.parse import (
    CswinPvtName,
    Factory,
    HubFolder,
    HubRepo,
    OnnxFile,
    Source,
    TimmName,
    parse_source,
)
from vitedge.converters.threads import computing_in
from vitedge.errors import UsageError, did_you_mean
from vitedge.extras import require
from vitedge.progress import Progress, Silent
from vitedge.runtime.engines.open import check_threads
from vitedge.runtime.system.cache import cache_folder, make_private
from vitedge.runtime.system.machine import usable_cpus
from vitedge.safety.files import expanded
from vitedge.safety.limits import INPUT_SIDE, LABELS
from vitedge.safety.loading import away_from_current_folder

AUTO = "auto"
COMPILED = "torchinductor"
"""Folder of the cache for the code that PyTorch compiles."""
PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "openvino", "safetensors", "PIL")


@dataclass(frozen=True)
class _SourceOption:
    """An option that only some sources take.

    Attributes:
        name: of the parameter.
        sources: the sources that take it.
        otherwise: what another source has instead; follows its name in the error.
    """

    name: str
    sources: tuple[type[Source], ...]
    otherwise: str


_SOURCE_OPTIONS = (
    _SourceOption("weights", (TimmName, CswinPvtName, Factory), "has its own weights"),
    _SourceOption("random_weights", (TimmName, CswinPvtName), "has its own weights"),
    _SourceOption("num_classes", (TimmName, CswinPvtName), "has its own number of classes"),
    _SourceOption(
        "input_size",
        (TimmName, CswinPvtName, HubFolder, HubRepo, Factory),
        "has the input size that it was exported with: export it again at the size that you want",
    ),
)


def convert(
    source: str | Path,
    *,
    target: TargetName,
    precision: PrecisionChoice,
    weights: str | Path | None = None,
    random_weights: bool = False,
    calib: str | Path | None = None,
    eval_data: str | Path | None = None,
    abstain_error: float | None = None,
    max_drop: float | None = None,
    max_p99_ms: float | None = None,
    labels: str | Path | None = None,
    logits: str | None = None,
    activation: Activation | None = None,
    preprocessing: str | Path | None = None,
    num_classes: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> Bundle:
    """Convert a checkpoint into a bundle for a target.

    Args:
        source: ``timm:NAME`` (a bare name means timm, or a CSWin or PVT that vitedge has), ``hf:OWNER/NAME`` of the
            Hugging Face hub, a folder in the layout of timm or Transformers, an ``.onnx`` file, a ``.pt2`` file of
            ``torch.export.save``, or ``package.module:factory``, a callable that returns an ``nn.Module``.
        target: name of a target, such as ``cpu``; ``vitedge.targets()`` lists them.
        precision: ``fp32``, ``fp16``, ``int8`` or, on some targets, ``fp8``; or ``auto``, the fastest precision that
            meets a contract on this machine.
        weights: ``.safetensors`` or ``.pth`` file for a name, instead of timm's download, or for the module of a
            factory.
        random_weights: give a name random weights, which is enough to measure latency.
        calib: images like the frames that the camera will see: a folder, a text file that lists one image a line, or a
            video. ``int8``, ``fp8`` and ``auto`` need it; other precisions take their golden vectors from it.
        eval_data: folder of images, one folder a label, to measure accuracy on. With 100 images or more, the
            temperature of the softmax is fitted on them.
        abstain_error: largest share of wrong predictions, 0…1, among predictions that reach the score threshold. The
            smallest such threshold is fitted on ``eval_data``; ``Prediction.abstained`` marks the predictions below it.
        max_drop: with ``auto``, the largest loss against fp32: points of top-1 on ``eval_data``, or percent of images
            with another best class if the images have no classes. Without ``eval_data``, a quarter of ``calib`` is
            held back to measure it on.
        max_p99_ms: with ``auto``, the largest p99 of a classification in milliseconds.
        labels: text file with one label a line, instead of the checkpoint's labels.
        logits: name of the output with the logits, for an ``.onnx`` file with several outputs.
        activation: how logits become scores, if the source does not say it: ``softmax`` for one class an image, or
            ``sigmoid`` for any number of labels an image. A head of one logit with ``sigmoid`` gives two answers.
        preprocessing: how images become inputs, if the source does not say it or says it wrongly: a JSON file with
            timm's keys, ``preprocessor_config.json`` of Transformers, the manifest of a bundle, or ``timm:NAME`` for
            the preprocessing of a timm model.
        num_classes: number of logits of a named model, if it differs from the pretraining.
        input_size: side, or (height, width), in pixels, if it differs from the training; position embeddings and
            relative-position tables are interpolated.
        output: path of the new bundle; by default ``NAME-PRECISION.bundle`` in the current folder.
        overwrite: replace a bundle of that name, in one step and once the new one is verified.
        threads: number of CPU threads, 1…1024; by default the engine decides. Graphs do not depend on it.
        progress: receives the steps; ``vitedge.Terminal()`` prints them.

    Returns:
        The bundle, which was verified before it was published. If anything fails, nothing is left on the disk.

    Raises:
        UsageError: the arguments contradict each other, or ``output`` exists and is not to be replaced.
        MissingExtraError: an optional package is missing.
        CheckpointError: weights, configuration or labels do not fit together.
        CalibrationError: the images cannot be used.
        FrameSourceError: the video to calibrate on cannot be read.
        ConversionError: export, quantization, compilation or verification failed, or no precision meets the contract.
    """
    parsed, checked_target = _source(source, logits), _target(target)
    contract = _contract(precision, checked_target, max_drop, max_p99_ms)
    request = Request(
        source=parsed,
        target=checked_target,
        precision="int8" if contract is not None else _precision(precision, checked_target),
        contract=contract,
        model=ModelOptions(
            weights=_path(weights),
            random_weights=random_weights,
            labels=_path(labels),
            preprocessing=None if preprocessing is None else str(preprocessing),
            num_classes=num_classes,
            input_size=(input_size, input_size) if isinstance(input_size, int) else input_size,
        ),
        activation=_activation(activation),
        calib=_path(calib),
        eval_data=_path(eval_data),
        abstain_error=abstain_error,
        output=_path(output) or Path(f"{parsed.name}-{precision}.bundle"),
        overwrite=overwrite,
    )
    _check(request)
    check_threads(threads)
    import_packages("vitedge convert")
    from vitedge.converters.pipeline import run

    with computing_in(threads):
        return run(request, progress)


def import_packages(purpose: str) -> None:
    """Import what reads checkpoints, with PyTorch's caches in folders of this user.

    Raises:
        MissingExtraError: a package is missing, which ``purpose`` needs.
    """
    with contextlib.suppress(RuntimeError):  # no home folder
        # PyTorch makes this folder when it is imported; its own choice, in /tmp, has a name that others can take first.
        with contextlib.suppress(OSError):
            make_private(COMPILED)  # PyTorch would let the umask decide who may write into the cache
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder().absolute() / COMPILED))
    with away_from_current_folder():
        for package in PACKAGES:
            require(package, extra="convert", purpose=purpose)
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))  # PyTorch knows the affinity, not the quota


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else expanded(value)


def _activation(name: str | None) -> Activation | None:
    known: tuple[Activation, ...] = get_args(Activation)
    for activation in known:
        if activation == name:
            return activation
    if name is None:
        return None
    raise UsageError(
        f"there is no activation {name!r:.60}", expected=f"one of {', '.join(known)}", fix=did_you_mean(name, known)
    )


def _source(source: str | Path, logits: str | None) -> Source:
    parsed = parse_source(str(source))
    if logits is None:
        return parsed
    if not isinstance(parsed, OnnxFile):
        raise UsageError(f"logits= is not for this source: {parsed.name} has one output")
    return replace(parsed, logits=logits)


def _target(name: str) -> Target:
    target = target_named(name)
    if target.refusal:
        raise UsageError(
            f"vitedge does not convert for {name}: {target.refusal}",
            expected=f"one of {', '.join(each.name for each in TARGETS if not each.refusal)}",
        )
    return target


def _contract(precision: str, target: Target, max_drop: float | None, max_p99_ms: float | None) -> Contract | None:
    """Return the contract of the precision ``auto``; None for every other precision."""
    limits = {"max_drop=": max_drop, "max_p99_ms=": max_p99_ms}
    if precision != AUTO:
        _precision(precision, target)  # before the limits, which are right beside a mistyped auto
        for name, value in limits.items():
            if value is not None:
                raise UsageError(f"{name} is for precision='auto'", fix=f"precision='auto', or leave out {name}")
        return None
    if not target.runs_here:
        raise UsageError(
            f"precision='auto' measures latency, and {target.name} cannot run where it is converted",
            expected=f"one of {', '.join(target.precisions)}",
        )
    if max_drop is None:
        raise UsageError("precision='auto' needs to know what may be lost", fix="max_drop=0.5, for half a point")
    for name, value in limits.items():
        if value is not None and not 0 <= value < math.inf:
            raise UsageError(f"{name}{value}", expected="a number, not below 0")
    return Contract(max_drop, max_p99_ms)


def _precision(name: str, target: Target) -> Precision:
    for precision in target.precisions:
        if precision == name:
            return precision
    names = [*target.precisions, *([AUTO] if target.runs_here else [])]
    if name == "fp8":
        raise UsageError(
            _no_fp8(target),
            expected=f"one of {', '.join(names)}",
            fix="precision='fp16', or precision='int8' with calib=DIR",
        )
    raise UsageError(
        f"target {target.name} has no precision {name!r}",
        expected=f"one of {', '.join(names)}",
        fix=did_you_mean(name, names),
    )


def _no_fp8(target: Target) -> str:
    if target.tensorrt is None:
        return f"target {target.name} has no fp8: {target.backend} does not compute in 8-bit floating point"
    return (
        f"target {target.name} has no fp8: its GPU has compute capability {target.tensorrt.compute_capabilities[-1]}, "
        f"and 8-bit floating point begins with {FP8_COMPUTE_CAPABILITY}"
    )


def _check(request: Request) -> None:
    check_output(request.output, overwrite=request.overwrite, names=BUNDLE_NAMES)
    if request.precision in ("int8", "fp8") and request.calib is None:
        raise UsageError(
            f"{request.precision if request.contract is None else 'auto'} needs images to calibrate with",
            expected="a folder of about 300 images like those the camera will see",
            fix="calib=IMAGES; without images, precision='fp16' needs none",
        )
    check_abstain_error(request.abstain_error)
    if request.abstain_error is not None and request.eval_data is None:
        raise UsageError("abstain_error= needs images with classes", fix="eval_data=DIR, one folder of images a label")
    _check_model_options(request.source, request.model)


def _check_model_options(source: Source, model: ModelOptions) -> None:
    for option in _SOURCE_OPTIONS:
        if getattr(model, option.name) not in (None, False) and not isinstance(source, option.sources):
            raise UsageError(f"{option.name}= is not for this source: {source.name} {option.otherwise}")
    if model.weights is not None and model.random_weights:
        raise UsageError("both weights= and random_weights= are given", expected="at most one of them")
    if model.num_classes is not None and not 1 <= model.num_classes <= LABELS:
        raise UsageError(f"the number of classes is {model.num_classes}", expected=f"1 to {LABELS}")
    if model.input_size is not None and not all(1 <= side <= INPUT_SIDE for side in model.input_size):
        raise UsageError(
            f"the input size is {model.input_size}", expected=f"height and width, each 1 to {INPUT_SIDE} pixels"
        )
