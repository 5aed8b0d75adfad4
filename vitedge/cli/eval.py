"""``vitedge eval``: accuracy of a bundle, and how it differs from another one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.signatures import SIGNATURES
from vitedge.cli import output
from vitedge.cli.inspect import trust
from vitedge.errors import UsageError
from vitedge.files import check_report_path, write_report
from vitedge.progress import Progress, Terminal
from vitedge.runtime.engines.open import ENGINES
from vitedge.safety import escape

if TYPE_CHECKING:
    from vitedge.calib.data.dataset import ImageDataset
    from vitedge.calib.evaluation.predictions import ModelInfo
    from vitedge.calib.evaluation.resume_log import ResumeLog
    from vitedge.calib.sensitivity.sensitivity import Sensitivity
    from vitedge.report.evaluation_text import Report

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
  vitedge eval deit-int8.bundle --data val/ --against deit-fp32.bundle --layers --html layers.html
  vitedge eval deit-int8.bundle --data mine/ --fit-confidence --abstain-error 0.05
  vitedge eval deit-int8.bundle --data /mnt/imagenet/val --json eval.json --scheduler tcp://10.0.0.1:8786

While a report is being made, the answers so far are in a file beside it, whose name ends in .journal: after an
interrupt, the same command goes on from there.
"""


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("eval", help="measure accuracy", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that vitedge convert wrote")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DATA",
        help="folder of images, one folder a class; a list of them (.txt); or a video",
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
    parser.add_argument(
        "--layers",
        action="store_true",
        help="with --against an fp32 bundle: what each int8 layer costs, alone and where all others are int8",
    )
    parser.add_argument("--engine", choices=list(ENGINES), help="by default the one of the bundle's target")
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="spread over the workers of this Dask scheduler, which find DATA and the bundles at the same paths",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and all flips for scripts")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that shows the images that flipped")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the reports, print the table."""
    _check(arguments)
    for path in filter(None, (arguments.json, arguments.html)):
        check_report_path(path)
    from vitedge.calib.data.open import open_dataset
    from vitedge.calib.evaluation.score_calibration import check_image_count
    from vitedge.report.evaluation_text import to_text

    images = open_dataset(arguments.data, limit=arguments.limit)
    if arguments.fit_confidence:
        check_image_count(len(images))
    resume_log = _resume_log(arguments, images)
    layers = _layers(arguments, images) if arguments.layers else None
    report = replace(_measured(arguments, images, resume_log), layers=layers)
    _write(arguments, report, images)
    if resume_log is not None:
        resume_log.remove()
    output.write(to_text(report))
    if arguments.fit_confidence:
        _fit_confidence(arguments, report)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    from vitedge.calib.evaluation.score_calibration import check_abstain_error

    check_abstain_error(arguments.abstain_error)
    if arguments.abstain_error is not None and not arguments.fit_confidence:
        raise UsageError("--abstain-error is for --fit-confidence", fix="give both, or neither")
    if arguments.layers and arguments.against is None:
        raise UsageError("--layers needs the model in fp32 to compare with", fix="--against BUNDLE, an fp32 bundle")
    if arguments.scheduler and arguments.fit_confidence:
        raise UsageError("--fit-confidence runs on this machine alone", fix="leave out --scheduler, or set a --limit")


def _resume_log(arguments: argparse.Namespace, images: ImageDataset) -> ResumeLog | None:
    """Where answers are kept until the report is written; none without a report, nor for logits."""
    from vitedge.calib.evaluation.resume_log import ResumeLog, resume_key

    report: Path | None = arguments.json or arguments.html
    if report is None or arguments.fit_confidence:
        return None
    bundles = [Bundle.open(path) for path in _bundles(arguments)]
    return ResumeLog(report.with_name(f"{report.name}.journal"), resume_key(bundles, images, arguments.engine))


def _bundles(arguments: argparse.Namespace) -> list[Path]:
    return [arguments.bundle, *([arguments.against] if arguments.against else [])]


def _measured(arguments: argparse.Namespace, images: ImageDataset, resume_log: ResumeLog | None) -> Report:
    from vitedge.report.evaluation_text import measure

    with ExitStack() as opened:
        models, ask = _spread(arguments, images) if arguments.scheduler else _here(arguments, opened)
        ours, *theirs = zip(map(str, _bundles(arguments)), models, strict=True)
        if arguments.fit_confidence:
            images.class_to_idx(models[0].labels)
        try:
            return measure(
                *ours,
                images,
                Terminal(),
                against=theirs[0] if theirs else None,
                ask=partial(ask, resume_log=resume_log),
            )
        except KeyboardInterrupt:
            if resume_log is not None and resume_log.path.exists():
                said = f"{resume_log.path} has what was done: the same command goes on from there"
                output.note(escape.terminal_lines([said]))
            raise


def _layers(arguments: argparse.Namespace, images: ImageDataset) -> Sensitivity:
    from vitedge.calib.sensitivity.sensitivity import bundle_sensitivity

    bundle, against = (Bundle.open(path) for path in _bundles(arguments))
    return bundle_sensitivity(bundle, against, images, Terminal())


def _here(arguments: argparse.Namespace, opened: ExitStack) -> tuple[Sequence[ModelInfo], Callable[..., Any]]:
    from vitedge.calib.evaluation import accuracy
    from vitedge.runtime.load import load

    classifiers = [opened.enter_context(load(path, engine=arguments.engine)) for path in _bundles(arguments)]
    return classifiers, partial(accuracy.predict, keep_logits=arguments.fit_confidence)


def _spread(arguments: argparse.Namespace, images: ImageDataset) -> tuple[Sequence[ModelInfo], Callable[..., Any]]:
    from vitedge.calib.evaluation.accuracy import collect_predictions
    from vitedge.calib.evaluation.dask import RemoteModel, cluster_predictor

    bundles = [Bundle.open(path) for path in _bundles(arguments)]
    predictor = cluster_predictor(arguments.scheduler, bundles, images, arguments.engine)

    def ask(models: Sequence[ModelInfo], images: ImageDataset, progress: Progress, resume_log: ResumeLog | None) -> Any:
        return collect_predictions(models, images, predictor, progress, resume_log=resume_log)

    return [RemoteModel.of(bundle) for bundle in bundles], ask


def _fit_confidence(arguments: argparse.Namespace, report: Report) -> None:
    from vitedge.calib.evaluation.score_calibration import calibrate_scores, write_confidence

    assert report.ours.evaluation is not None
    record = calibrate_scores(report.ours.evaluation, arguments.abstain_error)
    write_confidence(Bundle.open(arguments.bundle), record)
    lines = [f"written into {arguments.bundle}: {trust(record)}"]
    if (arguments.bundle / SIGNATURES).exists():
        lines.append("its signatures were for the manifest before: vitedge sign makes one for this")
    output.write(escape.terminal_lines(lines))


def _write(arguments: argparse.Namespace, report: Report, images: ImageDataset) -> None:
    from vitedge.report.evaluation import contact_sheet, to_html
    from vitedge.report.evaluation_text import to_json

    if arguments.json:
        write_report(arguments.json, escape.json(to_json(report), indent=1) + "\n")
    if arguments.html:
        flips = report.comparison.flips if report.comparison else ()
        write_report(arguments.html, to_html(report, contact_sheet(images, flips)))
