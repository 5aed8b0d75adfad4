"""``convert``: a checkpoint to a Bundle. Checks the request before anything heavy is imported or computed."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.targets import FP8_COMPUTE_CAPABILITY, TARGETS, Precision, Target, target_named
from vitedge.calib.evaluation.score_calibration import check_abstain_error
from vitedge.converters.publish import check_output
from vitedge.converters.sources.parse import Factory, HubFolder, HubRepo, Source, TimmName, VariantName, parse_source
from vitedge.errors import UsageError, did_you_mean
from vitedge.extras import require
from vitedge.progress import Progress, Silent
from vitedge.runtime.system.cache import cache_folder, make_private
from vitedge.safety.files import expanded
from vitedge.safety.limits import INPUT_SIDE, LABELS
from vitedge.safety.loading import away_from_current_folder

AUTO = "auto"
COMPILED = "torchinductor"
"""Folder of the cache in which PyTorch would keep what it compiles."""
PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "openvino", "safetensors", "PIL")


@dataclass(frozen=True)
class Contract:
    """What ``--precision auto`` must keep.

    Attributes:
        max_drop: largest loss against fp32: points of top-1, or percent of images with another best class where the
            images have no classes.
        max_p99_ms: largest p99 of a classification, in milliseconds; None for any.
    """

    max_drop: float
    max_p99_ms: float | None


@dataclass(frozen=True)
class Request:
    """What to convert, checked.

    Attributes:
        source: where the model comes from.
        target: what it will run on.
        precision: what it will run in; with a contract, the cheapest that is tried.
        contract: by which the precision is chosen; None where it was named.
        weights: weight file for a name or a factory; None for timm's own download, or the factory's weights.
        random_weights: give a name random weights.
        calib: folder, list or video of images like those the camera will see.
        eval_data: folder of labelled images to measure accuracy on.
        abstain_error: share of wrong answers, 0…1, that the threshold for abstaining is fitted to; None for none.
        labels: text file with one label a line; None for those of the checkpoint.
        preprocessing: JSON file, or ``timm:NAME``; None for what the checkpoint says.
        num_classes: number of logits that a named model is built with; None for that of its weights.
        input_size: (height, width) in pixels; None for the size that the model was trained at.
        output: the bundle to write; does not exist.
    """

    source: Source
    target: Target
    precision: Precision
    contract: Contract | None
    weights: Path | None
    random_weights: bool
    calib: Path | None
    eval_data: Path | None
    abstain_error: float | None
    labels: Path | None
    preprocessing: str | None
    num_classes: int | None
    input_size: tuple[int, int] | None
    output: Path


@dataclass(frozen=True)
class _Option:
    """An option that only some sources take.

    Attributes:
        name: as on the command line.
        field: of the request.
        sources: that take it.
        otherwise: what another source has instead; follows its name.
    """

    name: str
    field: str
    sources: tuple[type[Source], ...]
    otherwise: str


_OPTIONS = (
    _Option("--weights", "weights", (TimmName, VariantName, Factory), "has its own weights"),
    _Option("--random-weights", "random_weights", (TimmName, VariantName), "has its own weights"),
    _Option("--num-classes", "num_classes", (TimmName, VariantName), "has its own number of classes"),
    _Option(
        "--input-size",
        "input_size",
        (TimmName, VariantName, HubFolder, HubRepo, Factory),
        "has the input size that it was exported with: export it again at the size that you want",
    ),
)


def convert(
    source: str | Path,
    *,
    target: str,
    precision: str,
    weights: str | Path | None = None,
    random_weights: bool = False,
    calib: str | Path | None = None,
    eval_data: str | Path | None = None,
    abstain_error: float | None = None,
    max_drop: float | None = None,
    max_p99_ms: float | None = None,
    labels: str | Path | None = None,
    preprocessing: str | Path | None = None,
    num_classes: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    output: str | Path | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> Bundle:
    """Check a request and carry it out; arguments, result and errors are those of ``vitedge.convert``."""
    found = parse_source(str(source))
    aim = _target(target)
    contract = _contract(precision, aim, max_drop, max_p99_ms)
    asked: Precision = "int8" if contract is not None else _precision(precision, aim)
    request = Request(
        source=found,
        target=aim,
        precision=asked,
        contract=contract,
        weights=_path(weights),
        random_weights=random_weights,
        calib=_path(calib),
        eval_data=_path(eval_data),
        abstain_error=abstain_error,
        labels=_path(labels),
        preprocessing=None if preprocessing is None else str(preprocessing),
        num_classes=num_classes,
        input_size=(input_size, input_size) if isinstance(input_size, int) else input_size,
        output=_path(output) or Path(f"{found.name}-{precision}.bundle"),
    )
    _check(request)
    _import_packages()
    from vitedge.converters.pipeline import run

    return run(request, progress)


def _import_packages() -> None:
    with contextlib.suppress(RuntimeError):  # no home folder
        # PyTorch makes this folder when it is imported; its own choice, in /tmp, has a name that others can take first.
        with contextlib.suppress(OSError):
            make_private(COMPILED)  # PyTorch would let the umask decide who may write into the cache
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder().absolute() / COMPILED))
    with away_from_current_folder():
        for package in PACKAGES:
            require(package, extra="convert", purpose="vitedge convert")


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else expanded(value)


def _target(name: str) -> Target:
    target = target_named(name)
    if target.refusal:
        raise UsageError(
            f"vitedge does not convert for {name}: {target.refusal}",
            expected=f"one of {', '.join(each.name for each in TARGETS if not each.refusal)}",
        )
    return target


def _contract(precision: str, target: Target, max_drop: float | None, max_p99_ms: float | None) -> Contract | None:
    """That of ``--precision auto``; None for every other precision."""
    limits = {"--max-drop": max_drop, "--max-p99": max_p99_ms}
    if precision != AUTO:
        for name, value in limits.items():
            if value is not None:
                raise UsageError(f"{name} is for --precision auto", fix=f"--precision auto, or leave out {name}")
        return None
    if not target.runs_here:
        raise UsageError(
            f"--precision auto measures latency, and {target.name} cannot run where it is converted",
            expected=f"one of {', '.join(target.precisions)}",
        )
    if max_drop is None:
        raise UsageError("--precision auto needs to know what may be lost", fix="--max-drop 0.5, for half a point")
    for name, value in limits.items():
        if value is not None and not 0 <= value < math.inf:
            raise UsageError(f"{name} is {value}", expected="a number, not below 0")
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
            fix="--precision fp16, or int8 with --calib DIR",
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
    check_output(request.output)
    if request.precision in ("int8", "fp8") and request.calib is None:
        raise UsageError(
            f"{request.precision if request.contract is None else 'auto'} needs images to calibrate with",
            expected="a folder of about 300 images like those the camera will see",
            fix="--calib IMAGES; without images, --precision fp16 needs none",
        )
    check_abstain_error(request.abstain_error)
    if request.abstain_error is not None and request.eval_data is None:
        raise UsageError("--abstain-error needs images with classes", fix="--eval DIR, one folder of images a label")
    for option in _OPTIONS:
        if getattr(request, option.field) not in (None, False) and not isinstance(request.source, option.sources):
            raise UsageError(f"{option.name} is not for this source: {request.source.name} {option.otherwise}")
    if request.weights is not None and request.random_weights:
        raise UsageError("both --weights and --random-weights are given", expected="at most one of them")
    if request.num_classes is not None and not 1 <= request.num_classes <= LABELS:
        raise UsageError(f"the number of classes is {request.num_classes}", expected=f"1 to {LABELS}")
    if request.input_size is not None and not all(1 <= side <= INPUT_SIDE for side in request.input_size):
        raise UsageError(
            f"the input size is {request.input_size}", expected=f"height and width, each 1 to {INPUT_SIDE} pixels"
        )
