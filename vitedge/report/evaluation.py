"""An evaluation as an HTML page: the figures, the images that two bundles classify otherwise, and the layers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from vitedge.calib.data.dataset import ImageDataset, Pixels
from vitedge.calib.evaluation.accuracy import Comparison, Evaluation, Flip
from vitedge.calib.evaluation.multilabel import LabelComparison, LabelEvaluation, LabelFlip
from vitedge.counts import counted, dropped
from vitedge.extras import require
from vitedge.prediction import ClassScore
from vitedge.report import sensitivity as sensitivity_report
from vitedge.report.evaluation_text import (
    EvaluatedBundle,
    EvaluationReport,
    drop_against,
    labels_text,
    share_text,
    to_text,
    top1_drop,
)
from vitedge.report.page import glossary, page, table, term, verdict
from vitedge.report.plot import PLOT_STYLE
from vitedge.safety.escape import html

SHOWN_FLIPS = 60
THUMBNAIL_PIXELS = 160
JPEG_QUALITY = 80

STYLE = """
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 14px; }
figure { margin: 0; font-size: 12.5px; line-height: 1.35; overflow-wrap: anywhere; } figure img { display: block;
  height: 160px; width: 100%; object-fit: contain; background: var(--grid); margin-bottom: .3em; }
figcaption span { display: block; } .file { color: var(--faint); }
"""


@dataclass(frozen=True)
class Thumbnail:
    """A flip and its image.

    Attributes:
        flip: what was said of the image.
        jpeg: the image, at most 160 pixels a side.
    """

    flip: Flip | LabelFlip
    jpeg: bytes


def contact_sheet(images: ImageDataset, flips: Sequence[Flip | LabelFlip]) -> tuple[Thumbnail, ...]:
    """Draw thumbnails of the flips that matter most, at most 60, the clearest first.

    The images are decoded again, because it is not known which images flip before all are classified.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    chosen = sorted(flips, key=_weight, reverse=True)[:SHOWN_FLIPS]
    by_name = {flip.file.name: flip for flip in chosen}
    files = [flip.file for flip in flips if flip.file.name in by_name]
    with closing(images.subset(files).decode()) as pictures:
        shown = [
            Thumbnail(by_name[picture.file.name], _jpeg(picture.pixels))
            for picture in pictures
            if picture.pixels is not None
        ]
    return tuple(sorted(shown, key=lambda thumbnail: _weight(thumbnail.flip), reverse=True))


def _weight(flip: Flip | LabelFlip) -> float:
    """Return how much a flip matters: its margin, or the divergence of labels, which have no margin."""
    return flip.margin if isinstance(flip, Flip) else flip.divergence


def to_html(report: EvaluationReport, sheet: Sequence[Thumbnail] = ()) -> str:
    """Render the whole page.

    Args:
        report: the evaluation.
        sheet: of the flips of its comparison.
    """
    comparison = report.comparison
    sections = [
        verdict(_verdict(report)),
        _accuracy(report),
        *([] if comparison is None else [_figures(comparison), _flips(comparison, sheet)]),
        *([] if report.layers is None else [sensitivity_report.section(report.layers)]),
        f"<h2>As text</h2><pre>{html(to_text(report))}</pre>",
        glossary(*_terms(report)),
    ]
    return page(f"Accuracy on {report.data}", sections, style=STYLE + PLOT_STYLE)


def _verdict(report: EvaluationReport) -> str:
    """Render the accuracy, what it loses against the reference, and whether the flips matter."""
    ours, comparison = report.ours, report.comparison
    told = [f"<strong>{html(ours.bundle)}</strong>{_measure(ours)} on {counted(len(ours.predictions), 'image')}."]
    if comparison is not None and report.theirs is not None:
        drop = top1_drop(report)
        lost = "" if drop is None else f", and loses {drop:.2f} points of top-1" if drop > 0 else ", and loses nothing"
        same = "gives the same labels" if isinstance(comparison, LabelComparison) else "chooses the same class"
        told.append(
            f"It {same} as {html(report.theirs.bundle)} for <strong>{share_text(comparison.agreement)}</strong> of "
            f"them{lost}. {_near_ties(comparison)}"
        )
    return " ".join(told)


def _measure(subject: EvaluatedBundle) -> str:
    """Render the one figure that matters most, if there is any."""
    if subject.evaluation is None:
        return ""
    if isinstance(subject.evaluation, LabelEvaluation):
        return f": mAP <strong>{subject.evaluation.mean_average_precision:.2f} %</strong>"
    return f": top-1 <strong>{subject.evaluation.top1:.2f} %</strong>"


def _near_ties(comparison: Comparison | LabelComparison) -> str:
    flips = [flip for flip in comparison.flips if isinstance(flip, Flip)]
    if not flips:
        return ""
    near = sum(flip.near_tie for flip in flips)
    verb = "is a near tie" if near == 1 else "are near ties"
    return f"{near} of {counted(len(flips), 'flip')} {verb}."


def _accuracy(report: EvaluationReport) -> str:
    """Render a row for each bundle: its accuracy with 95 % intervals, its drop and agreement against the reference."""
    rows = [_row(report.ours, report.comparison, "series0") + _against(report.ours, report.theirs)]
    rows += [
        _row(other.subject, other.comparison, "") + _against(other.subject, report.theirs) for other in report.others
    ]
    if report.theirs is not None:
        rows.append((*_row(report.theirs, None, "series1"), "", *("" for _ in _against(report.ours, report.theirs))))
    if isinstance(report.ours.evaluation, LabelEvaluation):
        measures = ["mAP", "micro F1", "macro F1", "exact match"]
    elif isinstance(report.ours.evaluation, Evaluation):
        measures = [term("top-1"), f"top-{report.ours.evaluation.k}", term("calibration error")]
    else:
        measures = []
    against = [] if report.theirs is None else [term("agreement")]
    against += ["top-1 drop" for _ in _against(report.ours, report.theirs)]
    return f"<p>{term('95 % interval', '95 % intervals')} in brackets.</p>{table(['', *measures, *against], rows)}"


def _against(subject: EvaluatedBundle, reference: EvaluatedBundle | None) -> tuple[str, ...]:
    """Render the top-1 that a bundle loses against the reference; nothing without a reference or labels."""
    drop = None if reference is None else drop_against(subject, reference)
    return () if drop is None else (dropped(drop),)


def _row(subject: EvaluatedBundle, comparison: Comparison | LabelComparison | None, style: str) -> tuple[str, ...]:
    evaluation = subject.evaluation
    name = f'<span class="key {style}">{html(subject.bundle)}</span>'
    agreement = () if comparison is None else (share_text(comparison.agreement),)
    if isinstance(evaluation, LabelEvaluation):
        micro = "unknown" if evaluation.micro_f1 is None else f"{evaluation.micro_f1:.2f} %"
        measures: tuple[str, ...] = (
            f"{evaluation.mean_average_precision:.2f} %",
            micro,
            f"{evaluation.macro_f1:.2f} %",
            share_text(evaluation.exact_proportion),
        )
    elif evaluation is None:
        measures = ()
    else:
        measures = (
            share_text(evaluation.top1_proportion),
            share_text(evaluation.topk_proportion),
            f"{evaluation.ece:.2f} %",
        )
    return name, *measures, *agreement


def _terms(report: EvaluationReport) -> tuple[str, ...]:
    """Choose the terms that the page uses."""
    terms = ["95 % interval"]
    if isinstance(report.ours.evaluation, Evaluation):
        terms = ["top-1", "calibration error", *terms]
    if report.comparison is not None:
        terms += ["agreement", "flip", "near tie", "KL divergence"]
    if report.layers is not None:
        terms += [name for name in sensitivity_report.TERMS if name not in terms]
    return tuple(terms)


def _figures(comparison: Comparison | LabelComparison) -> str:
    labels = isinstance(comparison, LabelComparison)
    divergence = f"{term('KL divergence')}{', summed over the labels' if labels else ' of the softmax'}"
    rows = (
        (
            f"{term('flip', 'flip rate')}: {'other labels' if labels else 'another best class'}",
            share_text(comparison.flipped),
        ),
        (f"{divergence}, mean", f"{comparison.kl_mean:.3g} nats"),
        (f"{divergence}, p99", f"{comparison.kl_p99:.3g} nats"),
    )
    return f"<h2>The first against the last</h2>{table(('', ''), rows)}"


def _flips(comparison: Comparison | LabelComparison, sheet: Sequence[Thumbnail]) -> str:
    count = len(comparison.flips)
    labels = isinstance(comparison, LabelComparison)
    if not count:
        same = "give the same labels to" if labels else "choose the same class for"
        return f"<h2>Flips</h2><p>None: both {same} every image.</p>"
    shown = f"{count}" if len(sheet) == count else f"The {len(sheet)} of {count} that matter most"
    order = "by divergence" if labels else f"by margin, the clearest first. {_near_ties(comparison)}"
    figures = "".join(_figure(thumbnail) for thumbnail in sheet)
    return f'<h2>Flips</h2><p>{shown}, {order}</p><div class="sheet">{figures}</div>'


def _figure(thumbnail: Thumbnail) -> str:
    flip = thumbnail.flip
    data = base64.b64encode(thumbnail.jpeg).decode("ascii")
    said = "".join(
        f'<span class="series{number}">{html(_said(each))}</span>'
        for number, each in enumerate((flip.ours, flip.theirs))
    )
    margin = f", margin {flip.margin:.2f}" if isinstance(flip, Flip) else ""
    tie = ", near tie" if isinstance(flip, Flip) and flip.near_tie else ""
    name = f'<span class="file">{html(flip.file.name)}, KL {flip.divergence:.2g}{margin}{tie}</span>'
    return f'<figure><img alt="" src="data:image/jpeg;base64,{data}"><figcaption>{said}{name}</figcaption></figure>'


def _said(said: ClassScore | tuple[ClassScore, ...]) -> str:
    return labels_text(said if isinstance(said, tuple) else (said,))


def _jpeg(pixels: Pixels) -> bytes:
    pillow = require("PIL.Image", extra="camera", purpose="the contact sheet")
    picture = pillow.fromarray(pixels)
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()
