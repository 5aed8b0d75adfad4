"""``vitedge eval``: accuracy of a bundle, and how it differs from another one."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.files import check_report_path, write_report
from vitedge.progress import Terminal
from vitedge.runtime.engines import ENGINES

if TYPE_CHECKING:
    from vitedge.runtime.classifier import Classifier

DESCRIPTION = "Measure accuracy on a folder of images, and count where two bundles disagree."
EPILOG = """\
DIR holds one folder a class, named by its label; case, '_' and '-' do not matter. With --against, images
without classes do as well: they show how often the two bundles agree.

examples:
  vitedge eval deit-int8.bundle --data val/
  vitedge eval deit-int8.bundle --data val/ --against deit-fp32.bundle --json eval.json
  vitedge eval deit-int8.bundle --data frames/ --against deit-fp32.bundle
"""


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("eval", help="measure accuracy", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that vitedge convert wrote")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="images, one folder a class")
    parser.add_argument("--against", type=Path, metavar="BUNDLE", help="compare with this one, image by image")
    parser.add_argument("--limit", type=int, metavar="N", help="use N images, spread evenly over the classes")
    parser.add_argument("--engine", choices=list(ENGINES), help="by default the one of the bundle's target")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and all flips for scripts")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the report."""
    if arguments.json:
        check_report_path(arguments.json)
    from vitedge.calib.images import ImageSet
    from vitedge.calib.report import measure, to_json, to_text
    from vitedge.runtime.classifier import load

    images = ImageSet.from_folder(arguments.data, limit=arguments.limit)
    with ExitStack() as opened:

        def opens(path: Path) -> tuple[str, Classifier]:
            return str(path), opened.enter_context(load(path, engine=arguments.engine))

        ours = opens(arguments.bundle)
        theirs = opens(arguments.against) if arguments.against else None
        report = measure(*ours, images, Terminal(), against=theirs)
    sys.stdout.write(to_text(report))
    if arguments.json:
        write_report(arguments.json, json.dumps(to_json(report), indent=1, ensure_ascii=False) + "\n")
    return 0
