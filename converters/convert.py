"""``convert``: a checkpoint to a Bundle. Checks the request before anything heavy is imported or computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitedge.bundle import Bundle
from vitedge.converters.publish import check_output
from vitedge.converters.sources import Source, TimmName, parse_source
from vitedge.errors import UsageError, did_you_mean
from vitedge.extras import require
from vitedge.progress import Progress, Silent
from vitedge.targets import Precision, Target, target_named

PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "openvino", "safetensors", "PIL")


@dataclass(frozen=True)
class Request:
    """What to convert, checked.

    Attributes:
        source: where the model comes from.
        target: what it will run on.
        precision: what it will run in.
        weights: weight file for a timm name; None for timm's own download.
        random_weights: give a timm name random weights.
        calib: folder of images like those the camera will see.
        eval_data: folder of labelled images to measure accuracy on.
        labels: text file with one label a line; None for those of the checkpoint.
        output: the bundle to write; does not exist.
    """

    source: Source
    target: Target
    precision: Precision
    weights: Path | None
    random_weights: bool
    calib: Path | None
    eval_data: Path | None
    labels: Path | None
    output: Path


def convert(
    source: str | Path,
    *,
    target: str,
    precision: str,
    weights: str | Path | None = None,
    random_weights: bool = False,
    calib: str | Path | None = None,
    eval_data: str | Path | None = None,
    labels: str | Path | None = None,
    output: str | Path | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> Bundle:
    """Check a request and carry it out; arguments, result and errors are those of ``vitedge.convert``."""
    found = parse_source(str(source))
    aim = target_named(target)
    asked = _precision(precision, aim)
    request = Request(
        source=found,
        target=aim,
        precision=asked,
        weights=_path(weights),
        random_weights=random_weights,
        calib=_path(calib),
        eval_data=_path(eval_data),
        labels=_path(labels),
        output=_path(output) or Path(f"{found.name}-{asked}.bundle"),
    )
    _check(request)
    for package in (*PACKAGES, *(["nncf"] if asked == "int8" else [])):
        require(package, extra="convert", purpose="vitedge convert")
    from vitedge.converters.pipeline import run

    return run(request, progress)


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value).expanduser()


def _precision(name: str, target: Target) -> Precision:
    for precision in target.precisions:
        if precision == name:
            return precision
    raise UsageError(
        f"target {target.name} has no precision {name!r}",
        expected=f"one of {', '.join(target.precisions)}",
        fix=did_you_mean(name, target.precisions),
    )


def _check(request: Request) -> None:
    check_output(request.output)
    if request.precision == "int8" and request.calib is None:
        raise UsageError(
            "int8 needs images to calibrate with",
            expected="a folder of about 300 images like those the camera will see",
            fix="--calib DIR; without images, --precision fp16 needs none",
        )
    for option, given in (("--weights", request.weights is not None), ("--random-weights", request.random_weights)):
        if given and not isinstance(request.source, TimmName):
            raise UsageError(f"{option} is for timm names; {request.source.name} has its own weights")
    if request.weights is not None and request.random_weights:
        raise UsageError("both --weights and --random-weights are given", expected="at most one of them")
