"""A checkpoint that PyTorch computes stands in one table with its bundles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitedge
from vitedge.bundle.bundle import Bundle
from vitedge.errors import EngineError, MissingExtraError, UsageError
from vitedge.progress import Silent
from vitedge.verbs.evaluate import is_checkpoint

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
from vitedge.converters.convert import import_packages  # noqa: E402
from vitedge.converters.original import Original, TorchEngine, load_original  # noqa: E402
from vitedge.converters.stages.loading import load_model  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import checkpoints

    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture(scope="module")
def original(checkpoint: Path) -> Original:
    return load_original(checkpoint, progress=Silent())


@pytest.fixture
def photos(tmp_path: Path, original: Original) -> Path:
    """Two photos in a folder for each of the first three labels."""
    from PIL import Image

    random = np.random.default_rng(0)
    for label in original.card.labels[:3]:
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 256, (9, 12, 3), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_the_logits_are_those_of_the_module(original: Original) -> None:
    from vitedge.converters.reference import normalized

    frame = np.random.default_rng(1).integers(0, 256, (*original.card.preprocessing.input_size, 3), dtype=np.uint8)
    with original.open() as classifier, torch.no_grad():
        expected = original.module(torch.from_numpy(normalized(frame[None], original.card.preprocessing)))
        np.testing.assert_array_equal(classifier.infer(frame), expected.numpy()[0])
        assert classifier.info.name == "pytorch"


def test_a_closed_engine(original: Original) -> None:
    engine = TorchEngine(original.module, original.card.preprocessing)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run()


def test_one_output_gives_two_logits(original: Original) -> None:
    preprocessing = original.card.preprocessing
    one = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * int(np.prod(preprocessing.input_size)), 1))
    first, second = TorchEngine(one, preprocessing).run()
    assert first == 0.0
    assert second != 0.0


def test_threads_hold_while_a_checkpoint_is_evaluated(
    checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_packages("this test")
    before, seen = torch.get_num_threads(), set[int]()

    def loaded(*arguments: Any) -> Any:
        model = load_model(*arguments)
        model.module.register_forward_pre_hook(lambda *_: seen.add(torch.get_num_threads()))
        return model

    monkeypatch.setattr("vitedge.converters.original.load_model", loaded)
    vitedge.evaluate(checkpoint, photos, threads=before + 2)
    assert seen == {before + 2}
    assert torch.get_num_threads() == before


def test_engines_side_by_side_leave_the_number_of_threads_alone(
    original: Original, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(number: int) -> None:
        raise AssertionError(f"{number} threads for the whole process")

    monkeypatch.setattr(torch, "set_num_threads", changed)
    assert TorchEngine(original.module, original.card.preprocessing).run().any()


def test_a_number_of_threads_that_pytorch_does_not_take(checkpoint: Path, photos: Path) -> None:
    with pytest.raises(UsageError, match="threads is 0"):
        vitedge.evaluate(checkpoint, photos, threads=0)


def test_the_checkpoint_alone(checkpoint: Path, photos: Path) -> None:
    report = vitedge.evaluate(checkpoint, photos)
    assert report.ours.evaluation is not None
    assert report.to_json()["bundle"] == str(checkpoint)
    assert len(report.ours.predictions) == 6


def test_original_and_bundles_stand_in_one_table(
    checkpoint: Path, original: Original, photos: Path, make_bundle: Callable[..., Bundle], monkeypatch: Any
) -> None:
    monkeypatch.setattr("vitedge.verbs.evaluate.load", lambda bundle, **_: original.open())
    bundles = [make_bundle(photos.parent / f"{name}.bundle") for name in ("int8", "fp16")]
    model = original.card
    first, second = (replace(each, manifest=replace(each.manifest, model=model)) for each in bundles)
    report = vitedge.evaluate(first, photos, against=[second, checkpoint])
    assert [each.subject.bundle for each in report.others] == [str(second.path)]
    assert report.theirs is not None
    assert report.theirs.bundle == str(checkpoint)
    assert report.comparison is not None
    assert report.comparison.agreement.percent == 100.0
    written = report.to_json()
    assert written["others"][0]["agreement"] == 100.0
    assert (written["top1_drop"], written["others"][0]["top1_drop"]) == (0.0, 0.0)
    text = report.to_text()
    assert text.count("top-1 ") >= 5
    assert f"{second.path} against {checkpoint}: agreement 100.00 %" in text


def test_a_checkpoint_of_other_labels(checkpoint: Path, tiny_bundle: Bundle, photos: Path) -> None:
    with pytest.raises(UsageError, match="the two models have different classes"):
        vitedge.evaluate(tiny_bundle, photos, against=checkpoint)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"fit_confidence": True}, "fit_confidence= writes into a bundle"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "scheduler= runs bundles"),
        ({"layers": True, "against": "timm:never_loaded"}, "layers= compares the graphs of two bundles"),
    ],
)
def test_what_a_checkpoint_cannot_do(checkpoint: Path, photos: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        vitedge.evaluate(checkpoint, photos, **options)


def test_a_graph_is_converted_instead(tmp_path: Path, photos: Path, tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="is a graph") as caught:
        vitedge.evaluate(tiny_bundle.file("model.onnx"), photos)
    assert "precision='fp32'" in caught.value.fix


def test_a_device_without_pytorch_says_what_to_install(
    checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str, *, extra: str, purpose: str) -> None:
        raise MissingExtraError(package, extra=extra, purpose=purpose)

    monkeypatch.setattr("vitedge.converters.convert.require", missing)
    with pytest.raises(MissingExtraError, match="evaluation of a checkpoint"):
        vitedge.evaluate(checkpoint, photos)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("timm:deit_tiny_patch16_224", True),
        ("hf:google/vit-base-patch16-224", True),
        ("my_models.net:build", True),
        ("net.onnx", True),
        ("net.pt2", True),
        ("deit.bundle", False),
        ("missing", False),
        ("C:\\bundles\\deit.bundle", False),
        ("C:/bundles/deit.bundle", False),
    ],
)
def test_which_text_names_a_checkpoint(given: str, expected: bool) -> None:
    assert is_checkpoint(given) is expected


def test_folders_are_told_apart(checkpoint: Path, tiny_bundle: Bundle) -> None:
    assert is_checkpoint(checkpoint)
    assert not is_checkpoint(tiny_bundle.path)
