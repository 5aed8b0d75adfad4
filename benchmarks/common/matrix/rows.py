"""One row for each model of the matrix, as its JSON holds them, and which models still have none."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

from common.children import versions
from common.families import FAMILIES, Listed
from common.matrix.comparison import PeerComparison, comparison_from
from common.taken import Taken, taken_now
from vitedge.bundle.targets import Precision
from vitedge.files import write_atomic
from vitedge.runtime.system.machine import machine_state, processor_name

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
PACKAGES = ("vitedge", "torch", "timm", "onnx", "onnxruntime", "openvino", "nncf")
ROUNDS = 8
"""Rounds of turns that the times of a row are taken from."""
TUPLES = ("speedup_range", "float_layers")
"""The fields of a conversion that JSON holds as lists."""
QUANTIZER = "vitedge"
"""Whose int8 is today's."""


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
    comparison: PeerComparison | None = None
    taken: Taken | None = None


def failed_row(listed: Listed, reason: str) -> Row:
    """Return a row of a model of which nothing came."""
    nothing = {precision: Conversion(failed=reason) for precision in PRECISIONS}
    current = versions(PACKAGES)
    return Row(listed.name, listed.family, listed.trained, (0, 0), 0, 0, nothing, current, taken=taken_now())


def blank_row(listed: Listed) -> Row:
    """Return a row of a model that was not run yet."""
    return replace(failed_row(listed, ""), conversions={}, taken=None)


def row_from(value: Mapping[str, Any]) -> Row:
    """Read a row as JSON holds it."""
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
    """Read the rows of earlier runs."""
    return rows_of(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def rows_of(report: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a file; each says when and where it was measured."""
    whole = Taken(report["date"], report["processor"], report["machine"]["cpus"], report["python"])
    return [replace(row, taken=row.taken or whole) for row in map(row_from, report["rows"])]


def with_row(rows: Sequence[Row], new: Row) -> list[Row]:
    """Replace or add a row, in the order of the list."""
    order = [each.name for each in FAMILIES]
    kept = [row for row in rows if row.name != new.name and row.name in order]
    return sorted([*kept, new], key=lambda row: order.index(row.name))


def write_rows(path: Path, rows: Sequence[Row], images: int) -> None:
    """Write all that was measured as JSON."""
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
    """Return the families in the order of the list, each with its rows."""
    order = list(dict.fromkeys(each.family for each in FAMILIES))
    ordered = sorted(rows, key=lambda row: order.index(row.family))
    return [(family, list(group)) for family, group in groupby(ordered, key=lambda row: row.family)]


def remaining(listed: Sequence[Listed], done: Sequence[Row], current: Mapping[str, str]) -> list[Listed]:
    """Return the models without a row of these versions, of vitedge's own quantizer and with times that count."""
    finished = {
        row.name
        for row in done
        if dict(row.versions) == dict(current) and not has_other_quantizer(row) and not lacks_times(row)
    }
    return [each for each in listed if each.name not in finished]


def lacks_times(row: Row) -> bool:
    """Return whether a row that could be timed was not timed beside the peers; one without an fp32 graph cannot be."""
    return not row.conversions["fp32"].failed and (row.comparison is None or bool(row.comparison.refused))


def has_other_quantizer(row: Row) -> bool:
    """Return whether the int8 of a row is not of vitedge's own quantizer."""
    return row.conversions["int8"].quantizer not in ("", QUANTIZER)
