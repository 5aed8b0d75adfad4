"""``vitedge models``: the models that this version was measured on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from vitedge.cli.reports import add_json_flag, write_result
from vitedge.verbs.models import KnownModel, models

EPILOG = """\
examples:
  vitedge models
  vitedge models mobilevit
  vitedge models swin --json
"""
HEADING = f"{'name':<33} {'input':>7} {'parameters':>11} {'GMACs':>6}  {'int8 MB':>7}  {'fp16':>6} {'int8':>6}"


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser(
        "models",
        help="models that were tried, by family",
        description="List the models that were converted and measured, by family.",
        epilog=EPILOG,
    )
    parser.add_argument("filter", nargs="?", default="", metavar="FILTER", help="part of a name or of a family")
    add_json_flag(parser, "the models")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the models whose name or family contains the filter."""
    found = models(arguments.filter)
    write_result(arguments.json, lambda: _as_json(found), lambda: _as_table(found))
    return 0


def _as_json(models: Sequence[KnownModel]) -> dict[str, Any]:
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
    return {"version": 1, "date": models[0].date, "processor": models[0].processor, "models": listed}


def _as_table(models: Sequence[KnownModel]) -> str:
    lines = [HEADING]
    for family, group in groupby(models, key=lambda model: model.family):
        lines += ["", family, *(_line(model) for model in group)]
    lines += [
        "",
        f"fp16, int8: speed-up over ONNX Runtime in fp32, measured on {models[0].processor}, {models[0].date};",
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
