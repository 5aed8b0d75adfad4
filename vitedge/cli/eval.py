"""``vitedge eval``: accuracy of a bundle, and how it differs from another one."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.bundle import Bundle
from vitedge.cli.inspect import trust
from vitedge.errors import UsageError
from vitedge.files import check_report_path, write_report
from vitedge.progress import Terminal
from vitedge.runtime.engines import ENGINES

if TYPE_CHECKING:
    from vitedge.calib.images import Images
    from vitedge.calib.report import Report
    from vitedge.runtime.classifier import Classifier

DESCRIPTION = "Measure accuracy on a folder of images, and how far two bundles are apart on images or a video."
EPILOG = """\
DATA holds one folder a class, named by its label; case, '_' and '-' do not matter. With --against, images
without classes and videos do as well: they show how often the two bundles choose another class, and how far
their probabilities are apart.

examples:
  vitedge eval deit-int8.bundle --data val/
  vitedge eval deit-int8.bundle --data val/ --against deit-fp32.bundle --json eval.json
  vitedge eval deit-int8.bundle --data frames/ --against deit-fp32.bundle --html eval.html
  vitedge eval deit-int8.bundle --data clip.mp4 --against deit-fp32.bundle --limit 500
  vitedge eval deit-int8.bundle --data mine/ --fit-confidence --abstain-error 0.05
"""


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("eval", help="measure accuracy", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that vitedge convert wrote")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DATA", help="folder of images, one folder a class; or a video"
    )
    parser.add_argument("--against", type=Path, metavar="BUNDLE", help="compare with this one, image by image")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="use N images, spread evenly over the classes or over the video"
    )
    parser.add_argument(
        "--fit-confidence",
        action="store_true",
        help="fit the temperature of the scores on these images, and write it into the bundle",
    )
    parser.add_argument(
        "--abstain-error",
        type=float,
        metavar="SHARE",
        help="with --fit-confidence: abstain from low scores, so that at most this share of the other answers is "
        "wrong, such as 0.05",
    )
    parser.add_argument("--engine", choices=list(ENGINES), help="by default the one of the bundle's target")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and all flips for scripts")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that shows the images that flipped")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the reports."""
    _check(arguments)
    for path in filter(None, (arguments.json, arguments.html)):
        check_report_path(path)
    from vitedge.calib.report import to_text
    from vitedge.calib.video import open_images

    images = open_images(arguments.data, limit=arguments.limit)
    report = _measured(arguments, images)
    sys.stdout.write(to_text(report))
    if arguments.fit_confidence:
        _fit_confidence(arguments, report)
    _write(arguments, report, images)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    from vitedge.calib.confidence import check_abstain_error

    check_abstain_error(arguments.abstain_error)
    if arguments.abstain_error is not None and not arguments.fit_confidence:
        raise UsageError("--abstain-error is for --fit-confidence", fix="give both, or neither")


def _measured(arguments: argparse.Namespace, images: Images) -> Report:
    from vitedge.calib.confidence import check_enough
    from vitedge.calib.report import measure
    from vitedge.runtime.classifier import load

    with ExitStack() as opened:

        def opens(path: Path) -> tuple[str, Classifier]:
            return str(path), opened.enter_context(load(path, engine=arguments.engine))

        ours = opens(arguments.bundle)
        theirs = opens(arguments.against) if arguments.against else None
        if arguments.fit_confidence:
            check_enough(len(images))
            images.targets(ours[1].labels)
        return measure(*ours, images, Terminal(), against=theirs, keep_logits=arguments.fit_confidence)


def _fit_confidence(arguments: argparse.Namespace, report: Report) -> None:
    from vitedge.calib.confidence import fit, store

    assert report.ours.evaluation is not None
    record = fit(report.ours.evaluation, arguments.abstain_error)
    store(Bundle.open(arguments.bundle), record)
    sys.stdout.write(f"written into {arguments.bundle}: {trust(record)}\n")


def _write(arguments: argparse.Namespace, report: Report, images: Images) -> None:
    from vitedge.calib.report import to_json
    from vitedge.calib.report_page import contact_sheet, to_html

    if arguments.json:
        write_report(arguments.json, json.dumps(to_json(report), indent=1, ensure_ascii=False) + "\n")
    if arguments.html:
        flips = report.comparison.flips if report.comparison else ()
        write_report(arguments.html, to_html(report, contact_sheet(images, flips)))
