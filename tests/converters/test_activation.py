"""The scores of a bundle are those of its checkpoint: softmax, sigmoid, or the two answers of one logit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

import vitedge
from vitedge.bundle.bundle import Bundle
from vitedge.cli import main
from vitedge.converters.reference import graph_logits
from vitedge.converters.sources.activation import activation_of_problem
from vitedge.converters.sources.labels import choose_labels
from vitedge.converters.sources.onnx.models import load_onnx
from vitedge.converters.sources.parse import OnnxFile
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.stages.heads import Head, read_head
from vitedge.errors import CheckpointError, UsageError
from vitedge.metrics import sigmoid, softmax

pytest.importorskip("transformers")
pytest.importorskip("PIL")

import transformers
import transformers_checkpoints
from PIL import Image

MULTI = {"problem_type": "multi_label_classification"}
PREPROCESSING = {
    "input_size": [3, 32, 32],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}


def write_photos(folder: Path, count: int = 3) -> list[Path]:
    folder.mkdir()
    generator = np.random.default_rng(3)
    paths = [folder / f"{at}.png" for at in range(count)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (40, 32, 3), dtype=np.uint8)).save(path)
    return paths


def logits_of(checkpoint: Path, photo: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What Transformers itself computes."""
    model = transformers.AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    with torch.no_grad():
        logits: np.ndarray[Any, np.dtype[np.float32]] = (
            model(**processor(images=Image.open(photo), return_tensors="pt")).logits[0].numpy()
        )
    return logits


@pytest.fixture(scope="module")
def multilabel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    folder = tmp_path_factory.mktemp("multilabel")
    checkpoint = transformers_checkpoints.write_checkpoint(folder / "vit", **MULTI)
    bundle = vitedge.convert(checkpoint, target="cpu", precision="fp32", output=folder / "vit.bundle")
    return checkpoint, bundle


def test_a_multilabel_checkpoint_gives_the_sigmoid_of_transformers(
    multilabel: tuple[Path, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the checkpoint through ``run --jsonl`` and ``eval``: every label has the score that Transformers gives."""
    checkpoint, bundle = multilabel
    photos = write_photos(tmp_path / "photos")
    assert bundle.manifest.model.activation == "sigmoid"
    lines_file = tmp_path / "lines.jsonl"
    assert main(["run", str(bundle.path), "--source", str(tmp_path / "photos"), "--jsonl", str(lines_file)]) == 0
    lines = {Path(line["file"]).name: line for line in map(json.loads, lines_file.read_text().splitlines())}
    entries = []
    for photo in photos:
        expected = torch.from_numpy(logits_of(checkpoint, photo)).sigmoid().numpy()
        line = lines[photo.name]
        assert {each["index"]: each["score"] for each in line["topk"]} == pytest.approx(
            dict(enumerate(expected.tolist())), abs=2e-3
        )
        names = [bundle.manifest.model.labels[index] for index in np.flatnonzero(expected >= 0.5)]
        assert sorted(line["labels"]) == sorted(names)
        entries.append(json.dumps({"file": f"photos/{photo.name}", "labels": names}))
    (tmp_path / "labels.jsonl").write_text("\n".join(entries), encoding="utf-8")
    report = tmp_path / "eval.json"
    assert main(["eval", str(bundle.path), "--data", str(tmp_path / "labels.jsonl"), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["exact_match"] == 100.0
    assert "mAP 100.00 %" in capsys.readouterr().out


def test_one_logit_gives_two_answers(tmp_path: Path) -> None:
    checkpoint = transformers_checkpoints.write_checkpoint(tmp_path / "vit", names=("cat",))
    with pytest.raises(UsageError, match=r"contradicts .*, whose activation is sigmoid"):
        vitedge.convert(checkpoint, target="cpu", precision="fp32", activation="softmax", output=tmp_path / "no.bundle")
    bundle = vitedge.convert(checkpoint, target="cpu", precision="fp32", output=tmp_path / "vit.bundle")
    assert bundle.manifest.model.labels == ("not cat", "cat")
    (photo,) = write_photos(tmp_path / "photos", 1)
    yes = float(torch.from_numpy(logits_of(checkpoint, photo)).sigmoid())
    lines_file, report = tmp_path / "lines.jsonl", tmp_path / "eval.json"
    assert main(["run", str(bundle.path), "--source", str(photo), "--jsonl", str(lines_file)]) == 0
    (line,) = map(json.loads, lines_file.read_text().splitlines())
    assert {each["label"]: each["score"] for each in line["topk"]} == pytest.approx(
        {"not cat": 1 - yes, "cat": yes}, abs=2e-3
    )
    answer = "cat" if yes > 0.5 else "not cat"
    (tmp_path / "val" / answer).mkdir(parents=True)
    photo.rename(tmp_path / "val" / answer / photo.name)
    assert main(["eval", str(bundle.path), "--data", str(tmp_path / "val"), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["top1"] == 100.0


def test_int8_keeps_the_two_answers(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 8)
    single = transformers_checkpoints.write_checkpoint(tmp_path / "one", names=("cat",))
    bundle = vitedge.convert(
        single, target="cpu", precision="int8", calib=tmp_path / "photos", output=tmp_path / "one.bundle"
    )
    with vitedge.load(bundle) as classifier:
        for photo in sorted((tmp_path / "photos").iterdir()):
            logits = classifier.logits(Image.open(photo))
            assert logits.shape == (2,)
            assert logits[0] == 0
            assert classifier.classify(Image.open(photo)).score == pytest.approx(float(softmax(logits).max()), abs=1e-6)


@pytest.mark.parametrize(
    ("problem", "logits", "activation"),
    [
        (None, 5, "softmax"),
        (None, 1, "sigmoid"),
        ("single_label_classification", 5, "softmax"),
        ("single_label_classification", 1, "softmax"),
        ("multi_label_classification", 5, "sigmoid"),
        ("multi_label_classification", 1, "sigmoid"),
    ],
)
def test_the_activation_is_that_of_transformers_pipeline(problem: str | None, logits: int, activation: str) -> None:
    assert activation_of_problem(problem, logits, "config.json") == activation


@pytest.mark.parametrize("logits", [1, 5])
def test_a_regression_is_refused_in_one_sentence(logits: int) -> None:
    with pytest.raises(CheckpointError) as caught:
        activation_of_problem("regression", logits, "config.json")
    assert caught.value.problem == (
        "config.json has the problem_type regression: the outputs are measures, and no scores of classes"
    )
    with pytest.raises(CheckpointError, match="has the problem_type 'ranking'"):
        activation_of_problem("ranking", logits, "config.json")


def test_one_logit_has_two_labels(tmp_path: Path) -> None:
    assert choose_labels(1, file=None, configured=("cat",), where="it") == ("not cat", "cat")
    assert choose_labels(1, file=None, configured=("dog", "cat"), where="it") == ("dog", "cat")
    assert choose_labels(1, file=None, configured=None, where="it") == ("not class_0", "class_0")
    (tmp_path / "labels.txt").write_text("low\nhigh\n", encoding="utf-8")
    assert choose_labels(1, file=tmp_path / "labels.txt", configured=("cat",), where="it") == ("low", "high")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="3 labels, and the network has one logit"):
        choose_labels(1, file=tmp_path / "labels.txt", configured=None, where="it")


class Net(nn.Module):
    """A linear classifier of the mean colour, with something behind it."""

    def __init__(self, classes: int, *behind: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.head = nn.Linear(12, classes)
            nn.init.normal_(self.head.weight, std=4.0)
        self.behind = nn.Sequential(*behind)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.behind(self.head(nn.functional.adaptive_avg_pool2d(image, 2).flatten(1)))
        return result


class Percent(nn.Module):
    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return scores * 100


def headed(small_model: TorchModel, module: nn.Module, frames: Any, given: Any = None, **changes: Any) -> Head:
    """Read the head of a module, as a conversion does."""
    from vitedge.converters.onnx_export import export
    from vitedge.converters.reference import module_logits

    card = small_model.card
    graph = export(module.eval(), card.preprocessing.input_size)
    reference = module_logits(module, frames, card.preprocessing)
    return read_head(TorchModel(card, module, **changes), graph, reference, frames, given)


@pytest.mark.parametrize(
    ("behind", "activation"),
    [
        ((), "softmax"),
        ((nn.Softmax(dim=1),), "softmax"),
        ((nn.LogSoftmax(dim=1),), "softmax"),
        ((nn.Softmax(dim=1), Percent()), "softmax"),
        ((nn.Sigmoid(),), "sigmoid"),
        ((nn.Sigmoid(), nn.Unflatten(1, (5, 1)), nn.Flatten()), "sigmoid"),
    ],
)
def test_the_activation_of_a_module_is_taken_off(
    small_model: TorchModel, frames: Any, behind: tuple[nn.Module, ...], activation: str
) -> None:
    plain = headed(small_model, Net(5), frames)
    found = headed(small_model, Net(5, *behind), frames)
    assert (plain.activation, found.activation) == ("softmax", activation)
    np.testing.assert_allclose(found.reference, plain.reference, atol=1e-3)
    onnx.checker.check_model(found.graph, full_check=True)


def test_a_module_with_one_output_is_a_sigmoid_or_asks(small_model: TorchModel, frames: Any) -> None:
    with pytest.raises(UsageError, match="gives one number, and nothing says what it means") as caught:
        headed(small_model, Net(1), frames)
    assert "activation='sigmoid'" in caught.value.fix
    told, found = headed(small_model, Net(1), frames, "sigmoid"), headed(small_model, Net(1, nn.Sigmoid()), frames)
    for head in (told, found):
        assert (head.activation, head.reference.shape, head.reference[:, 0].any()) == ("softmax", (8, 2), False)
    np.testing.assert_allclose(softmax(told.reference)[:, 1], sigmoid(found.reference[:, 1]), atol=1e-6)
    with pytest.raises(UsageError, match="the softmax of one logit is always 1"):
        headed(small_model, Net(1), frames, "softmax")


@pytest.mark.parametrize(
    ("module", "given", "problem"),
    [
        (Net(5, nn.Softmax(dim=1)), "sigmoid", "contradicts .*, whose activation is softmax"),
        (Net(5, nn.Sigmoid()), "softmax", "contradicts .*, whose activation is sigmoid"),
        (Net(5, nn.Hardsigmoid()), None, "ends in HardSigmoid: its outputs are no logits"),
        (Net(5, nn.Softmax(dim=0)), None, "ends in Softmax: its outputs are no logits"),
        (Net(5, nn.Softmax(dim=1), nn.Linear(5, 5, bias=False)), None, ""),
        (Net(5, nn.Hardtanh(0.0, 1.0)), None, "ends in Clip: its outputs are no logits|lies in 0…1"),
    ],
)
def test_outputs_that_may_be_no_logits_are_refused(
    small_model: TorchModel, frames: Any, module: nn.Module, given: str | None, problem: str
) -> None:
    if not problem:  # a layer behind a softmax, whose outputs still look like scores
        layer: Any = module
        nn.init.eye_(layer.behind[1].weight)
        problem = "lies in 0…1 for 8 images, as scores do"
    with pytest.raises((CheckpointError, UsageError), match=problem):
        headed(small_model, module, frames, given)


def test_a_model_of_a_library_gives_logits(small_model: TorchModel, frames: Any) -> None:
    """timm's networks end in logits; small ones are no reason to ask, and one logit is."""
    small = Net(5)
    nn.init.zeros_(small.head.weight)
    nn.init.constant_(small.head.bias, 0.5)
    small.head.weight.data[0] = 0.01
    with pytest.raises(UsageError, match="as scores do"):
        headed(small_model, small, frames)
    assert headed(small_model, small, frames, gives_logits=True).activation == "softmax"
    assert headed(small_model, small, frames, "sigmoid", gives_logits=True).activation == "sigmoid"
    with pytest.raises(UsageError, match="gives one number"):
        headed(small_model, Net(1), frames, gives_logits=True)


def test_a_graph_with_a_sigmoid_converts_to_a_multilabel_bundle(
    tmp_path: Path, small_export: onnx.ModelProto, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(small_export)
    graph.graph.node.append(helper.make_node("Sigmoid", ["logits"], ["scores"]))
    graph.graph.node.append(helper.make_node("Identity", ["scores"], ["copied"]))
    graph.graph.output[0].name = "copied"
    onnx.save(graph, tmp_path / "net.onnx")
    (tmp_path / "preprocessing.json").write_text(json.dumps(PREPROCESSING), encoding="utf-8")
    arguments = ["convert", str(tmp_path / "net.onnx"), "--target", "cpu", "--precision", "fp32"]
    arguments += ["--preprocessing", str(tmp_path / "preprocessing.json"), "-o", str(tmp_path / "net.bundle")]
    assert main([*arguments, "--activation", "softmax"]) == 2
    assert "--activation softmax contradicts" in capsys.readouterr().err
    assert main([*arguments, "--activation", "sigmod"]) == 2
    assert "expected: one of softmax, sigmoid" in capsys.readouterr().err
    assert main(arguments) == 0
    bundle = Bundle.open(tmp_path / "net.bundle")
    assert bundle.manifest.model.activation == "sigmoid"
    info = (bundle.path / "openvino" / "model.xml").read_text(encoding="utf-8")
    assert '<multilabel value="True"' in info
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    models = pytest.importorskip("model_api.models", reason="pip install openvino-model-api")
    said = models.Model.create_model(str(bundle.path / "openvino" / "model.xml"))(frame).top_labels
    with vitedge.load(bundle) as classifier:
        accepted = classifier.classify(frame).accepted
    assert accepted is not None
    assert {each.id: each.confidence for each in said} == pytest.approx(
        {each.index: each.score for each in accepted},
        abs=0.02,  # it resizes in another way
    )
    assert load_onnx(OnnxFile(bundle.path / "model.onnx"), labels=None).activation == "sigmoid"


@pytest.mark.parametrize(
    ("problem", "operator", "activation"),
    [
        ("multi_label_classification", None, "sigmoid"),
        ("multi_label_classification", "Sigmoid", "sigmoid"),
        (None, "Sigmoid", "sigmoid"),
        (None, None, "softmax"),
        ("multi_label_classification", "Softmax", None),
        ("single_label_classification", "Sigmoid", None),
        ("regression", None, None),
    ],
)
def test_a_graph_in_the_layout_of_transformers_has_its_activation(
    tmp_path: Path, small_export: onnx.ModelProto, problem: str | None, operator: str | None, activation: str | None
) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(small_export)
    if operator is not None:
        graph.graph.node.append(helper.make_node(operator, ["logits"], ["scores"]))
        graph.graph.output[0].name = "scores"
    onnx.save(graph, tmp_path / "model.onnx")
    config = {"model_type": "vit", "id2label": {str(at): f"label {at}" for at in range(5)}, "problem_type": problem}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "preprocessing.json").write_text(json.dumps(PREPROCESSING), encoding="utf-8")
    source, preprocessing = OnnxFile(tmp_path / "model.onnx"), str(tmp_path / "preprocessing.json")
    if activation is None:
        with pytest.raises(CheckpointError, match=r"ends in a .*, and .*config\.json says|problem_type regression"):
            load_onnx(source, labels=None, preprocessing=preprocessing)
    else:
        assert load_onnx(source, labels=None, preprocessing=preprocessing).activation == activation


@pytest.mark.parametrize("operator", ["Tanh", "Erf", "Softsign"])
def test_a_configuration_of_transformers_does_not_make_logits_of_scores(
    tmp_path: Path, small_export: onnx.ModelProto, small_model: TorchModel, frames: Any, operator: str
) -> None:
    """``(1 + tanh(x/2)) / 2`` is the sigmoid; a ``config.json`` says which activation belongs to logits."""
    graph = onnx.ModelProto()
    graph.CopyFrom(small_export)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.5), "half"))
    graph.graph.node.append(helper.make_node("Mul", ["logits", "half"], ["halved"]))
    graph.graph.node.append(helper.make_node(operator, ["halved"], ["signed"]))
    graph.graph.node.append(helper.make_node("Mul", ["signed", "half"], ["small"]))
    graph.graph.node.append(helper.make_node("Add", ["small", "half"], ["scores"]))
    graph.graph.output[0].name = "scores"
    onnx.save(graph, tmp_path / "model.onnx")
    (tmp_path / "preprocessing.json").write_text(json.dumps(PREPROCESSING), encoding="utf-8")
    config = {"model_type": "vit", "id2label": {str(at): f"label {at}" for at in range(5)}, **MULTI}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = load_onnx(
        OnnxFile(tmp_path / "model.onnx"), labels=None, preprocessing=str(tmp_path / "preprocessing.json")
    )
    assert model.activation == "sigmoid"
    outputs = graph_logits(model.graph, frames, model.card.preprocessing)
    with pytest.raises(UsageError, match="as scores do"):
        read_head(model, model.graph, outputs, frames, None)
    assert read_head(model, model.graph, outputs, frames, "sigmoid").activation == "sigmoid"


def test_a_factory_with_a_sigmoid_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headed_nets.py").write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.head = nn.Linear(3, 4)\n"
        "        nn.init.normal_(self.head.weight, std=3.0)\n\n"
        "    def forward(self, image):\n"
        "        return self.head(image.mean(dim=(2, 3))).sigmoid()\n",
        encoding="utf-8",
    )
    (tmp_path / "preprocessing.json").write_text(json.dumps(PREPROCESSING), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    bundle = vitedge.convert(
        "headed_nets:Net", target="cpu", precision="fp32", preprocessing="preprocessing.json", output="net.bundle"
    )
    assert bundle.manifest.model.activation == "sigmoid"
    net = sys.modules["headed_nets"].Net()
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels = (torch.from_numpy(image).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    with vitedge.load(bundle) as classifier, torch.no_grad():
        prediction = classifier.classify(image, order="RGB")
        expected = net(pixels)[0].tolist()
    assert {each.index: each.score for each in prediction.topk} == pytest.approx(dict(enumerate(expected)), abs=1e-3)
