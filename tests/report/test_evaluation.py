"""The page of an evaluation: it holds its images, and says what it does not show."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import photos
import pytest
from browsers import check_layout
from PIL import Image

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.evaluation.accuracy import Comparison, Flip, Proportion, compare, predict, score
from vitedge.prediction import ClassScore
from vitedge.report import evaluation as report_page
from vitedge.report.evaluation import THUMBNAIL_PIXELS, contact_sheet, to_html
from vitedge.report.evaluation_text import EvaluatedBundle, EvaluationReport
from vitedge.runtime.classifier import Classifier
from vitedge.testing import FakeEngine

SMALL = Preprocessing(input_size=(8, 8), resize_size=(8, 8))
LABELS = ("red", "<green>", "blue")


@pytest.fixture
def images(tmp_path: Path) -> ImageFolder:
    """Two images each of red and blue, and a large one of red, whose name is wicked."""
    folder = photos.write_photos(tmp_path / "photos", ("red", "blue"))
    Image.fromarray(np.full((300, 600, 3), (200, 0, 0), np.uint8)).save(folder / "red" / "<i>\x1b.png")
    return ImageFolder.open(folder)


def report_on(images: ImageFolder) -> EvaluationReport:
    """Ours takes every red image for green; red and blue are seen by both as they are."""
    seen = Classifier(FakeEngine(lambda frame: frame.mean(axis=(0, 1)), input_size=(8, 8)), SMALL, LABELS)
    wrong = Classifier(FakeEngine(lambda frame: frame.mean(axis=(0, 1))[[1, 0, 2]], input_size=(8, 8)), SMALL, LABELS)
    ours, theirs = predict([wrong, seen], images)
    subjects = EvaluatedBundle("ours.bundle", ours, None), EvaluatedBundle("theirs & co.bundle", theirs, None)
    return EvaluationReport("photos", *subjects, compare(ours, theirs))


def pictures_in(text: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]


def test_the_sheet_shows_the_images_that_flipped_and_no_other(images: ImageFolder) -> None:
    report = report_on(images)
    assert report.comparison is not None
    sheet = contact_sheet(images, report.comparison.flips)
    assert {each.flip.file for each in sheet} == {file for file in images.files if file.class_name == "red"}
    text = to_html(report, sheet)
    shown = pictures_in(text)
    assert len(shown) == 3
    for picture in shown:
        assert max(picture.size) <= THUMBNAIL_PIXELS
        red, green, blue = np.asarray(picture).mean(axis=(0, 1))
        assert red > 2 * max(green, blue)
    assert "<h2>Flips</h2><p>3, by margin, the clearest first. 0 of 3 flips are near ties.</p>" in text
    assert "for <strong>40.00 % [11.76, 76.93]</strong> of them" in text
    assert "flip rate" in text
    assert "nats" in text


def test_each_row_tells_its_drop_against_the_reference(images: ImageFolder) -> None:
    report = report_on(images)
    ours, theirs = (
        replace(each, evaluation=score(each.predictions, images)) for each in (report.ours, report.theirs) if each
    )
    rows = [
        re.findall(r"<t[hd]>.*?</t[hd]>", row)
        for row in to_html(replace(report, ours=ours, theirs=theirs), ()).split("<tr>")[1:4]
    ]
    assert [row[-1] for row in rows] == ["<th>top-1 drop</th>", "<td>60.00 points lower</td>", "<td></td>"]
    assert len({len(row) for row in rows}) == 1
    assert "top-1 drop" not in to_html(report, ())


def test_nothing_is_taken_from_elsewhere_and_names_are_escaped(images: ImageFolder) -> None:
    report = report_on(images)
    assert report.comparison is not None
    text = to_html(report, contact_sheet(images, report.comparison.flips))
    assert "&lt;green&gt;" in text
    assert "<green>" not in text
    assert "theirs &amp; co.bundle" in text
    assert r"red/&lt;i&gt;\x1b.png" in text
    assert not re.search(r"https?://|<script|<link|<i>|\x1b", text)


def test_of_many_flips_those_that_matter_most_are_shown_the_clearest_first(
    images: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "SHOWN_FLIPS", 2)
    best = ClassScore("red", 0, 0.5), ClassScore("blue", 2, 0.5)
    margins = (0.01, 0.3, 0.0, 0.5, 0.02)
    flips = [Flip(file, *best, divergence=1.0, margin=each) for file, each in zip(images.files, margins, strict=True)]
    sheet = contact_sheet(images, flips)
    assert [each.flip for each in sheet] == [flips[3], flips[1]]
    report = report_on(images)
    subjects = report.ours, report.theirs
    text = to_html(EvaluationReport("photos", *subjects, Comparison(Proportion(0, 5), tuple(flips), 2.2, 5.0)), sheet)
    assert "The 2 of 5 that matter most" in text
    assert "3 of 5 flips are near ties." in text
    assert re.findall(r"margin [\d.]+(?:, near tie)?", text) == ["margin 0.50", "margin 0.30"]


def test_pages_without_flips_and_without_a_second_bundle(images: ImageFolder) -> None:
    report = report_on(images)
    none = EvaluationReport("photos", report.ours, report.theirs, Comparison(Proportion(5, 5), (), 0.0, 0.0))
    assert "None: both choose the same class" in to_html(none)
    assert "Flips" not in to_html(EvaluationReport("photos", report.ours, None, None))


@pytest.mark.timeout(200)
def test_a_browser_shows_it_on_wide_and_narrow_windows(images: ImageFolder, tmp_path: Path) -> None:
    report = report_on(images)
    assert report.comparison is not None
    page = tmp_path / "page.html"
    page.write_text(to_html(report, contact_sheet(images, report.comparison.flips)), encoding="utf-8")
    check_layout(page)
