"""``vitedge models``: what this version was tried on, from the data of ``benchmarks/matrix.py``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from typing import Any

from vitedge.cli import output
from vitedge.errors import UsageError, did_you_mean
from vitedge.safety import escape

EPILOG = """\
examples:
  vitedge models
  vitedge models mobilevit
  vitedge models swin --json
"""
DATA = "models.json"
HEADING = f"{'name':<33} {'input':>7} {'parameters':>11} {'GMACs':>6}  {'int8 MB':>7}  {'fp16':>6} {'int8':>6}"


@dataclass(frozen=True)
class KnownModel:
    """A model that the matrix was run on.

    Attributes:
        name: what ``vitedge convert`` takes.
        family: its heading.
        input_size: (height, width) in pixels; zeros if nothing converted.
        parameters: of the PyTorch module; 0 if not measured.
        macs: multiply-accumulates for one image; 0 if not measured.
        speedups: by precision, over ONNX Runtime in fp32 on the machine that the matrix ran on.
        megabytes: of the bundle, by precision, 10⁶ bytes.
        failed: by precision, first line of the error.
    """

    name: str
    family: str
    input_size: tuple[int, int]
    parameters: int
    macs: int
    speedups: Mapping[str, float]
    megabytes: Mapping[str, float]
    failed: Mapping[str, str]


@dataclass(frozen=True)
class Known:
    """The matrix: where and when it was run, and its models."""

    date: str
    processor: str
    models: tuple[KnownModel, ...]


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "models",
        help="models that were tried, by family",
        description="List the models that were converted and measured, by family.",
        epilog=EPILOG,
    )
    parser.add_argument("filter", nargs="?", default="", metavar="FILTER", help="part of a name or of a family")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run, parser=parser)


def known_models() -> Known:
    """What the package carries."""
    data = json.loads((files("vitedge") / DATA).read_text(encoding="utf-8"))
    return Known(data["date"], data["processor"], tuple(_model(each) for each in data["models"]))


def _model(value: Mapping[str, Any]) -> KnownModel:
    converted = {name: each for name, each in value["precisions"].items() if not each["failed"]}
    return KnownModel(
        name=value["name"],
        family=value["family"],
        input_size=(value["input_size"][0], value["input_size"][1]),
        parameters=value["parameters"],
        macs=value["macs"],
        speedups={name: each["speedup"] for name, each in converted.items()},
        megabytes={name: each["megabytes"] for name, each in converted.items()},
        failed={name: each["failed"] for name, each in value["precisions"].items() if each["failed"]},
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the models whose name or family contains the filter.

    Raises:
        UsageError: there are none.
    """
    known = known_models()
    chosen = _filtered(known.models, arguments.filter)
    output.write(_as_json(known, chosen) if arguments.json else _as_table(known, chosen))
    return 0


def _filtered(models: Sequence[KnownModel], text: str) -> list[KnownModel]:
    chosen = [model for model in models if text.lower() in f"{model.name} {model.family}".lower()]
    if not chosen:
        names = sorted({model.name for model in models} | {model.family for model in models})
        raise UsageError(
            f"no model of the list matches {text!r}",
            expected="part of a name or of a family",
            fix=did_you_mean(text, names) or "any other timm classifier can be tried: each conversion verifies itself",
        )
    return chosen


def _as_json(known: Known, models: Sequence[KnownModel]) -> str:
    listed = [
        {
            "name": model.name,
            "family": model.family,
            "input_size": list(model.input_size),
            "parameters": model.parameters,
            "macs": model.macs,
            "speedups": dict(model.speedups),
            "megabytes": dict(model.megabytes),
            "failed": dict(model.failed),
        }
        for model in models
    ]
    report = {"version": 1, "date": known.date, "processor": known.processor, "models": listed}
    return escape.json(report, indent=2) + "\n"


def _as_table(known: Known, models: Sequence[KnownModel]) -> str:
    lines = [HEADING]
    for family, group in groupby(models, key=lambda model: model.family):
        lines += ["", family, *(_line(model) for model in group)]
    lines += [
        "",
        f"fp16, int8: speed-up over ONNX Runtime in fp32, measured on {known.processor}, {known.date};",
        "vitedge bench measures yours.",
        "Other timm classifiers usually convert too; each conversion verifies itself. Fine-tuned checkpoints of any of",
        "them convert from their folder, or with --weights.",
    ]
    return "\n".join(lines) + "\n"


def _line(model: KnownModel) -> str:
    if not model.speedups and not model.failed:
        return f"  {model.name:<31} not measured yet"
    size = "x".join(map(str, model.input_size)) if model.input_size[0] else ""
    megabytes = f"{model.megabytes['int8']:.1f}" if "int8" in model.megabytes else ""
    speeds = [f"{model.speedups[name]:.2f}" if name in model.speedups else "fails" for name in ("fp16", "int8")]
    return (
        f"  {model.name:<31} {size:>7} {model.parameters / 1e6:>9.2f} M {model.macs / 1e9:>6.2f}  {megabytes:>7}  "
        f"{speeds[0]:>6} {speeds[1]:>6}"
    )
