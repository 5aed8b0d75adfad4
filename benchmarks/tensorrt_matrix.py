"""Every family as TensorRT engines, fp16 and int8, compiled for real by TensorRT for RTX, which needs no GPU for it.

    python benchmarks/tensorrt_matrix.py [--data ../shared/data] [--json benchmarks/tensorrt.json] [--only NAME ...]
    python benchmarks/tensorrt_matrix.py --page     write docs/tensorrt.md from the JSON, build nothing

Sizes and seconds are a record, no claim about a device. The first model of each family is taken unless ``--all``. A
model runs in a process of its own; its row is written when it ends, and a second run goes on where the first was
interrupted. A model that fails keeps its row, with the reason.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from common.children import ChildFailedError, conversion_arguments, first_line, link_photos, run_in_child, versions
from common.families import FAMILIES, Listed
from common.pages import TENSORRT_PAGE, write_between

import vitedge
from vitedge.bundle.bundle import MODEL_FP16_ONNX, MODEL_ONNX, Bundle
from vitedge.converters.tensorrt.casts import Counts, counts
from vitedge.files import write_atomic
from vitedge.metrics import Parity
from vitedge.runtime.engines.tensorrt.build.builder import build_plan
from vitedge.runtime.engines.tensorrt.layers import attention_blocks, effective_precision
from vitedge.runtime.system.machine import processor_name

ROOT = Path(__file__).resolve().parent.parent
GRAPHS: Mapping[str, str] = {"fp16": MODEL_FP16_ONNX, "int8": MODEL_ONNX}
PACKAGES = ("vitedge", "tensorrt_rtx", "onnx", "onnxruntime", "torch", "timm")
SECONDS_A_MODEL = 1800


@dataclass(frozen=True)
class Build:
    """One graph, built.

    Attributes:
        failed: first line of the error; empty if it built.
        counts: quantizers and changes of precision in the graph.
        sqnr_db: of the graph in ONNX Runtime, every value rounded, against the FP32 graph.
        onnx_mb: size of the graph, 10⁶ bytes.
        plan_mb: size of the plan.
        seconds: that the build took.
        ran_in: what most products of the plan compute in, as the builder logs it.
        fused: attentions that the plan computes in one kernel.
        attentions: number of attentions that it has.
    """

    failed: str = ""
    counts: Counts = field(default_factory=partial(Counts, 0, 0, 0, 0, 0))
    sqnr_db: float = 0.0
    onnx_mb: float = 0.0
    plan_mb: float = 0.0
    seconds: float = 0.0
    ran_in: str = ""
    fused: int = 0
    attentions: int = 0


@dataclass(frozen=True)
class EngineRow:
    """One model.

    Attributes:
        name: what ``vitedge convert`` takes.
        family: heading.
        trained: whether its weights come from training.
        builds: by precision.
        versions: of the packages that took part.
    """

    name: str
    family: str
    trained: bool
    builds: Mapping[str, Build]
    versions: Mapping[str, str]


def chosen(everything: bool) -> list[Listed]:
    """Choose the first model of each family, and all trained ones, in the order of the list."""
    first = {each.family: each for each in reversed(FAMILIES)}
    return [each for each in FAMILIES if everything or each.trained or first[each.family] is each]


def measure(listed: Listed, data: Path, images: int) -> EngineRow:
    """Convert a model to int8, whose bundle has both graphs, and build both."""
    with tempfile.TemporaryDirectory() as folder:
        calib = link_photos(data / "flowers/calib", Path(folder) / "calib", images)
        try:
            bundle = vitedge.convert(
                **conversion_arguments(listed, data, Path(folder)),
                target="rtx",
                precision="int8",
                calib=calib,
                output=Path(folder) / "bundle",
            )
        except Exception as error:  # noqa: BLE001  # a library may raise anything; the other models go on
            traceback.print_exc()
            return failed_row(listed, first_line(error))
        builds = {precision: build(bundle, precision) for precision in GRAPHS}
    return EngineRow(listed.name, listed.family, listed.trained, builds, versions(PACKAGES))


def build(bundle: Bundle, precision: str) -> Build:
    """Build one graph of a bundle."""
    import tensorrt_rtx

    path, verified = bundle.file(GRAPHS[precision]), bundle.manifest.verification
    parity: Parity | None = verified.fp16_against_fp32 if precision == "fp16" else verified.precision_against_fp32
    assert parity is not None
    found = counts(onnx.load(path))
    begun = time.monotonic()
    try:
        made = build_plan(tensorrt_rtx, path)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return Build(failed=first_line(error), counts=found)
    blocks = attention_blocks(made.layers)
    return Build(
        counts=found,
        sqnr_db=round(parity.sqnr_db, 1),
        onnx_mb=round(path.stat().st_size / 1e6, 2),
        plan_mb=round(len(made.plan) / 1e6, 2),
        seconds=round(time.monotonic() - begun, 1),
        ran_in=effective_precision(made.layers) or "",
        fused=sum(block.fused for block in blocks),
        attentions=len(blocks),
    )


def failed_row(listed: Listed, reason: str) -> EngineRow:
    """Make a row of a model that gave no engine."""
    builds = {precision: Build(failed=reason) for precision in GRAPHS}
    return EngineRow(listed.name, listed.family, listed.trained, builds, versions(PACKAGES))


def in_own_process(listed: Listed, data: Path, images: int) -> EngineRow:
    """Measure in a child; whatever ends it, there is a row."""
    try:
        return row_from(run_in_child(__file__, listed.name, data, images, seconds=SECONDS_A_MODEL))
    except ChildFailedError as error:
        return failed_row(listed, str(error))


def row_from(value: Mapping[str, Any]) -> EngineRow:
    """Read a row as JSON holds it."""
    builds = {name: Build(**{**each, "counts": Counts(**each["counts"])}) for name, each in value["builds"].items()}
    return EngineRow(**{**value, "builds": builds})


def read_report(path: Path) -> dict[str, Any]:
    """Read what earlier runs left; empty if none did."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def write_rows(path: Path, rows: Sequence[EngineRow], images: int) -> None:
    """Write all rows, as JSON; what else the file holds stays."""
    order = [each.name for each in FAMILIES]
    report = read_report(path) | {
        "version": 1,
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "processor": processor_name(),
        "python": platform.python_version(),
        "images": images,
        "rows": [asdict(row) for row in sorted(rows, key=lambda row: order.index(row.name))],
    }
    write_atomic(path, json.dumps(report, indent=1) + "\n")


HEADINGS = ("family", "model", "", "products in", "SQNR dB", "Q/DQ a block", "casts a block", "one-kernel attention")
SIZES = ("ONNX MB", "plan MB", "build s", "what failed")


def lines(row: EngineRow) -> list[str]:
    """Format a line of the table for each precision."""
    return [f"| {' | '.join(cells(row, precision, each))} |" for precision, each in row.builds.items()]


def cells(row: EngineRow, precision: str, made: Build) -> list[str]:
    """Format the cells of a line."""
    name = [row.family, f"`{row.name}`", precision]
    if made.failed:
        return [*name, *[""] * (len(HEADINGS) + len(SIZES) - len(name) - 1), made.failed.replace("|", "\\|")]
    found = made.counts
    return [
        *name,
        made.ran_in,
        f"{made.sqnr_db:.1f}",
        f"{found.per_block(found.quantizers):.1f}",
        f"{found.per_block(found.casts):.1f}",
        f"{made.fused} of {made.attentions}",
        f"{made.onnx_mb:.1f}",
        f"{made.plan_mb:.1f}",
        f"{made.seconds:.1f}",
        "",
    ]


def page_text(report: Mapping[str, Any]) -> str:
    """Format the table of engines."""
    rows = [row_from(each) for each in report["rows"]]
    done = {row.name for row in rows}
    built = [each for row in rows for each in row.builds.values() if not each.failed]
    missing = [f"`{each.name}`" for each in chosen(everything=False) if each.name not in done]
    packages = ", ".join(f"{name} {version}" for name, version in rows[0].versions.items())
    head = (*HEADINGS, *SIZES)
    return "\n".join(
        [
            f"{report['date']} · {report['processor']} · Python {report['python']}, {packages}",
            "",
            f"{len(built)} of {2 * len(rows)} graphs built. Not run yet: {', '.join(missing) or 'none'}.",
            "",
            f"| {' | '.join(head)} |",
            "|" + "---|" * len(head),
            *(line for row in rows for line in lines(row)),
        ]
    )


def main() -> int:
    """Build what is not built yet, row by row; then write the page. 1 where a graph did not build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/tensorrt.json"))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--all", action="store_true", help="every model, not the first of each family")
    parser.add_argument("--images", type=int, default=8, help="to calibrate and compare on")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    known = {each.name: each for each in FAMILIES}
    if arguments.child:
        print(json.dumps(asdict(measure(known[arguments.child], arguments.data, arguments.images))))
        return 0
    rows = [row_from(each) for each in read_report(arguments.json).get("rows", [])]
    listed = [known[name] for name in arguments.only] or chosen(arguments.all)
    for each in [] if arguments.page else listed:
        if each.name in {row.name for row in rows if dict(row.versions) == versions(PACKAGES)}:
            continue
        sys.stderr.write(f"{each.name}\n")
        rows = [*(row for row in rows if row.name != each.name), in_own_process(each, arguments.data, arguments.images)]
        write_rows(arguments.json, rows, arguments.images)
    write_between(TENSORRT_PAGE, "engines", page_text(read_report(arguments.json)))
    return int(any(build.failed for row in rows for build in row.builds.values()))


if __name__ == "__main__":
    sys.exit(main())
