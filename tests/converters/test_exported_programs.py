"""Programs of ``torch.export``: what is read from them, and that nothing in a file is ever run."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from torch import Tensor, nn

from vitedge.converters.export import export
from vitedge.converters.exported_programs import load_program
from vitedge.converters.reference import graph_logits, module_logits
from vitedge.converters.sources import ProgramFile
from vitedge.converters.timm_models import TorchModel
from vitedge.errors import CheckpointError, UsageError
from vitedge.metrics import sqnr_db

PREPROCESSING = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "crop_pct": 0.9}


class Linear(nn.Module):
    """A classifier small enough to be exported for each test."""

    def __init__(self, classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(image.mean(dim=(2, 3)))


def save(path: Path, module: nn.Module, *inputs: Any, dynamic: Any = None, **keywords: Any) -> ProgramFile:
    torch.export.save(torch.export.export(module, inputs, keywords, dynamic_shapes=dynamic), path)
    return ProgramFile(path)


def load(source: ProgramFile, **options: Any) -> TorchModel:
    described = source.path.with_name("preprocessing.json")
    described.write_text(json.dumps(PREPROCESSING), encoding="utf-8")
    return load_program(source, **{"labels": None, "preprocessing": str(described), **options})


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("programs") / "net.pt2", Linear().eval(), torch.zeros(1, 3, 32, 32)).path


@pytest.mark.parametrize("batch", [1, 2])
def test_a_program_computes_what_its_module_did(tmp_path: Path, frames: Any, batch: int) -> None:
    """Saved for a batch of one, or for any."""
    module = checkpoints.small_vit()
    dynamic = None if batch == 1 else ({0: torch.export.Dim.AUTO},)
    model = load(save(tmp_path / "shapes.pt2", module, torch.zeros(batch, 3, 32, 32), dynamic=dynamic))
    assert (model.card.name, model.card.architecture, model.card.num_classes) == ("shapes", "torch.export", 5)
    assert model.card.preprocessing.input_size == (32, 32)
    assert model.card.preprocessing.resize_size == (35, 35)
    expected = module_logits(module, frames, model.card.preprocessing)
    assert sqnr_db(expected, module_logits(model.module, frames, model.card.preprocessing)) > 100
    graph = export(model.module, (32, 32))
    assert sqnr_db(expected, graph_logits(graph, frames, model.card.preprocessing)) > 100


def test_open_sides_are_those_of_the_preprocessing(tmp_path: Path) -> None:
    sides = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    source = save(tmp_path / "net.pt2", Linear().eval(), torch.zeros(1, 3, 48, 64), dynamic=sides)
    assert load(source, preprocessing="timm:mobilevit_xxs").card.preprocessing.input_size == (256, 256)


def test_labels(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="2 labels, the network has 5 logits"):
        load(ProgramFile(archive), labels=tmp_path / "labels.txt")
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    assert load(ProgramFile(archive), labels=tmp_path / "labels.txt").card.labels == tuple("abcde")


def test_preprocessing_must_be_given_and_fit(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing says how images are preprocessed") as caught:
        load(ProgramFile(archive), preprocessing=None)
    assert "--preprocessing" in caught.value.fix
    (tmp_path / "other.json").write_text(json.dumps({**PREPROCESSING, "input_size": [3, 64, 64]}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="for images of 64x64, the network takes 32x32"):
        load(ProgramFile(archive), preprocessing=str(tmp_path / "other.json"))


class TwoInputs(Linear):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(image * mask)


class TwoOutputs(Linear):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(image), image


class Indices(Linear):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).argmax(dim=1)


IMAGE = (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("module", "shapes", "problem"),
    [
        (TwoInputs(), (IMAGE, IMAGE), r"takes image torch\.float32 \(1,3,32,32\), mask torch\.float32"),
        (TwoOutputs(), (IMAGE,), r"gives .* \(1,5\), image"),
        (Indices(), (IMAGE,), r"gives argmax torch\.int64 \(1\)"),
        (Linear(classes=1), (IMAGE,), r"gives .* \(1,1\)"),
        (Linear(), ((4, 3, 32, 32),), r"takes image torch\.float32 \(4,3,32,32\)"),
        (Linear(channels=1), ((1, 1, 32, 32),), r"takes image torch\.float32 \(1,1,32,32\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(8, 5)), ((1, 8),), r"takes input torch\.float32 \(1,8\)"),
    ],
)
def test_programs_that_are_no_classifiers(
    tmp_path: Path, module: nn.Module, shapes: tuple[tuple[int, ...], ...], problem: str
) -> None:
    source = save(tmp_path / "net.pt2", module.eval(), *(torch.zeros(shape) for shape in shapes))
    with pytest.raises(CheckpointError, match=problem) as caught:
        load(source)
    assert caught.value.fix


def test_an_image_by_keyword_or_in_half_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="takes image"):
        load(save(tmp_path / "net.pt2", Linear().eval(), image=torch.zeros(IMAGE)))
    with pytest.raises(CheckpointError, match=r"torch\.float16"):
        load(save(tmp_path / "half.pt2", Linear().half().eval(), torch.zeros(IMAGE).half()))


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.Dropout(0.1)])
def test_training_mode_is_refused(tmp_path: Path, layer: nn.Module) -> None:
    module = nn.Sequential(layer, Linear())
    with pytest.raises(CheckpointError, match="in training mode") as caught:
        load(save(tmp_path / "net.pt2", module.train(), torch.zeros(IMAGE)))
    assert "model.eval()" in caught.value.fix
    assert load(save(tmp_path / "eval.pt2", module.eval(), torch.zeros(IMAGE))).card.num_classes == 5


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_truncated_file(archive: Path, tmp_path: Path, kept: float) -> None:
    data = archive.read_bytes()
    (tmp_path / "net.pt2").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match="is cut off, or not a program"):
        load(ProgramFile(tmp_path / "net.pt2"))


def test_a_file_of_another_schema(archive: Path, tmp_path: Path) -> None:
    def age(graph: dict[str, Any]) -> None:
        graph["schema_version"]["major"] = 1

    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(ProgramFile(rewritten(archive, tmp_path / "net.pt2", "models/model.json", in_json(age))))


Change = Callable[[bytes], bytes]


def rewritten(archive: Path, path: Path, member: str, change: Change) -> Path:
    """A copy of an archive with one member changed, or added."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as copy:
        root = source.namelist()[0].partition("/")[0]
        members = {name: source.read(name) for name in source.namelist()}
        members[f"{root}/{member}"] = change(members.get(f"{root}/{member}", b""))
        for name, data in members.items():
            copy.writestr(name, data)
    return path


def in_json(edit: Callable[[dict[str, Any]], None]) -> Change:
    def change(data: bytes) -> bytes:
        loaded = json.loads(data)
        edit(loaded)
        return json.dumps(loaded).encode()

    return change


class Planted:
    """Unpickling it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def pickled(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(((Planted(mark),), {}), buffer)
    return buffer.getvalue()


def as_pickle(config: dict[str, Any]) -> None:
    next(iter(config["config"].values()))["use_pickle"] = True


def with_opaque_constant(config: dict[str, Any]) -> None:
    config["config"]["evil"] = {
        "path_name": "opaque_obj_0",
        "is_param": False,
        "use_pickle": False,
        "tensor_meta": None,
    }


def expression(text: str) -> Callable[[dict[str, Any]], None]:
    def edit(graph: dict[str, Any]) -> None:
        sizes = next(iter(graph["graph_module"]["graph"]["tensor_values"].values()))["sizes"]
        sizes[0] = {"as_expr": {"expr_str": text, "hint": None}}

    return edit


def operator(target: str) -> Callable[[dict[str, Any]], None]:
    def edit(graph: dict[str, Any]) -> None:
        graph["graph_module"]["graph"]["nodes"][0]["target"] = target

    return edit


def enumeration(graph: dict[str, Any]) -> None:
    graph["graph_module"]["module_call_graph"][0]["fqn"] = '{"__enum__": 1, "fqn": "this:A", "name": "B"}'


GRAPH = "models/model.json"


@pytest.mark.parametrize(
    ("member", "edit", "problem"),
    [
        ("data/weights/model_weights_config.json", as_pickle, "as a pickled object"),
        ("data/constants/model_constants_config.json", with_opaque_constant, "as a pickled object"),
        (GRAPH, expression("__import__('os').system('true')"), "holds the expression"),
        (GRAPH, expression("Symbol('__import__(chr(111))')"), "holds the expression"),
        (GRAPH, expression("(lambda: 1)()"), "holds the expression"),
        (GRAPH, expression("Symbol.x"), "holds the expression"),
        (GRAPH, expression("exec(s1)"), "holds the expression"),
        (GRAPH, operator("torch.hub.load"), r"no backend has the operator torch\.hub\.load"),
        (GRAPH, operator("_operator.methodcaller"), "no backend has the operator"),
        (GRAPH, operator("torch.ops.mine.attention.default"), r"no backend has the operator torch\.ops\.mine"),
        (GRAPH, enumeration, "names Python enumerations"),
    ],
)
def test_what_would_run_code_is_refused_before_pytorch_loads_it(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str, edit: Any, problem: str
) -> None:
    monkeypatch.setattr(torch.export, "load", lambda path: pytest.fail("loaded"))
    with pytest.raises(CheckpointError, match=problem):
        load(ProgramFile(rewritten(archive, tmp_path / "net.pt2", member, in_json(edit))))


@pytest.mark.parametrize(
    "member", ["data/sample_inputs/model.pt", "data/weights/model.pt", "data/constants/model.pt", "models/evil.json"]
)
def test_planted_pickles_are_not_loaded(archive: Path, tmp_path: Path, member: str) -> None:
    mark = tmp_path / "mark"
    source = ProgramFile(rewritten(archive, tmp_path / "net.pt2", member, lambda _: pickled(mark)))
    with pytest.raises(CheckpointError, match="PyTorch would run code"):
        load(source)
    assert not mark.exists()


def test_the_planted_pickle_would_have_run(archive: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = rewritten(archive, tmp_path / "net.pt2", "data/sample_inputs/model.pt", lambda _: pickled(mark))
    with pytest.raises(Exception):  # noqa: B017, PT011  # whatever PyTorch makes of it, after it has run it
        torch.export.load(path)
    assert mark.exists()


def test_compiled_code_is_refused(archive: Path, tmp_path: Path) -> None:
    path = rewritten(archive, tmp_path / "net.pt2", "data/aotinductor/model/model.so", lambda _: b"\x7fELF")
    with pytest.raises(CheckpointError, match="holds compiled code"):
        load(ProgramFile(path))
