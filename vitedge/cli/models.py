"""``vitedge models``: the models that this version was measured on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
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
HEADING = (
    f"{'name':<34} {'input':>7} {'parameters':>11} {'GMACs':>6}  {'int8 MB':>7}  {'fp16':>6} {'int8':>6}  "
    f"{'/ NNCF':>7} {'dB':>6} {'NNCF':>5}"
)


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser(
        "models",
        help="models that were tried, by family",
        description="List the models that were converted and measured, by family.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "filter", nargs="?", default="", metavar="FILTER", help="part of a name or of a family (default: list all)"
    )
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
            "sqnr_db": dict(model.sqnr_db),
            "agreement": dict(model.agreement),
            "peers": {name: asdict(peer) for name, peer in model.peers.items()},
            "processor": model.processor,
            "date": model.date,
        }
        for model in models
    ]
    latest = max(models, key=lambda model: model.date)
    return {"version": 1, "date": latest.date, "processor": latest.processor, "models": listed}


def _as_table(models: Sequence[KnownModel]) -> str:
    lines = [HEADING]
    for family, group in groupby(models, key=lambda model: model.family):
        lines += ["", family, *(_line(model) for model in group)]
    lines += [
        "",
        "fp16, int8: speed-up over ONNX Runtime in fp32; vitedge bench measures yours.",
        *_circumstances(models),
        *_peer_notes(models),
        "Other timm classifiers usually convert too; each conversion verifies itself. Fine-tuned checkpoints of any of",
        "them convert from their folder, or with --weights.",
    ]
    return "\n".join(lines) + "\n"


def _line(model: KnownModel) -> str:
    if not model.speedups and not model.failed:
        return f"  {model.name:<32} not measured yet"
    size = "x".join(map(str, model.input_size)) if model.input_size[0] else ""
    megabytes = f"{model.megabytes['int8']:.1f}" if "int8" in model.megabytes else ""
    speeds = [_speed(model, name) for name in ("fp16", "int8")]
    ratio, ours, theirs = _beside_nncf(model)
    return (
        f"  {model.name:<32} {size:>7} {model.parameters / 1e6:>9.2f} M {model.macs / 1e9:>6.2f}  {megabytes:>7}  "
        f"{speeds[0]:>6} {speeds[1]:>6}  {ratio:>7} {ours:>6} {theirs:>5}"
    )


def _speed(model: KnownModel, precision: str) -> str:
    if precision in model.failed:
        return "fails"
    return f"{model.speedups[precision]:.2f}" if precision in model.speedups else "-"


def _beside_nncf(model: KnownModel) -> tuple[str, str, str]:
    """Return the ratio of the times, the SQNR of vitedge's int8 and the peer's; ``-`` for what was not measured."""
    peer = model.fastest_int8_peer
    ours = f"{model.sqnr_db['int8']:.1f}" if "int8" in model.sqnr_db else "-"
    if peer is not None and peer.time_ratio is not None:
        mark = "*" if peer.time_ratio > 1 else ""
        return f"{mark}{peer.time_ratio:.2f}", ours, f"{peer.sqnr_db:.1f}"
    others = [each for each in model.peers.values() if each.precision == "int8"]
    if others and all(each.collapsed for each in others):
        return "none", ours, f"{max(each.sqnr_db for each in others):.1f}"
    return "-", ours, "-"


def _circumstances(models: Sequence[KnownModel]) -> list[str]:
    """Say when and where the models were measured, a processor a line."""
    dates: dict[str, set[str]] = {}
    for model in models:
        if model.processor:
            dates.setdefault(model.processor, set()).add(model.date)
    return [
        f"Measured on {processor}, {' to '.join(dict.fromkeys((min(days), max(days))))}."
        for processor, days in dates.items()
    ]


def _peer_notes(models: Sequence[KnownModel]) -> list[str]:
    if not any(model.peers for model in models):
        return ["/ NNCF, dB, NNCF: a comparison with NNCF's int8 on OpenVINO's own IR; not measured yet."]
    return [
        "/ NNCF: time of int8 over NNCF's fastest int8 on OpenVINO's own IR; *: NNCF is faster (why: docs/models.md).",
        "dB, NNCF: SQNR of the logits of both against PyTorch; none: NNCF's int8 loses the answers; -: not measured.",
    ]
