"""``package.module:factory``: the user's module is imported, called, and measured; their errors name their lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vitedge.bundle.bundle import sha256_of
from vitedge.converters.sources.factory import load_factory
from vitedge.converters.sources.parse import parse_source
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.errors import CheckpointError, UsageError

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.head = nn.Linear(3, classes)
    def forward(self, image):
        return self.head(image.mean(dim=(2, 3)))

class Described(Net):
    pretrained_cfg = {
        "input_size": (3, 48, 48), "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "crop_pct": 0.75,
        "interpolation": "bicubic",
    }

class PartlyDescribed(Net):
    pretrained_cfg = {"input_size": (3, 48, 48), "crop_pct": 0.75}

class TwoInputs(Net):
    def forward(self, image, mask):
        return super().forward(image * mask)

class Features(Net):
    def forward(self, image):
        return {"logits": super().forward(image)}

class Fixed(Net):
    def forward(self, image):
        assert image.shape[2:] == (64, 64), "64x64 only"
        return super().forward(image)

class Maps(Net):
    def forward(self, image):
        return image

def build():
    return Net().train()

def raises():
    return Net(classes="five")

def leaves():
    raise SystemExit(2)

def sized(classes):
    return Net(classes)

def nothing():
    pass

instance = Net()
number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the user's module, which is forgotten afterwards."""
    (tmp_path / "user_nets.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "user_package").mkdir()
    (tmp_path / "user_package" / "__init__.py").touch()
    (tmp_path / "user_package" / "zoo.py").write_text(CODE, encoding="utf-8")
    described = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "crop_pct": 0.875}
    (tmp_path / "pre.json").write_text(json.dumps({**described, "input_size": [3, 32, 32]}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("user_"):
            del sys.modules[name]


def load(text: str, **options: Any) -> TorchModel:
    whole = {"weights": None, "labels": None, "preprocessing": "pre.json", "input_size": None, **options}
    return load_factory(parse_source(text), **whole)  # type: ignore[arg-type]


def test_a_module_of_the_current_folder_does_not_hide_an_installed_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the factory imports, and what its libraries import later, is what is installed."""
    for name in ("wave", "colorsys", "timm"):
        (here / f"{name}.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    code = CODE + "\nimport wave, timm\ndef late():\n    import colorsys\n    return Net()\n"
    (here / "user_late.py").write_text(code, encoding="utf-8")
    for name in ("wave", "colorsys"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert load("user_late:late").card.architecture == "Net"
    assert not str(sys.modules["wave"].__file__).startswith(str(here))
    assert not str(sys.modules["colorsys"].__file__).startswith(str(here))


@pytest.mark.parametrize("text", ["user_nets:build", "user_nets:Net", "user_package.zoo:build"])
def test_a_module_of_the_current_folder(here: Path, text: str) -> None:
    path = list(sys.path)
    model = load(text)
    assert sys.path == path
    assert not model.module.training
    assert model.card.name == text.partition(":")[2]
    assert (model.card.source, model.card.architecture) == (text, "Net")
    assert model.card.labels == tuple(f"class_{index}" for index in range(5))
    assert model.card.preprocessing.input_size == (32, 32)
    assert len(model.card.weights_sha256) == 64


def test_weights_are_loaded_into_it(here: Path) -> None:
    from torch import nn

    state = {"head.weight": torch.full((5, 3), 0.25), "head.bias": torch.zeros(5)}
    torch.save({"state_dict": state}, "weights.pth")
    model = load("user_nets:build", weights=Path("weights.pth"))
    assert isinstance(model.module.head, nn.Linear)
    assert torch.equal(model.module.head.weight, state["head.weight"])
    assert model.card.weights_sha256 == sha256_of(Path("weights.pth"))
    torch.save({"head.weight": state["head.weight"][:3], "neck": state["head.bias"]}, "weights.pth")
    with pytest.raises(CheckpointError, match=r"1 missing \(head\.bias\); 1 unexpected \(neck\); 1 of the wrong shape"):
        load("user_nets:build", weights=Path("weights.pth"))


def test_preprocessing_is_that_of_its_configuration(here: Path) -> None:
    card = load("user_nets:Described", preprocessing=None).card
    assert (card.preprocessing.input_size, card.preprocessing.resize_size) == ((48, 48), (64, 64))
    assert load("user_nets:Described", preprocessing=None, input_size=(96, 48)).card.preprocessing.resize_size == (
        128,
        64,
    )
    assert load("user_nets:Described").card.preprocessing.input_size == (32, 32)


def test_preprocessing_of_another_model_at_the_size_asked_for(here: Path) -> None:
    preprocessing = load(
        "user_nets:Fixed", preprocessing="timm:deit_tiny_patch16_224", input_size=(64, 64)
    ).card.preprocessing
    assert (preprocessing.input_size, preprocessing.resize_size) == ((64, 64), (71, 71))  # 64 / 0.9


def test_half_precision_is_widened(here: Path) -> None:
    (here / "user_half.py").write_text("from user_nets import Net\ndef build(): return Net().half()\n")
    assert {each.dtype for each in load("user_half:build").module.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        ("user_net:build", "no module user_net", "did you mean user_nets"),
        ("tim:deit_tiny_patch16_224", "no module tim, and no source scheme", "did you mean timm"),
        ("user_package.zo:build", "no module user_package.zo", "did you mean user_package.zoo"),
        ("user_nets:bild", "user_nets has no 'bild'", "did you mean build"),
        ("user_nets:instance", "is of type Net", "name its class"),
        ("user_nets:number", "is of type int", "function"),
        ("user_nets:sized", "needs arguments: classes", "without arguments"),
        ("user_nets:nothing", "returns a NoneType", ""),
        ("user_nets:raises", r"raises TypeError: .*, at .*linear\.py, line \d+", ""),
        ("user_nets:leaves", r"raises SystemExit: 2, at .*user_nets\.py, line \d+: raise SystemExit\(2\)", ""),
        (
            "user_nets:TwoInputs",
            r"one image of 32x32 pixels, raises TypeError: .*missing 1 required positional argument: 'mask'",
            "takes an image alone",
        ),
        (
            "user_nets:Fixed",
            r"raises AssertionError: 64x64 only, at .*user_nets\.py, line \d+: assert image\.shape",
            "input_size=",
        ),
        ("user_nets:Features", "gives a dict", "logits alone"),
    ],
)
def test_one_clear_error(here: Path, text: str, problem: str, fix: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        load(text)
    assert fix in caught.value.fix
    assert caught.value.expected


def test_maps_are_no_logits(here: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gives torch\.float32 \(1, 3, 32, 32\)"):
        load("user_nets:Maps")


def test_a_configuration_without_mean_is_not_completed(here: Path) -> None:
    with pytest.raises(CheckpointError, match=r"of user_nets:PartlyDescribed does not say .* no mean, std, interp"):
        load("user_nets:PartlyDescribed", preprocessing=None)


def test_nothing_says_how_images_are_prepared(here: Path) -> None:
    with pytest.raises(UsageError, match="user_nets:build: its module has no pretrained_cfg") as caught:
        load("user_nets:build", preprocessing=None)
    assert "preprocessing=timm:NAME" in caught.value.fix


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import nonsense_that_is_not_there", r"raises ModuleNotFoundError: .*user_bad\.py, line 1: import nonsense"),
        ("x = 1\ny = x / 0", r"raises ZeroDivisionError: .*user_bad\.py, line 2: y = x / 0"),
        ("def build(:\n", r"raises SyntaxError: .*user_bad\.py, line 1"),
    ],
)
def test_a_module_that_cannot_be_imported(here: Path, code: str, problem: str) -> None:
    (here / "user_bad.py").write_text(code, encoding="utf-8")
    with pytest.raises(UsageError, match=f"importing user_bad {problem}"):
        load("user_bad:build")
