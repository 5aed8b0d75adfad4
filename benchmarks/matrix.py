"""Every family in every precision: converted, compared with its source, timed against ONNX Runtime, OpenVINO and NNCF.

    python benchmarks/matrix.py [--data ../shared/data] [--json benchmarks/matrix.json] [--only NAME ...] [--images 16]
        [--work build/matrix]
    python benchmarks/matrix.py --prepare  convert and compare logits, time nothing: other programs may run beside it
    python benchmarks/matrix.py --page     write docs/models.md and vitedge/models.json from the JSON, measure nothing

A model is first prepared: converted, compared, and kept in the folder --work; then it is timed, which wants a quiet
machine, and removed from there. Each runs in a process of its own, so that none takes others down; a row is written
when it ends, and a second run goes on where the first was interrupted. A model that fails keeps its row, with the
reason. One whose times are refused, because the machine was busy or the times contradict each other, is timed again by
the next run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

from common.children import ChildFailedError, conversion_arguments, first_line, link_photos, run_in_child, versions
from common.families import FAMILIES, Listed
from common.peer_page import dots, geometric_means, picture, reason, table
from common.peers import OPPONENTS, REFERENCE, Comparison, compared_logits, comparison_from, timed
from common.taken import Taken, taken_now

import vitedge
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.targets import Precision
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.files import write_atomic
from vitedge.runtime.system.machine import machine_state, processor_name

ROOT = Path(__file__).resolve().parent.parent
PAGE, DATA = ROOT / "docs/models.md", ROOT / "vitedge/models.json"
PICTURE = "images/models.svg"
"""Seen from the page."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
PACKAGES = ("vitedge", "torch", "timm", "onnx", "onnxruntime", "openvino", "nncf")
ROUNDS = 8
ROW = "row.json"
"""What is known of a prepared model, in its folder."""
HELD_OUT = 64
"""Number of photos that nothing was calibrated on, to compare the logits of ours and of the peers on."""
SECONDS_A_MODEL = 3600
TUPLES = ("speedup_range", "float_layers")
"""The fields of a conversion that JSON holds as lists."""
LARGEST_GAP_DB = 10.0
"""Target: no int8 is further behind 16 bits."""
QUANTIZER = "vitedge"


@dataclass(frozen=True)
class Conversion:
    """One model in one precision.

    Attributes:
        failed: first line of the error; empty if it converted.
        cpu_seconds: of the conversion and its child processes, without the imports.
        megabytes: size of the bundle, 10⁶ bytes.
        ran_in: what the matrix products are computed in.
        source_sqnr_db: the FP32 graph against PyTorch.
        sqnr_db: the compiled engine against the FP32 graph.
        agreement: percent of images with the same top-1.
        p50_ms: median over the rounds of the engine's median.
        speedup: ONNX Runtime's time for the fp32 graph over the engine's, median over the rounds.
        speedup_range: smallest and largest of the rounds.
        quantizer: whose int8 it is, if it is int8.
        float_layers: names of the layers that int8 leaves in 16 bits.
    """

    failed: str = ""
    cpu_seconds: float = 0.0
    megabytes: float = 0.0
    ran_in: str = ""
    source_sqnr_db: float = 0.0
    sqnr_db: float = 0.0
    agreement: float = 0.0
    p50_ms: float = 0.0
    speedup: float = 0.0
    speedup_range: tuple[float, float] = (0.0, 0.0)
    quantizer: str = ""
    float_layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        name: what ``vitedge convert`` takes.
        family: heading.
        trained: whether its weights come from training.
        input_size: (height, width) in pixels.
        parameters: in the fp32 graph.
        macs: multiply-accumulates of matrix products and convolutions for one image, in the PyTorch module.
        conversions: by precision.
        versions: of the packages that took part.
        comparison: with the peers; None if it was not measured.
        taken: when and where; None in rows of earlier versions, which were measured when and where their file says.
    """

    name: str
    family: str
    trained: bool
    input_size: tuple[int, int]
    parameters: int
    macs: int
    conversions: Mapping[str, Conversion]
    versions: Mapping[str, str]
    comparison: Comparison | None = None
    taken: Taken | None = None


def prepared(listed: Listed, data: Path, images: int, folder: Path) -> Row:
    """Convert a model to every precision, and compare with its peers; what is to be timed stays in the folder."""
    calib = link_photos(data / "flowers/calib", folder / "calib", images)
    bundles: dict[str, Bundle] = {}
    found: dict[str, Conversion] = {}
    for precision in PRECISIONS:
        sys.stderr.write(f"  {precision}\n")
        found[precision] = converted(listed, precision, data, calib, folder, bundles)
    if "fp32" not in bundles:
        return replace(failed_row(listed, ""), conversions=found)
    preprocessing = bundles["fp32"].manifest.model.preprocessing
    photos = (ImageFolder.open(calib), ImageFolder.open(data / "flowers/val", limit=HELD_OUT))
    calibration, held_out = (each.load(preprocessing).frames for each in photos)
    compared = compared_logits(listed, data, folder, bundles, (calibration, held_out))
    parameters, macs = counts(listed, data, preprocessing.input_size)
    return Row(
        listed.name,
        listed.family,
        listed.trained,
        preprocessing.input_size,
        parameters,
        macs,
        found,
        versions(PACKAGES),
        compared,
        taken_now(),
    )


def timed_row(row: Row, folder: Path) -> Row:
    """Time what ``prepared`` left in the folder; a row without anything to time stays as it is."""
    if row.comparison is None or row.comparison.refused:
        return row
    converts = [precision for precision in PRECISIONS if not row.conversions[precision].failed]
    bundles = {precision: Bundle.open(folder / precision) for precision in converts}
    compared = timed(row.comparison, bundles, folder, ROUNDS)
    conversions = {
        name: replace(each, **speed(compared.rounds(name), compared.rounds(REFERENCE)))
        for name, each in row.conversions.items()
    }
    return replace(row, conversions=conversions, comparison=compared, taken=taken_now())


def converted(
    listed: Listed, precision: Precision, data: Path, calib: Path, folder: Path, bundles: dict[str, Bundle]
) -> Conversion:
    """Convert; the bundle goes into ``bundles`` if there is one."""
    begun = cpu_seconds()
    try:
        bundle = vitedge.convert(
            **conversion_arguments(listed, data, folder),
            target="cpu",
            precision=precision,
            calib=calib,
            output=folder / precision,
        )
    except Exception as error:  # noqa: BLE001  # a library may raise anything; the other precisions go on
        traceback.print_exc()
        return Conversion(failed=first_line(error))
    spent = cpu_seconds() - begun
    bundles[precision] = bundle
    verified, ran, calibration = bundle.manifest.verification, bundle.manifest.precision, bundle.manifest.calibration
    assert verified.fp32_against_source is not None
    return Conversion(
        cpu_seconds=round(spent, 1),
        megabytes=round(bundle.size_bytes / 1e6, 2),
        ran_in=ran.effective if ran.effective == ran.rest else f"{ran.effective}, rest {ran.rest}",
        quantizer="" if calibration is None else calibration.recipe.split(":")[0],
        float_layers=() if calibration is None else calibration.float_layers,
        source_sqnr_db=round(verified.fp32_against_source.sqnr_db, 1),
        sqnr_db=round(verified.precision_against_fp32.sqnr_db, 1),
        agreement=round(verified.precision_against_fp32.agreement, 2),
    )


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children that ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def counts(listed: Listed, data: Path, size: tuple[int, int]) -> tuple[int, int]:
    """Parameters and multiply-accumulates of the PyTorch module; half of torch's count of operations."""
    import timm
    import torch
    from common.untrained import build_classifier
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from vitedge.converters.sources.cswin_pvt.build import build
    from vitedge.converters.sources.cswin_pvt.variants import VARIANTS

    if listed.name in VARIANTS:
        module: Any = build(listed.name)
    elif listed.transformers:
        module = build_classifier(listed)
    elif listed.trained:
        module = timm.create_model(f"local-dir:{data / 'models' / listed.name}", pretrained=True)
    else:
        sized = {"img_size": listed.input_size} if listed.input_size else {}
        classes = {"num_classes": listed.num_classes} if listed.num_classes else {}
        module = timm.create_model(listed.name, exportable=True, **sized, **classes)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the counter does not see into the fused kernel
        module.eval()(torch.zeros(1, 3, *size))
    return sum(each.numel() for each in module.parameters()), counter.get_total_flops() // 2


def speed(rounds: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """Return the timing fields of a conversion; none without times."""
    if not rounds:
        return {}
    ratios = [theirs / ours for theirs, ours in zip(reference, rounds, strict=True)]
    return {
        "p50_ms": round(statistics.median(rounds), 2),
        "speedup": round(statistics.median(ratios), 2),
        "speedup_range": (round(min(ratios), 2), round(max(ratios), 2)),
    }


def prepare(listed: Listed, data: Path, images: int, work: Path) -> Row:
    """Prepare a model in a child, if it is not yet; whatever ends it, there is a row."""
    folder = work / listed.name
    if (folder / ROW).is_file():
        return kept_row(folder)
    sys.stderr.write(f"{listed.name}\n")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        options = ("--prepare", "--work", str(work))
        row = row_from(run_in_child(__file__, listed.name, data, images, seconds=SECONDS_A_MODEL, options=options))
    except ChildFailedError as error:
        row = failed_row(listed, str(error))
    write_atomic(folder / ROW, json.dumps(asdict(row)))
    return row


def kept_row(folder: Path) -> Row:
    """Read the row of a prepared model."""
    return row_from(json.loads((folder / ROW).read_text(encoding="utf-8")))


def timed_alone(row: Row, data: Path, images: int, work: Path) -> Row:
    """Time a prepared model in a child, and remove it from the folder unless it must be timed again."""
    sys.stderr.write(f"{row.name}: timing\n")
    try:
        options = ("--work", str(work))
        found = row_from(run_in_child(__file__, row.name, data, images, seconds=SECONDS_A_MODEL, options=options))
    except ChildFailedError as error:
        return row if row.comparison is None else replace(row, comparison=replace(row.comparison, refused=str(error)))
    if not _lacks_times(found):
        shutil.rmtree(work / row.name)
    return found


def failed_row(listed: Listed, reason: str) -> Row:
    """A row of a model of which nothing came."""
    nothing = {precision: Conversion(failed=reason) for precision in PRECISIONS}
    current = versions(PACKAGES)
    return Row(listed.name, listed.family, listed.trained, (0, 0), 0, 0, nothing, current, taken=taken_now())


def blank_row(listed: Listed) -> Row:
    """A row of a model that was not run yet."""
    return replace(failed_row(listed, ""), conversions={}, taken=None)


def row_from(value: Mapping[str, Any]) -> Row:
    """A row as JSON holds it."""
    conversions = {
        name: Conversion(**{**each, **{key: tuple(each[key]) for key in TUPLES if key in each}})
        for name, each in value["conversions"].items()
    }
    compared, taken = value.get("comparison"), value.get("taken")
    return Row(
        **{
            **value,
            "input_size": tuple(value["input_size"]),
            "conversions": conversions,
            "comparison": None if compared is None else comparison_from(compared),
            "taken": None if taken is None else Taken(**taken),
        }
    )


def read_rows(path: Path) -> list[Row]:
    """The rows of earlier runs."""
    return rows_of(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def rows_of(report: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a file; each says when and where it was measured."""
    whole = Taken(report["date"], report["processor"], report["machine"]["cpus"], report["python"])
    return [replace(row, taken=row.taken or whole) for row in map(row_from, report["rows"])]


def remaining(listed: Sequence[Listed], done: Sequence[Row], current: Mapping[str, str]) -> list[Listed]:
    """What has no row of these versions, of vitedge's own quantizer and with times of a quiet machine, yet."""
    finished = {
        row.name
        for row in done
        if dict(row.versions) == dict(current) and not _other_quantizer(row) and not _lacks_times(row)
    }
    return [each for each in listed if each.name not in finished]


def _lacks_times(row: Row) -> bool:
    """Return whether a row that could be timed was not timed beside the peers; one without an fp32 graph cannot be."""
    return not row.conversions["fp32"].failed and (row.comparison is None or bool(row.comparison.refused))


def _other_quantizer(row: Row) -> bool:
    return row.conversions["int8"].quantizer not in ("", QUANTIZER)


def with_row(rows: Sequence[Row], new: Row) -> list[Row]:
    """The rows with one replaced or added, in the order of the list."""
    order = [each.name for each in FAMILIES]
    kept = [row for row in rows if row.name != new.name and row.name in order]
    return sorted([*kept, new], key=lambda row: order.index(row.name))


def write_rows(path: Path, rows: Sequence[Row], images: int) -> None:
    """All that was measured, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "version": 1,
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "processor": processor_name(),
        "machine": asdict(machine_state()),
        "python": platform.python_version(),
        "images": images,
        "rows": [asdict(row) for row in rows],
    }
    write_atomic(path, json.dumps(report, indent=1) + "\n")


def by_family(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Families in the order of the list, each with its rows."""
    order = list(dict.fromkeys(each.family for each in FAMILIES))
    ordered = sorted(rows, key=lambda row: order.index(row.family))
    return [(family, list(group)) for family, group in groupby(ordered, key=lambda row: row.family)]


def cells(row: Row) -> list[str]:
    """What a line of the page shows."""
    full, half, quantized = (row.conversions[precision] for precision in PRECISIONS)
    size = "x".join(map(str, row.input_size)) if row.input_size[0] else ""
    counted = [f"{row.parameters / 1e6:.2f}", f"{row.macs / 1e9:.2f}"] if row.parameters else ["", ""]
    reasons = {each.failed: precision for precision, each in row.conversions.items() if each.failed}
    return [
        f"`{row.name}`",
        size,
        *counted,
        "" if full.failed else f"{full.source_sqnr_db:.0f}",
        *(fidelity(each) for each in (half, quantized)),
        "" if (behind := gap_db(row)) is None else f"{behind:.1f}",
        str(len(quantized.float_layers) or ""),
        *(faster(each) for each in (full, half, quantized)),
        *("" if each.failed else f"{each.megabytes:.1f}" for each in (full, quantized)),
        f"{quantized.cpu_seconds:.0f}" if quantized.cpu_seconds else "",
        "; ".join(f"{precision}: {reason}" for reason, precision in reasons.items()).replace("|", "\\|"),
    ]


def gap_db(row: Row) -> float | None:
    """Return how far int8 is behind 16 bits: the difference of their SQNR against the FP32 graph."""
    half, quantized = row.conversions["fp16"], row.conversions["int8"]
    return None if half.failed or quantized.failed else half.sqnr_db - quantized.sqnr_db


def wide_gaps(rows: Sequence[Row]) -> str:
    """Name the rows whose gap is above the target."""
    wide = [f"`{row.name}` {gap:.1f}" for row in rows if (gap := gap_db(row)) is not None and gap > LARGEST_GAP_DB]
    limit = f"{LARGEST_GAP_DB:.0f} dB"
    return f"Gaps above {limit}: {', '.join(wide)}." if wide else f"No gap is above {limit}."


def kept_layers(rows: Sequence[Row]) -> list[str]:
    """Name the layers that int8 leaves in 16 bits, for each row that has some."""
    found = {row.name: row.conversions["int8"].float_layers for row in rows}
    lines = [f"- `{name}`: {', '.join(layers)}" for name, layers in found.items() if layers]
    return ["## Layers that int8 leaves in 16 bits", "", *lines, ""] if lines else []


def fidelity(found: Conversion) -> str:
    """SQNR and agreement, or that there are none."""
    return "failed" if found.failed else f"{found.sqnr_db:.0f} dB, {found.agreement:.0f} %"


def faster(found: Conversion) -> str:
    """Speed-up with its range; empty without times."""
    low, high = found.speedup_range
    return f"{found.speedup:.2f} ({low:.2f}-{high:.2f})" if found.p50_ms else ""


HEADINGS = (
    "model",
    "input",
    "M parameters",
    "GMACs",
    "fp32 graph, dB",
    "fp16",
    "int8",
    "gap, dB",
    "16-bit layers",
    "fp32 speed-up",
    "fp16 speed-up",
    "int8 speed-up",
    "fp32 MB",
    "int8 MB",
    "int8 CPU s",
    "what failed",
)


def not_run(rows: Sequence[Row]) -> str:
    """What the list has and the rows have not."""
    missing = [f"`{each.name}`" for each in FAMILIES if each.name not in {row.name for row in rows}]
    return f" Not run yet: {', '.join(missing)}." if missing else ""


def other_quantizers(rows: Sequence[Row]) -> str:
    """Whose int8 is not of today's quantizer."""
    others = {row.name: row.conversions["int8"].quantizer for row in rows if _other_quantizer(row)}
    if not others:
        return ""
    named = ", ".join(f"`{name}`" for name in others)
    return f" The int8 of these is of an earlier quantizer ({', '.join(sorted({*others.values()}))}): {named}."


def measurements(rows: Sequence[Row]) -> list[str]:
    """Say when, where and with which packages the rows were measured; name the rows that differ from most."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_circumstances(row), []).append(row)
    lines = []
    for rank, (text, group) in enumerate(sorted(groups.items(), key=lambda each: -len(each[1]))):
        dates = sorted({row.taken.date for row in group if row.taken is not None})
        span = " to ".join(dict.fromkeys((dates[0], dates[-1])))
        named = f" · {', '.join(f'`{row.name}`' for row in group)}" if rank else ""
        lines += [f"{span} · {text}{named}", ""]
    return lines


def _circumstances(row: Row) -> str:
    assert row.taken is not None
    packages = ", ".join(f"{name} {version}" for name, version in row.versions.items())
    return f"{row.taken.processor}, {row.taken.cpus} CPUs · Python {row.taken.python}, {packages}"


def page(report: Mapping[str, Any]) -> str:
    """``docs/models.md``."""
    rows = rows_of(report)
    worked = sum(not each.failed for row in rows for each in row.conversions.values())
    lines = [
        "# Models",
        "",
        "Written by `benchmarks/matrix.py`; no row was typed by hand.",
        "",
        *measurements(rows),
        f"{len(rows)} models in {len(PRECISIONS)} precisions: {worked} of {len(rows) * len(PRECISIONS)} conversions "
        f"succeeded.{not_run(rows)}{other_quantizers(rows)}",
        "",
        "- *fp32 graph, dB*: the FP32 graph against PyTorch, SQNR of the logits; 80 dB is float32's own rounding.",
        f"- *fp16*, *int8*: the compiled engine against the FP32 graph on the {report['images']} photos that int8 was "
        "calibrated on: SQNR and share of equal top-1.",
        "- *gap, dB*: how far int8 is behind fp16, the difference of their SQNR; *16-bit layers*: how many layers int8 "
        "leaves in 16 bits because they would widen it (`docs/quantization.md`).",
        "- *speed-up*: how many times faster than ONNX Runtime in fp32 on the same rewritten graph; median of "
        f"{ROUNDS} rounds in turns (smallest-largest).",
        "- *int8 CPU s*: CPU seconds that the conversion took; other programs on the machine do not change them.",
        "",
        "Only the models under *trained* have weights from training. The others have random weights, whose SQNR and "
        "agreement alone say nothing about accuracy: networks with BatchNorm and random weights amplify any noise. The "
        "gap cancels most of it, because the same network amplifies the noise of 16 bits.",
        "",
        wide_gaps(rows),
        "",
    ]
    for family, group in by_family(rows):
        lines += [f"## {family}", "", f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
        lines += [f"| {' | '.join(cells(row))} |" for row in group] + [""]
    compared = {row.name: row.comparison for row in rows}
    address = PICTURE if drawn(rows) else ""
    return "\n".join([*lines, *kept_layers(rows), *table(compared, address), *geometric_means(compared)])


def drawn(rows: Sequence[Row]) -> str:
    """Draw time against SQNR of ours and of the peers; empty where nothing was timed."""
    trained = frozenset(row.name for row in rows if row.trained)
    found = list(dots({row.name: row.comparison for row in rows}, trained))
    return picture(found) if found else ""


def packaged(report: Mapping[str, Any]) -> dict[str, Any]:
    """What ``vitedge models`` shows, as ``vitedge/models.json`` holds it."""
    rows = rows_of(report)
    waiting = [blank_row(each) for each in FAMILIES if each.name not in {row.name for row in rows}]
    return {
        "version": 1,
        "models": [
            {
                "name": row.name,
                "family": row.family,
                "input_size": list(row.input_size),
                "parameters": row.parameters,
                "macs": row.macs,
                "processor": row.taken.processor if row.taken is not None else "",
                "date": row.taken.date if row.taken is not None else "",
                "precisions": {
                    precision: {
                        "failed": each.failed,
                        "speedup": each.speedup,
                        "p50_ms": each.p50_ms,
                        "megabytes": each.megabytes,
                    }
                    for precision, each in row.conversions.items()
                },
                "peers": {} if row.comparison is None else packaged_peers(row.comparison),
                "against_pytorch": {} if row.comparison is None else packaged_fidelity(row.comparison),
            }
            for family, group in by_family([row for row in [*rows, *waiting] if not row.trained])
            for row in group
        ],
    }


def packaged_peers(compared: Comparison) -> dict[str, Any]:
    """Return how each peer that runs compares with ours, and why it is faster if it is."""
    faster = compared.faster_peers()
    return {
        peer: {
            "precision": ours,
            "time_ratio": None if ratios is None else round(statistics.median(ratios), 3),
            "time_ratio_range": None if ratios is None else [round(min(ratios), 3), round(max(ratios), 3)],
            "sqnr_db": compared.contenders[peer].sqnr_db,
            "agreement": compared.contenders[peer].agreement,
            "collapsed": compared.collapsed(peer),
            "reason": reason(compared, peer) if peer in faster else "",
        }
        for peer, ours in OPPONENTS.items()
        if ours in compared.contenders and not compared.contenders[peer].failed
        for ratios in [compared.ratios(peer)]
    }


def packaged_fidelity(compared: Comparison) -> dict[str, Any]:
    """Return SQNR and agreement of our bundles."""
    ours = {name: each for name, each in compared.contenders.items() if name in PRECISIONS and not each.failed}
    return {name: {"sqnr_db": each.sqnr_db, "agreement": each.agreement} for name, each in ours.items()}


def write_page(path: Path) -> None:
    """The page, its picture and the packaged data, from the JSON."""
    report = json.loads(path.read_text(encoding="utf-8"))
    if image := drawn(rows_of(report)):
        write_atomic(PAGE.parent / PICTURE, image)
    write_atomic(PAGE, page(report))
    write_atomic(DATA, json.dumps(packaged(report), indent=1) + "\n")


def main() -> int:
    """Measure what is not measured yet, row by row; then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/matrix.json"))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--images", type=int, default=16, help="to calibrate and compare on")
    parser.add_argument("--work", type=Path, default=Path("build/matrix"), help="folder for prepared models")
    parser.add_argument("--prepare", action="store_true", help="time nothing")
    parser.add_argument("--page", action="store_true", help="only write the pages")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    known = {each.name: each for each in FAMILIES}
    data, images, work = arguments.data, arguments.images, arguments.work
    if arguments.child:
        folder, listed = work / arguments.child, known[arguments.child]
        done = prepared(listed, data, images, folder) if arguments.prepare else timed_row(kept_row(folder), folder)
        print(json.dumps(asdict(done)))
        return 0
    rows = read_rows(arguments.json)
    chosen = [known[name] for name in arguments.only] or list(FAMILIES)
    for listed in [] if arguments.page else remaining(chosen, rows, versions(PACKAGES)):
        row = prepare(listed, data, images, work)
        if not arguments.prepare:
            rows = with_row(rows, timed_alone(row, data, images, work))
            write_rows(arguments.json, rows, images)
    if arguments.prepare:
        return 0
    write_page(arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
