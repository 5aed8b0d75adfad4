"""What an evaluation says, as JSON and as text."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.dataset import ImageFile
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.evaluation.accuracy import compare, score
from vitedge.calib.evaluation.predictions import Predictions
from vitedge.metrics import wilson_interval
from vitedge.report.evaluation_text import (
    FLIPS_SHOWN,
    ComparedBundle,
    EvaluatedBundle,
    EvaluationReport,
    to_json,
    to_text,
    top1_drop,
)
from vitedge.version import VERSION

LABELS = ("cat", "dog", "newt", "owl", "pig", "rat")
SMALL = Preprocessing(input_size=(8, 8), resize_size=(8, 8))
ALWAYS = {
    *("version", "vitedge_version", "data", "images", "skipped", "sha256"),
    *("bundle", "top1", "top5", "accepted"),
}
LABELLED = {"top1_ci95", "top5_ci95", "top5_k", "ece", "accepted_top1"}
COMPARED = {
    *("agreement", "agreement_ci95", "flip_rate", "flip_rate_ci95", "kl_mean", "kl_p99"),
    *("top1_drop", "flips", "against", "others"),
}


def image_set(count: int, class_name: str = "cat") -> ImageFolder:
    files = (ImageFile(Path("data", class_name, f"{n}.png"), f"{class_name}/{n}.png", class_name) for n in range(count))
    return ImageFolder(Path("data"), tuple(files))


def answers(
    images: ImageFolder, chosen: str, labels: tuple[str, ...] = LABELS, skipped: tuple[str, ...] = ()
) -> Predictions:
    """For each image, in order, the initial of the class that is chosen, with score 0.75; divergences 0, 1, 2, …"""
    by_initial = {label[0]: index for index, label in enumerate(labels)}
    best = [by_initial[initial] for initial in chosen]
    order = [[first, *(index for index in range(len(labels)) if index != first)][:5] for first in best]
    scores = [[0.75, *[0.05] * (len(row) - 1)] for row in order]
    return Predictions(
        labels=labels,
        files=images.files,
        indices=np.array(order, np.int32),
        scores=np.array(scores, np.float32),
        divergences=np.arange(len(chosen), dtype=np.float64),
        skipped=skipped,
        sha256="5ha",
    )


def report(
    ours: str,
    theirs: str | None = None,
    *,
    labelled: bool = True,
    labels: tuple[str, ...] = LABELS,
    skipped: tuple[str, ...] = (),
) -> EvaluationReport:
    images = image_set(len(ours))

    def subject(name: str, chosen: str) -> EvaluatedBundle:
        said = answers(images, chosen, labels, skipped)
        return EvaluatedBundle(name, said, score(said, images) if labelled else None)

    first = subject("int8.bundle", ours)
    second = None if theirs is None else subject("a-longer-name.bundle", theirs)
    return EvaluationReport("val", first, second, compare(first.predictions, second.predictions) if second else None)


def test_keys_of_labelled_images() -> None:
    document = to_json(report("cccd"))
    assert set(document) == ALWAYS | LABELLED
    assert (document["version"], document["vitedge_version"]) == (1, VERSION)
    assert (document["data"], document["bundle"], document["images"]) == ("val", "int8.bundle", 4)
    assert (document["top1"], document["top5"], document["top5_k"]) == (75.0, 100.0, 5)
    interval = wilson_interval(3, 4)
    assert document["top1_ci95"] == [interval.low, interval.high]
    assert (document["sha256"], document["skipped"]) == ("5ha", [])


def test_keys_of_a_comparison() -> None:
    document = to_json(report("ccdd", "cccd"))
    assert set(document) == ALWAYS | LABELLED | COMPARED
    assert document["agreement"] == 75.0
    interval = wilson_interval(3, 4)
    assert document["agreement_ci95"] == [interval.low, interval.high]
    assert document["flip_rate"] == 25.0
    interval = wilson_interval(1, 4)
    assert document["flip_rate_ci95"] == [interval.low, interval.high]
    assert (document["kl_mean"], document["kl_p99"]) == (1.5, pytest.approx(2.97))
    assert document["top1_drop"] == 25.0
    assert document["flips"] == [
        {
            "file": "cat/2.png",
            "label": "dog",
            "score": 0.75,
            "against_label": "cat",
            "against_score": 0.75,
            "margin": pytest.approx(0.7),
            "kl": 2.0,
        }
    ]
    assert set(document["against"]) == LABELLED | {"bundle", "top1", "top5", "accepted"}
    assert (document["against"]["bundle"], document["against"]["top1"]) == ("a-longer-name.bundle", 75.0)


def test_keys_without_labels() -> None:
    document = to_json(report("ccdd", "cccd", labelled=False))
    assert set(document) == ALWAYS | COMPARED
    assert document["top1"] is document["top5"] is document["top1_drop"] is None
    assert document["against"] == {"bundle": "a-longer-name.bundle", "top1": None, "top5": None, "accepted": 100.0}
    assert document["agreement"] == 75.0


@pytest.mark.parametrize("case", [report("cd"), report("cd", "dc"), report("cd", "dc", labelled=False)])
def test_json_is_standard(case: EvaluationReport) -> None:
    document = to_json(case)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_all_flips_are_in_the_json_and_the_first_in_the_text() -> None:
    many = report("d" * 30, "c" * 30)
    assert len(to_json(many)["flips"]) == 30
    text = to_text(many)
    assert text.count(": dog 0.75, against cat 0.75") == FLIPS_SHOWN
    assert "30 images are classified otherwise:" in text
    assert "and 20 more; the JSON report lists all, the HTML report shows them" in text


@pytest.mark.parametrize(
    ("ours", "theirs", "drop", "told"),
    [
        ("ccdd", "cccd", 25.0, "25.00 points lower"),
        ("cccd", "ccdd", -25.0, "25.00 points higher"),
        ("dddd", "cccc", 100.0, "100.00 points lower"),
        ("cccc", "cccc", 0.0, "unchanged"),
    ],
)
def test_the_drop_is_positive_where_ours_is_worse(ours: str, theirs: str, drop: float, told: str) -> None:
    compared = report(ours, theirs)
    assert top1_drop(compared) == drop
    assert f"top-1 {told}\n" in to_text(compared)


def test_each_row_but_the_reference_tells_its_drop() -> None:
    compared = report("ccdd", "cccd")
    assert compared.theirs is not None
    assert compared.comparison is not None
    other = dataclasses.replace(compared.ours, bundle="fp16.bundle")
    text = to_text(dataclasses.replace(compared, others=(ComparedBundle(other, compared.comparison),)))
    told = [line.rpartition("  ")[2] for line in text.splitlines()[1:4]]
    assert told[:2] == ["top-1 25.00 points lower"] * 2
    assert told[2].startswith("calibration error")
    assert text.count("points lower") == 2


def test_no_drop_without_a_second_bundle_or_labels() -> None:
    assert top1_drop(report("cc")) is None
    assert top1_drop(report("cc", "cd", labelled=False)) is None


def test_the_text_of_one_bundle() -> None:
    lines = to_text(report("cccd")).splitlines()
    interval = wilson_interval(3, 4)
    assert lines == [
        "4 images of val; 95 % intervals in brackets",
        f"int8.bundle  top-1 75.00 % [{interval.low:.2f}, {interval.high:.2f}]  top-5 100.00 % [51.01, 100.00]  "
        "calibration error 0.00 %",
    ]


def test_the_text_of_two_is_aligned() -> None:
    lines = to_text(report("cc", "cc")).splitlines()
    assert lines[1].index("top-1") == lines[2].index("top-1")
    assert lines[3].startswith("agreement 100.00 % [")
    assert lines[4].startswith("flip rate 0.00 % [")
    assert lines[5] == "KL divergence of the softmax: mean 0.5, p99 0.99 nats"
    assert len(lines) == 6


def test_fewer_classes_than_five_are_mentioned() -> None:
    few = report("cd", labels=LABELS[:3])
    assert to_json(few)["top5_k"] == 3
    assert "top-3 100.00 %" in to_text(few)
    assert "(there are 3 classes)" in to_text(few)
    assert "classes)" not in to_text(report("cd"))


def test_without_labels_no_accuracy_is_printed() -> None:
    text = to_text(report("cd", "cd", labelled=False))
    assert text.count("accuracy is not known") == 2
    assert "top-" not in text


def test_abstention_is_in_both() -> None:
    images = image_set(4)
    said = answers(images, "cccd")
    said.scores[0, 0] = 0.25
    said = dataclasses.replace(said, threshold=0.5)
    case = EvaluationReport("val", EvaluatedBundle("int8.bundle", said, score(said, images)), None, None)
    document = to_json(case)
    assert document["accepted"] == 75.0
    assert document["accepted_top1"] == pytest.approx(200 / 3)
    assert document["ece"] == pytest.approx(100 * (0.75 + abs(3 * 0.75 - 2)) / 4)
    line = to_text(case).splitlines()[2]
    assert line.startswith("             abstains below a score of 0.500: accepts 75.00 % [")
    assert ", of them 66.67 % [" in line


def test_skipped_images_are_named_up_to_a_number() -> None:
    some = report("c", skipped=tuple(f"{n}.png" for n in range(10)))
    assert to_json(some)["skipped"] == [f"{n}.png" for n in range(10)]
    assert "skipped, cannot be read: 0.png, 1.png" in to_text(some)
    assert "7.png and 2 more" in to_text(some)


def test_labels_outside_ascii_stay() -> None:
    labels = ("кот", "dog", "naïve", "owl", "pig", "rat")
    images = image_set(1, "кот")
    said = answers(images, "d", labels), answers(images, "к", labels)
    subjects = [EvaluatedBundle(str(index), each, None) for index, each in enumerate(said)]
    text = to_text(EvaluationReport("val", *subjects, compare(*said)))
    assert "кот/0.png: dog 0.75, against кот 0.75" in text
