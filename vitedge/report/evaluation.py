"""An evaluation as an HTML page: the figures, the images that two bundles classify otherwise, and the layers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from vitedge.calib.data.dataset import ImageDataset, Pixels
from vitedge.calib.evaluation.accuracy import Comparison, Flip
from vitedge.calib.evaluation.multilabel import LabelComparison, LabelFlip
from vitedge.counts import counted
from vitedge.extras import require
from vitedge.prediction import ClassScore
from vitedge.report import sensitivity as sensitivity_report
from vitedge.report.evaluation_text import (
    EvaluatedBundle,
    EvaluationReport,
    accuracy_text,
    labels_text,
    share_text,
    to_text,
)
from vitedge.report.page import page
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
    """Thumbnails of the flips with the largest divergence, at most 60, in the order of the images.

    The images are decoded again, because it is not known which images flip before all are classified.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    chosen = sorted(flips, key=lambda flip: flip.divergence, reverse=True)[:SHOWN_FLIPS]
    by_name = {flip.file.name: flip for flip in chosen}
    files = [flip.file for flip in flips if flip.file.name in by_name]
    with closing(images.subset(files).decode()) as pictures:
        return tuple(
            Thumbnail(by_name[picture.file.name], _jpeg(picture.pixels))
            for picture in pictures
            if picture.pixels is not None
        )


def to_html(report: EvaluationReport, sheet: Sequence[Thumbnail] = ()) -> str:
    """The whole page.

    Args:
        report: the evaluation.
        sheet: of the flips of its comparison.
    """
    comparison = report.comparison
    sections = [
        _heading(report),
        *([] if comparison is None else [_figures(comparison), _flips(report, comparison, sheet)]),
        *([] if report.layers is None else [sensitivity_report.section(report.layers)]),
        f"<h2>As text</h2><pre>{html(to_text(report))}</pre>",
    ]
    return page(f"Accuracy on {report.data}", sections, style=STYLE + PLOT_STYLE)


def _heading(report: EvaluationReport) -> str:
    lines = [_subject(0, report.ours), *([] if report.theirs is None else [_subject(1, report.theirs)])]
    return f"<p>{counted(len(report.ours.predictions), 'image')}; 95 % intervals in brackets.</p>" + "\n".join(lines)


def _subject(number: int, subject: EvaluatedBundle) -> str:
    key = f'<span class="key series{number}">■ {html(subject.bundle)}</span>'
    return f"<p>{key} {html(accuracy_text(subject.evaluation))}</p>"


def _figures(comparison: Comparison | LabelComparison) -> str:
    if isinstance(comparison, LabelComparison):
        flips, divergence = "flip rate: other labels", "KL divergence, summed over the labels"
    else:
        flips, divergence = "flip rate: another best class", "KL divergence of the softmax"
    figures = {
        flips: share_text(comparison.flipped),
        f"{divergence}, mean": f"{comparison.kl_mean:.3g} nats",
        f"{divergence}, p99": f"{comparison.kl_p99:.3g} nats",
    }
    rows = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in figures.items())
    return f"<h2>The first against the second</h2><table>{rows}</table>"


def _flips(report: EvaluationReport, comparison: Comparison | LabelComparison, sheet: Sequence[Thumbnail]) -> str:
    count = len(comparison.flips)
    if not count:
        same = "give the same labels to" if isinstance(comparison, LabelComparison) else "choose the same class for"
        return f"<h2>Flips</h2><p>None: both {same} every image.</p>"
    shown = f"{count}" if len(sheet) == count else f"The {len(sheet)} of {count} that differ most"
    figures = "".join(_figure(thumbnail) for thumbnail in sheet)
    return f'<h2>Flips</h2><p>{shown}, in the order of {html(report.data)}.</p><div class="sheet">{figures}</div>'


def _figure(thumbnail: Thumbnail) -> str:
    flip = thumbnail.flip
    data = base64.b64encode(thumbnail.jpeg).decode("ascii")
    said = "".join(
        f'<span class="series{number}">{html(_said(each))}</span>'
        for number, each in enumerate((flip.ours, flip.theirs))
    )
    name = f'<span class="file">{html(flip.file.name)}, KL {flip.divergence:.2g}</span>'
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
