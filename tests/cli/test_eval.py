"""``vitedge eval`` from the command line, on real bundles and image files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitedge import cli
from vitedge.bundle.accuracy_records import ConfidenceRecord
from vitedge.bundle.bundle import MANIFEST, Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.bundle.signing import new_key, sign
from vitedge.cli import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, main
from vitedge.errors import BundleSignatureError
from vitedge.metrics import wilson_interval

pytest.importorskip("PIL")

import photos

SUBJECT_KEYS = {"bundle", "top1", "top1_ci95", "top5", "top5_ci95", "top5_k", "ece", "accepted", "accepted_top1"}


@pytest.fixture(autouse=True)
def only_this_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "VERBS", ("eval",))


@pytest.fixture(scope="module")
def mixed_up(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that takes red for blue and blue for red."""
    size = (32, 32)
    swapped = Preprocessing(size, size, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    path = tmp_path_factory.mktemp("bundles") / "mixed_up.bundle"
    return make_bundle(path, preprocessing=replace(swapped, channel_order="BGR"))


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Four images each of red, green and blue."""
    return photos.write_photos(tmp_path / "colours", each=4)


def evaluate(tmp_path: Path, bundle: Bundle, data: Path, *arguments: object) -> dict[str, Any]:
    report = tmp_path / "eval.json"
    assert main(["eval", str(bundle.path), "--data", str(data), "--json", str(report), *map(str, arguments)]) == 0
    document: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return document


def test_labelled_images(
    tiny_bundle: Bundle, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = evaluate(tmp_path, tiny_bundle, colours)
    assert set(document) == {"version", "vitedge_version", "data", "images", "skipped", "sha256"} | SUBJECT_KEYS
    assert (document["version"], document["images"], document["skipped"]) == (1, 12, [])
    assert (document["top1"], document["top5"], document["top5_k"]) == (100.0, 100.0, 3)
    interval = wilson_interval(12, 12)
    assert document["top1_ci95"] == [interval.low, interval.high]
    printed = capsys.readouterr()
    assert "12 images" in printed.out
    assert "top-1 100.00 %" in printed.out
    assert "top-3 100.00 %" in printed.out
    assert "agreement" not in printed.out
    assert "classifying 12 images" in printed.err


def test_wrong_answers_lower_top_1_alone(mixed_up: Bundle, colours: Path, tmp_path: Path) -> None:
    document = evaluate(tmp_path, mixed_up, colours)
    assert document["top1"] == pytest.approx(100 / 3)
    assert document["top5"] == 100.0


def test_against_another_bundle(
    tiny_bundle: Bundle, mixed_up: Bundle, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = evaluate(tmp_path, mixed_up, colours, "--against", tiny_bundle.path)
    assert document["agreement"] == pytest.approx(100 / 3)
    interval = wilson_interval(4, 12)
    assert document["agreement_ci95"] == [interval.low, interval.high]
    assert document["top1_drop"] == pytest.approx(200 / 3)
    assert set(document["against"]) == SUBJECT_KEYS
    assert document["against"]["bundle"] == str(tiny_bundle.path)
    assert document["against"]["top1"] == 100.0
    flips = {flip["file"]: (flip["label"], flip["against_label"]) for flip in document["flips"]}
    expected = {f"red/{index}.png": ("blue", "red") for index in range(4)}
    assert flips == expected | {f"blue/{index}.png": ("red", "blue") for index in range(4)}
    assert all(flip["score"] > 0.9 and flip["against_score"] > 0.9 for flip in document["flips"])
    out = capsys.readouterr().out
    assert "agreement 33.33 %" in out
    assert "top-1 66.67 points lower" in out
    assert "8 images are classified otherwise:" in out
    assert "red/0.png: blue" in out
    assert document["flip_rate"] == pytest.approx(200 / 3)
    assert document["kl_p99"] > document["kl_mean"] > 0.5
    assert "flip rate 66.67 %" in out


def test_a_bundle_against_itself_agrees(tiny_bundle: Bundle, colours: Path, tmp_path: Path) -> None:
    document = evaluate(tmp_path, tiny_bundle, colours, "--against", tiny_bundle.path)
    assert (document["agreement"], document["top1_drop"], document["flips"]) == (100.0, 0.0, [])


def test_unlabelled_images_show_agreement(
    tiny_bundle: Bundle, mixed_up: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, colour in enumerate(("red", "green", "green", "blue")):
        photos.write_photo(tmp_path / "frames" / f"{number}.png", colour, seed=number)
    document = evaluate(tmp_path, tiny_bundle, tmp_path / "frames", "--against", mixed_up.path)
    assert document["agreement"] == 50.0
    assert {flip["file"] for flip in document["flips"]} == {"0.png", "3.png"}
    assert [document[key] for key in ("top1", "top5", "top1_drop")] == [None] * 3
    assert document["against"] == {"bundle": str(mixed_up.path), "top1": None, "top5": None, "accepted": 100.0}
    out = capsys.readouterr().out
    assert "accuracy is not known" in out
    assert "top-1" not in out


def test_a_video_shows_how_far_two_bundles_are_apart(
    tiny_bundle: Bundle, mixed_up: Bundle, tmp_path: Path, colour_frame: Callable[..., Any]
) -> None:
    pytest.importorskip("av")
    import clips

    colours = ["green"] * 6 + ["red"] * 3
    pictures = (colour_frame(colour, height=48, width=64, seed=number) for number, colour in enumerate(colours))
    clips.write_pictures(tmp_path / "clip.avi", pictures, height=48, width=64)
    page = tmp_path / "eval.html"
    document = evaluate(
        tmp_path, tiny_bundle, tmp_path / "clip.avi", "--against", mixed_up.path, "--html", page, "--limit", 5
    )
    assert (document["images"], document["flip_rate"], document["top1"]) == (5, 40.0, None)
    assert [flip["file"] for flip in document["flips"]] == ["frame 6", "frame 8"]
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 2


def test_a_video_alone_has_no_accuracy(tmp_path: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    import clips

    clip = clips.write_clip(tmp_path / "clip.avi", 3)
    assert main(["eval", str(tiny_bundle.path), "--data", str(clip)]) == EXIT_ERROR
    assert "have no classes" in capsys.readouterr().err


def test_folders_that_are_partly_labels_show_agreement(
    tiny_bundle: Bundle, mixed_up: Bundle, colours: Path, tmp_path: Path
) -> None:
    photos.write_photo(colours / "violet" / "0.png", "green")
    document = evaluate(tmp_path, tiny_bundle, colours, "--against", mixed_up.path)
    assert document["images"] == 13
    assert document["agreement"] == pytest.approx(500 / 13)
    assert document["top1"] is document["top1_drop"] is None


@pytest.mark.parametrize(
    ("name", "message"),
    [("violet/0.png", "1 of the 4 folders in"), ("0.png", "1 image of"), ("gren/0.png", "'gren' is close to 'green'")],
)
def test_images_without_a_label_need_something_to_compare_with(
    tiny_bundle: Bundle, colours: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    photos.write_photo(colours / name, "green")
    assert main(["eval", str(tiny_bundle.path), "--data", str(colours)]) == EXIT_ERROR
    printed = capsys.readouterr()
    assert message in printed.err
    assert name.split("/")[0] in printed.err
    assert printed.err.count("error:") == 1
    assert printed.out == ""


def test_different_classes_cannot_be_compared(
    tiny_bundle: Bundle,
    make_bundle: Callable[..., Bundle],
    colours: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = make_bundle(tmp_path / "other.bundle", labels=("red", "verde", "blue"))
    report = tmp_path / "eval.json"
    arguments = ["--data", str(colours), "--against", str(other.path), "--json", str(report)]
    assert main(["eval", str(tiny_bundle.path), *arguments]) == EXIT_USAGE
    assert "class 1 is 'green' in one and 'verde' in the other" in capsys.readouterr().err
    assert not report.exists()


def test_a_limit_takes_evenly_from_the_classes(mixed_up: Bundle, colours: Path, tmp_path: Path) -> None:
    document = evaluate(tmp_path, mixed_up, colours, "--limit", "6")
    assert document["images"] == 6
    assert document["top1"] == pytest.approx(100 / 3)


@pytest.fixture(scope="module")
def partly_wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images, 12 of which lie in the folder of another class."""
    folder = photos.write_photos(tmp_path_factory.mktemp("photos") / "colours", each=36)
    for number in range(12):
        photos.write_photo(folder / "red" / f"wrong{number}.png", "blue", seed=1000 + number)
    return folder


def test_confidence_is_fitted_and_written_into_the_bundle(
    make_bundle: Callable[..., Bundle], partly_wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "some.bundle")
    before = evaluate(tmp_path, bundle, partly_wrong, "--fit-confidence", "--abstain-error", 0.2)
    assert before["accepted"] == 100.0
    assert f"written into {bundle.path}: temperature " in capsys.readouterr().out
    record = Bundle.open(bundle.path).manifest.confidence
    assert record is not None
    assert record.temperature > 1.2
    assert (record.images, record.abstain_error, record.sha256) == (120, 0.2, before["sha256"])
    assert record.ece_before == pytest.approx(before["ece"])
    after = evaluate(tmp_path, bundle, partly_wrong)
    assert after["ece"] == pytest.approx(record.ece_after, abs=0.1)
    assert after["ece"] < before["ece"]
    assert after["top1"] == before["top1"] == after["accepted_top1"] == 90.0


def test_a_threshold_is_fitted_again_and_not_dropped(
    make_bundle: Callable[..., Bundle], partly_wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ConfidenceRecord(1.0, 0.5, 0.05, 90.0, 96.0, 5.0, 1.0, 100, "")
    bundle = make_bundle(tmp_path / "some.bundle", confidence=record)
    evaluate(tmp_path, bundle, partly_wrong, "--fit-confidence")
    fitted = Bundle.open(bundle.path).manifest.confidence
    assert fitted is not None
    assert (fitted.abstain_error, fitted.threshold > 0) == (0.05, True)
    assert "its threshold is fitted again, for at most 5 % wrong predictions" in capsys.readouterr().err


def test_a_threshold_that_was_fitted_to_no_error_rate_is_dropped_aloud(
    make_bundle: Callable[..., Bundle], partly_wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ConfidenceRecord(1.0, 0.5, None, 90.0, 96.0, 5.0, 1.0, 100, "")
    bundle = make_bundle(tmp_path / "some.bundle", confidence=record)
    evaluate(tmp_path, bundle, partly_wrong, "--fit-confidence")
    fitted = Bundle.open(bundle.path).manifest.confidence
    assert fitted is not None
    assert fitted.threshold == 0
    assert "note: its threshold of 0.5 is dropped" in capsys.readouterr().err


def test_confidence_of_a_signed_bundle_says_to_sign_it_again(
    make_bundle: Callable[..., Bundle], partly_wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography")
    bundle = make_bundle(tmp_path / "some.bundle")
    new_key(tmp_path / "fleet.pem")
    sign(bundle, key=tmp_path / "fleet.pem")
    evaluate(tmp_path, bundle, partly_wrong, "--fit-confidence")
    said = "\nits signatures were for the manifest before: vitedge sign makes one for this\n"
    assert capsys.readouterr().out.endswith(said)
    with pytest.raises(BundleSignatureError, match="was altered after"):
        Bundle.open(bundle.path, trust=tmp_path / "fleet.pub.pem")


def test_a_bundle_that_abstains(
    make_bundle: Callable[..., Bundle], partly_wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ConfidenceRecord(1.0, 1.0, 0.05, 90.0, 96.0, 5.0, 1.0, 100, "")
    document = evaluate(tmp_path, make_bundle(tmp_path / "some.bundle", confidence=record), partly_wrong)
    assert (document["accepted"], document["accepted_top1"], document["top1"]) == (0.0, None, 90.0)
    assert "abstains below a score of 1.000: accepts 0.00 % [" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--abstain-error", "0.05"], EXIT_USAGE, "--abstain-error is for --fit-confidence"),
        (["--fit-confidence", "--abstain-error", "5"], EXIT_USAGE, "the share of wrong predictions is 5"),
        (["--fit-confidence"], EXIT_ERROR, "12 images are too few"),
        (
            ["--fit-confidence", "--scheduler", "tcp://127.0.0.1:1"],
            EXIT_USAGE,
            "--fit-confidence runs on this machine alone",
        ),
    ],
)
def test_confidence_that_cannot_be_fitted_leaves_the_bundle_alone(
    tiny_bundle: Bundle,
    colours: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    before = (tiny_bundle.path / MANIFEST).read_bytes()
    assert main(["eval", str(tiny_bundle.path), "--data", str(colours), *arguments]) == code
    assert message in capsys.readouterr().err
    assert (tiny_bundle.path / MANIFEST).read_bytes() == before


def test_the_engine_can_be_chosen(
    tiny_bundle: Bundle, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path, tiny_bundle, colours, "--engine", "onnxruntime")["top1"] == 100.0
    with pytest.raises(SystemExit):
        main(["eval", str(tiny_bundle.path), "--data", str(colours), "--engine", "onnx"])
    assert "invalid choice" in capsys.readouterr().err


def test_the_threads_reach_the_engine_of_both_bundles(
    tiny_bundle: Bundle, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitedge.runtime.engines import openvino

    asked: list[int | None] = []
    configuration = openvino.configuration
    monkeypatch.setattr(openvino, "configuration", lambda *given: (asked.append(given[-1]), configuration(*given))[1])
    evaluate(tmp_path, tiny_bundle, colours, "--threads", "1", "--against", tiny_bundle.path)
    assert asked == [1, 1]


def test_threads_are_for_this_machine(tiny_bundle: Bundle, colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--threads", "2", "--scheduler", "tcp://127.0.0.1:1"]
    assert main(["eval", str(tiny_bundle.path), "--data", str(colours), *arguments]) == EXIT_USAGE
    assert "leave out --threads or --scheduler" in capsys.readouterr().err


def test_images_that_cannot_be_read_are_named(
    tiny_bundle: Bundle, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (colours / "red" / "0.png").write_bytes(b"no image")
    document = evaluate(tmp_path, tiny_bundle, colours)
    assert (document["images"], document["skipped"], document["top1"]) == (11, ["red/0.png"], 100.0)
    assert "skipped, cannot be read: red/0.png" in capsys.readouterr().out


def test_no_images_no_folder_no_bundle(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "holds no images"), ("missing", "there is no folder")):
        assert main(["eval", str(tiny_bundle.path), "--data", str(tmp_path / name)]) == EXIT_ERROR
        assert message in capsys.readouterr().err
    data = photos.write_photos(tmp_path / "colours", each=1)
    assert main(["eval", str(tmp_path / "empty"), "--data", str(data)]) == EXIT_ERROR
    assert "is not a bundle" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-3"])
def test_a_limit_that_leaves_nothing(
    tiny_bundle: Bundle, colours: Path, capsys: pytest.CaptureFixture[str], limit: str
) -> None:
    assert main(["eval", str(tiny_bundle.path), "--data", str(colours), "--limit", limit]) == EXIT_USAGE
    assert f"{limit} images were asked for" in capsys.readouterr().err


def test_data_is_required(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["eval", str(tiny_bundle.path)])
    assert caught.value.code == 2
    assert "--data" in capsys.readouterr().err


def test_a_report_that_has_no_place_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "no" / "report.json"
    for option in ("--json", "--html"):
        assert main(["eval", "never.opened", "--data", "never.listed", option, str(report)]) == EXIT_USAGE
        assert f"{tmp_path / 'no'} is not a folder" in capsys.readouterr().err


def test_json_on_standard_output_stands_alone(
    tiny_bundle: Bundle,
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["eval", str(tiny_bundle.path), "--data", str(colours), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1
    assert list(Path().iterdir()) == []


def test_an_interrupted_evaluation_writes_nothing(
    tiny_bundle: Bundle, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitedge.calib.evaluation import accuracy

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy, "predict", interrupt)
    before = sorted(tmp_path.iterdir())
    json_file = tmp_path / "eval.json"
    assert main(["eval", str(tiny_bundle.path), "--data", str(colours), "--json", str(json_file)]) == EXIT_INTERRUPTED
    assert sorted(tmp_path.iterdir()) == before


def test_an_interrupted_evaluation_goes_on_with_the_same_command(
    tiny_bundle: Bundle,
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vitedge.calib.evaluation import predictions
    from vitedge.runtime.classifier import Classifier

    monkeypatch.setattr(predictions, "BATCH_IMAGES", 3)
    expected = evaluate(tmp_path, tiny_bundle, colours)
    classified, infer = [0], Classifier.infer

    def counted(self: Classifier, prepared: Any) -> Any:
        classified[0] += 1
        if classified[0] == 8:
            raise KeyboardInterrupt
        return infer(self, prepared)

    monkeypatch.setattr(Classifier, "infer", counted)
    (tmp_path / "eval.json").unlink()
    command = ["eval", str(tiny_bundle.path), "--data", str(colours), "--json", str(tmp_path / "eval.json")]
    assert main(command) == EXIT_INTERRUPTED
    resume_log = tmp_path / "eval.json.resume"
    assert f"{resume_log} has the predictions so far: the same command continues" in capsys.readouterr().err
    assert resume_log.exists()
    assert not (tmp_path / "eval.json").exists()
    classified[0] = 8
    assert main(command) == 0
    assert classified[0] == 8 + 12 - 6
    assert "6 of them were classified before the interrupt" in capsys.readouterr().err
    assert json.loads((tmp_path / "eval.json").read_text(encoding="utf-8")) == expected
    assert not resume_log.exists()


def test_a_cluster_gives_the_same_report(
    tiny_bundle: Bundle, mixed_up: Bundle, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    expected = evaluate(tmp_path, tiny_bundle, colours, "--against", mixed_up.path)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address=":0", host="127.0.0.1"
    ) as local:
        address = local.scheduler_address
        found = evaluate(tmp_path, tiny_bundle, colours, "--against", mixed_up.path, "--scheduler", address)
    assert found == expected


def test_layers(
    tiny_bundle: Bundle,
    make_bundle: Callable[..., Bundle],
    colours: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    int8, page = make_bundle(tmp_path / "int8.bundle", precision="int8"), tmp_path / "eval.html"
    document = evaluate(tmp_path, int8, colours, "--against", tiny_bundle.path, "--layers", "--html", page)
    assert document["layers"]["images"] == 12
    assert {layer["operator"] for layer in document["layers"]["layers"]} == {"Conv", "MatMul"}
    assert all(layer["only"]["sqnr_db"] > 20.0 for layer in document["layers"]["layers"])
    printed = capsys.readouterr()
    assert "layers on 12 images, logits against fp32: with all 2 layers in int8" in printed.out
    assert "only it dB" in printed.out
    assert "measuring what each of 2 layers costs, on 12 images" in printed.err
    assert page.read_text(encoding="utf-8").count("<svg") == 2


def test_layers_need_the_same_model_in_fp32(
    tiny_bundle: Bundle,
    make_bundle: Callable[..., Bundle],
    colours: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    int8 = make_bundle(tmp_path / "int8.bundle", precision="int8")
    data = ["--data", str(colours), "--layers"]
    for arguments, problem in (
        ([str(int8.path)], "--layers needs the model in fp32"),
        ([str(int8.path), "--against", str(int8.path)], f"{int8.path} is int8"),
        ([str(tiny_bundle.path), "--against", str(tiny_bundle.path)], f"{tiny_bundle.path} is fp32"),
    ):
        assert main(["eval", *arguments, *data]) != 0
        assert problem in capsys.readouterr().err
