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
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

from common.children import ChildFailedError, run_in_child, versions
from common.families import FAMILIES, Listed
from common.matrix.comparison import PeerComparison
from common.matrix.measurement import CONVERTED, prepared, timed_row
from common.matrix.packaged import packaged_models
from common.matrix.page import PICTURE, drawn, page_text
from common.matrix.rows import (
    PACKAGES,
    Row,
    failed_row,
    lacks_times,
    read_rows,
    remaining,
    row_from,
    rows_of,
    with_row,
    write_rows,
)

from vitedge.files import write_atomic

ROOT = Path(__file__).resolve().parent.parent
PAGE, DATA = ROOT / "docs/models.md", ROOT / "vitedge/models.json"
ROW = "row.json"
"""What is known of a prepared model, in its folder."""
SECONDS_A_MODEL = 3600


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
        row = row_without_peers(folder, str(error)) or failed_row(listed, str(error))
    write_atomic(folder / ROW, json.dumps(asdict(row)))
    return row


def row_without_peers(folder: Path, reason: str) -> Row | None:
    """Read the row of a model whose peers ended the process; None if it was not converted before."""
    if not (folder / CONVERTED).is_file():
        return None
    row = row_from(json.loads((folder / CONVERTED).read_text(encoding="utf-8")))
    return replace(row, comparison=PeerComparison({}, 0, refused=f"{reason}, as a peer was made"))


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
    if not lacks_times(found):
        shutil.rmtree(work / row.name)
    return found


def write_page(path: Path) -> None:
    """Write the page, its picture and the packaged data from the JSON."""
    report = json.loads(path.read_text(encoding="utf-8"))
    if image := drawn(rows_of(report)):
        write_atomic(PAGE.parent / PICTURE, image)
    write_atomic(PAGE, page_text(report))
    write_atomic(DATA, json.dumps(packaged_models(report), indent=1) + "\n")


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
