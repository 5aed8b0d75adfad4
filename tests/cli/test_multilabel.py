"""A multi-label bundle from the command line: eval, run and inspect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitedge import cli
from vitedge.bundle.accuracy_records import ThresholdsRecord
from vitedge.bundle.bundle import Bundle
from vitedge.cli import EXIT_ERROR, EXIT_USAGE, main
from vitedge.metrics import sigmoid
from vitedge.runtime.load import load

Image = pytest.importorskip("PIL.Image")

PHOTOS = {
    "red.png": ((255, 0, 0), ["red"]),
    "yellow.png": ((255, 255, 0), ["red", "green"]),
    "cyan.png": ((0, 255, 255), ["green", "blue"]),
    "grey.png": ((90, 60, 60), []),
}
"""Colour and true labels of each photo; the bundle takes grey for red."""
STRICT = ThresholdsRecord((0.9, 0.5, 0.999), None, 3, 50.0, 60.0, 100, "")


@pytest.fixture(autouse=True)
def only_these_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "VERBS", ("eval", "inspect", "run"))


@pytest.fixture(scope="module")
def bundle(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "labels.bundle", activation="sigmoid")


@pytest.fixture(scope="module")
def strict(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "strict.bundle", activation="sigmoid", thresholds=STRICT)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write_photos(tmp_path, 1)


def write_photos(folder: Path, copies: int) -> Path:
    """Write photos, and a label file beside them."""
    lines = []
    for copy in range(copies):
        for name, (colour, labels) in PHOTOS.items():
            path = folder / "photos" / f"{copy}-{name}"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (40, 40), colour).save(path)
            lines.append(json.dumps({"file": f"photos/{path.name}", "labels": labels}))
    (folder / "labels.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "labels.jsonl"


def evaluate(folder: Path, bundle: Bundle, data: Path, *arguments: object) -> dict[str, Any]:
    report = folder / "eval.json"
    assert main(["eval", str(bundle.path), "--data", str(data), "--json", str(report), *map(str, arguments)]) == 0
    document: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return document


def test_eval_gives_the_figures_of_labels(
    bundle: Bundle, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = evaluate(tmp_path, bundle, labelled)
    assert (document["top1"], document["top5"], document["images"]) == (None, None, 4)
    assert (document["exact_match"], document["accepted"]) == (75.0, 100.0)
    assert document["mean_average_precision"] == 100.0
    assert document["micro_f1"] == pytest.approx(100 * 2 * 5 / (6 + 5))
    assert {each["label"]: each["f1"] for each in document["labels"]} == {
        "red": pytest.approx(80.0),
        "green": 100.0,
        "blue": 100.0,
    }
    assert document["labels"][0]["precision"] == pytest.approx(100 * 2 / 3)
    printed = capsys.readouterr().out
    assert "mAP 100.00 %" in printed
    assert "exact match 75.00 %" in printed
    assert "red    F1 80.00 %  precision 66.67 %" in printed
    assert "top-1" not in printed


def test_eval_compares_two_bundles_by_their_decisions(
    bundle: Bundle, strict: Bundle, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "eval.html"
    document = evaluate(tmp_path, bundle, labelled, "--against", strict.path, "--html", page)
    assert (document["agreement"], document["flip_rate"]) == (50.0, 50.0)
    assert document["decision_agreement"] == pytest.approx(100 * 10 / 12)
    assert document["label_flips"] == {"red": 1, "blue": 1}
    assert (document["kl_mean"], document["top1_drop"]) == (0.0, None)
    flips = {flip["file"]: [each["label"] for each in flip["against_labels"]] for flip in document["flips"]}
    assert flips == {"photos/0-cyan.png": ["green"], "photos/0-grey.png": []}
    printed = capsys.readouterr().out
    assert "flips by label: " in printed
    assert "KL divergence, summed over the labels" in printed
    assert "softmax" not in printed
    assert "0-cyan.png" in page.read_text(encoding="utf-8")


def test_frames_without_labels_compare_two_bundles(
    bundle: Bundle, strict: Bundle, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = evaluate(tmp_path, bundle, labelled.with_name("photos"), "--against", strict.path)
    assert (document["flip_rate"], "exact_match" in document) == (50.0, False)
    assert "folders name one class" in capsys.readouterr().err


def test_folders_are_no_labels(bundle: Bundle, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(bundle.path), "--data", str(labelled.with_name("photos"))]) == EXIT_ERROR
    error = capsys.readouterr().err
    assert "the model gives any number of labels an image, and folders name one class" in error
    assert ".jsonl" in error


def test_several_labels_are_no_class(tiny_bundle: Bundle, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(tiny_bundle.path), "--data", str(labelled)]) == EXIT_ERROR
    assert "labels, and the model gives one class an image" in capsys.readouterr().err


def test_a_label_file_with_one_label_an_image_evaluates_a_model_of_one_class(
    tiny_bundle: Bundle, labelled: Path, tmp_path: Path
) -> None:
    labelled.write_text('{"file": "photos/0-red.png", "labels": ["red"]}\n', encoding="utf-8")
    assert evaluate(tmp_path, tiny_bundle, labelled)["top1"] == 100.0


def test_thresholds_are_fitted_and_written(
    make_bundle: Callable[..., Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = make_bundle(tmp_path / "fitted.bundle", activation="sigmoid")
    labelled = write_photos(tmp_path, 25)
    assert main(["eval", str(fitted.path), "--data", str(labelled), "--fit-confidence"]) == 0
    assert "fitted to the highest F1 for 3 of 3 labels, macro F1 93.33 → 100.00 %" in capsys.readouterr().out
    with load(fitted.path) as classifier:
        assert classifier.thresholds is not None
        assert classifier.thresholds[0] > 0.5
        frame = np.full((40, 40, 3), (60, 60, 90), np.uint8)
        assert classifier.classify(frame).labels == ()
    assert main(["inspect", str(fitted.path)]) == 0
    assert "macro F1 93.33 → 100.00 %" in capsys.readouterr().out


def test_a_cluster_is_refused(bundle: Bundle, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", str(bundle.path), "--data", str(labelled), "--scheduler", "tcp://127.0.0.1:9"]
    assert main(arguments) == EXIT_USAGE
    assert "--scheduler sends no logits, which a multi-label model needs" in capsys.readouterr().err


def test_run_writes_the_labels_of_every_frame(
    bundle: Bundle, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines_file = tmp_path / "lines.jsonl"
    photos = labelled.with_name("photos")
    assert main(["run", str(bundle.path), "--source", str(photos), "--jsonl", str(lines_file), "--topk", "1"]) == 0
    lines = [json.loads(line) for line in lines_file.read_text(encoding="utf-8").splitlines()]
    labels = {Path(line["file"]).name: line["labels"] for line in lines}
    assert labels == {
        "0-red.png": ["red"],
        "0-yellow.png": ["red", "green"],
        "0-cyan.png": ["green", "blue"],
        "0-grey.png": ["red"],
    }
    with load(bundle) as classifier:
        for line in lines:
            frame = np.asarray(Image.open(photos / Path(line["file"]).name))[..., ::-1]
            scores = sigmoid(classifier.logits(np.ascontiguousarray(frame)))
            assert {each["index"]: each["score"] for each in line["accepted"]} == pytest.approx(
                {index: float(score) for index, score in enumerate(scores) if score >= 0.5}
            )
    summary = capsys.readouterr().err
    assert "4 predictions" in summary
    assert "red 75.0 %" in summary
    assert "green 50.0 %" in summary


def test_inspect_shows_the_activation(bundle: Bundle, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle.path)]) == 0
    printed = capsys.readouterr().out
    assert "scores       sigmoid: any number of labels an image" in printed
    assert "a label counts from a score of 0.5 on" in printed
    assert main(["inspect", str(tiny_bundle.path)]) == 0
    assert "scores       softmax: one class an image" in capsys.readouterr().out
    assert main(["inspect", str(bundle.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["model"]["activation"] == "sigmoid"
