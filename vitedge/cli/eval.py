"""``vitedge eval``: accuracy of a bundle or checkpoint, and how it differs from others."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.bundle.signatures import SIGNATURES
from vitedge.cli import output
from vitedge.cli.flags import ENGINE_HELP, THREADS_HELP, call
from vitedge.cli.inspect import format_confidence, format_thresholds
from vitedge.cli.reports import add_json_flag, check_report_paths, is_standard_output, write_json
from vitedge.files import write_report
from vitedge.runtime.engines.open import ENGINES
from vitedge.safety import escape

if TYPE_CHECKING:
    from vitedge.calib.data.dataset import ImageDataset
    from vitedge.report.evaluation_text import EvaluationReport

DESCRIPTION = (
    "Measure accuracy on a folder of images, and how far bundles and their checkpoint are apart on images or a video."
)
EPILOG = """\
DATA holds one folder a class, named by its label; case, '_' and '-' do not matter. With --against, DATA may also be
images without classes or a video: they show how often the two bundles choose different classes, and how far their
probabilities are apart. For a multi-label bundle, DATA is a label file (.jsonl) with one object a line:
  {"file": "beach/1.jpg", "labels": ["sea", "person"]}

A MODEL is a bundle; or a checkpoint as in vitedge convert (timm:NAME, hf:OWNER/NAME, a folder of timm or Transformers,
package.module:factory), which PyTorch computes in fp32, with the preprocessing and labels that the checkpoint states.

While the evaluation runs, a resume log beside the report, whose name ends in .resume, keeps the predictions so far.
After an interrupt, the same command continues from there.

examples:
  vitedge eval deit-int8.bundle --data val/
  vitedge eval deit-int8.bundle --data val/ --against deit-fp32.bundle --json eval.json
  vitedge eval deit-int8.bundle --data frames/ --against deit-fp32.bundle --html eval.html
  vitedge eval deit-int8.bundle --data clip.mp4 --against deit-fp32.bundle --limit 500
  vitedge eval deit-int8.bundle --data val/ --against deit-fp32.bundle --layers --html layers.html
  vitedge eval deit-int8.bundle --data mine/ --fit-confidence --abstain-error 0.05
  vitedge eval timm:deit_tiny_patch16_224 --data val/
  vitedge eval deit-int8.bundle --data val/ --against deit-fp16.bundle deit-fp32.bundle timm:deit_tiny_patch16_224
  vitedge eval tags.bundle --data photos.jsonl --fit-confidence
  vitedge eval deit-int8.bundle --data /mnt/imagenet/val --json eval.json --scheduler tcp://10.0.0.1:8786
"""


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser("eval", help="measure accuracy", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "bundle", type=Path, metavar="MODEL", help="folder that vitedge convert wrote, or a checkpoint, see below"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DATA",
        help="folder of images, one folder a class; a list of images (.txt); a label file (.jsonl); or a video",
    )
    parser.add_argument(
        "--against",
        nargs="+",
        metavar="MODEL",
        help="compare with other bundles or the checkpoint, image by image; the last one is the reference",
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="use N images, spread evenly over the classes or over the video (default: all)",
    )
    parser.add_argument(
        "--fit-confidence",
        action="store_true",
        help="fit the temperature of the scores on these images, and write it into the bundle; for a multi-label "
        "bundle, fit the threshold of each label",
    )
    parser.add_argument(
        "--abstain-error",
        type=float,
        metavar="SHARE",
        help="with --fit-confidence: abstain from low scores, so that at most this share of the other predictions is "
        "wrong, such as 0.05; by default the share that the bundle was fitted to before, if it was",
    )
    parser.add_argument(
        "--layers",
        action="store_true",
        help="with --against an fp32 bundle: measure the effect of each int8 layer, alone and with all others in int8",
    )
    parser.add_argument("--engine", choices=list(ENGINES), help=ENGINE_HELP)
    parser.add_argument("--threads", type=int, metavar="N", help=THREADS_HELP)
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="spread over the workers of this Dask scheduler, which find DATA and the bundles at the same paths",
    )
    add_json_flag(parser, "the figures and all flips")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page that shows the flips: images whose best class changed"
    )
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, write the reports, print the table."""
    check_report_paths({"--json": arguments.json, "--html": arguments.html}, read=[arguments.data])
    from vitedge.calib.data.open import open_dataset

    images = open_dataset(arguments.data, limit=arguments.limit)
    resume = _resume_path(arguments)
    report = _evaluated(arguments, images, resume)
    _write(arguments, report, images)
    if resume is not None:
        resume.unlink(missing_ok=True)
    if not is_standard_output(arguments.json):
        show = output.tell if arguments.json or arguments.html else output.write
        show(report.to_text())
    say = output.note if is_standard_output(arguments.json) else output.tell
    if report.confidence is not None:
        say(_fitted(arguments.bundle, format_confidence(report.confidence)))
    if report.thresholds is not None:
        say(_fitted(arguments.bundle, format_thresholds(report.thresholds)))
    return 0


def _resume_path(arguments: argparse.Namespace) -> Path | None:
    """Return the file that keeps the predictions until the report is written; None without a report, or for logits."""
    json = None if is_standard_output(arguments.json) else arguments.json
    report: Path | None = json or arguments.html
    if report is None or arguments.fit_confidence or _keeps_logits(arguments.bundle):
        return None
    return report.with_name(f"{report.name}.resume")


def _keeps_logits(model: Path) -> bool:
    """Return whether a model is, or may be, a multi-label model, whose logits a resume log does not hold."""
    from vitedge.bundle.bundle import Bundle
    from vitedge.verbs.evaluate import is_checkpoint

    return is_checkpoint(model) or Bundle.open(model, contents=False).manifest.model.is_multilabel


def _evaluated(arguments: argparse.Namespace, images: ImageDataset, resume: Path | None) -> EvaluationReport:
    from vitedge.verbs.evaluate import evaluate

    try:
        return call(evaluate, arguments, data=images, limit=None, resume=resume)
    except KeyboardInterrupt:
        if resume is not None and resume.exists():
            output.note(
                escape.terminal_lines([f"{resume} has the predictions so far: the same command continues from there"])
            )
        raise


def _fitted(bundle: Path, fitted: str) -> str:
    lines = [f"written into {bundle}: {fitted}"]
    if (bundle / SIGNATURES).exists():
        lines.append("its signatures were for the manifest before: vitedge sign makes one for this")
    return escape.terminal_lines(lines)


def _write(arguments: argparse.Namespace, report: EvaluationReport, images: ImageDataset) -> None:
    from vitedge.report.evaluation import contact_sheet, to_html

    if arguments.json:
        write_json(arguments.json, report.to_json())
    if arguments.html:
        flips = report.comparison.flips if report.comparison else ()
        write_report(arguments.html, to_html(report, contact_sheet(images, flips)))
