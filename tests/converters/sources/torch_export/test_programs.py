"""Programs of ``torch.export``: what is read from them, and that nothing in a file is ever run."""

from __future__ import annotations

import contextlib
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

from vitedge.converters.reference import graph_logits, module_logits
from vitedge.converters.sources.parse import ExportedProgramFile
from vitedge.converters.sources.torch_export import worker as program_worker
from vitedge.converters.sources.torch_export.programs import ExportedProgramModel, load_program
from vitedge.errors import CheckpointError, ConversionError, UsageError
from vitedge.metrics import sqnr_db
from vitedge.safety import sandbox

PREPROCESSING = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "crop_pct": 0.9, "interpolation": "bicubic"}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call the worker here, which is faster; errors come as from the sandbox."""

    def run(module: str, request: dict[str, Any], folder: Path, bounds: object, **_: object) -> Any:
        assert module == program_worker.__name__
        return json.loads(json.dumps(program_worker.serve(request, folder)))

    monkeypatch.setattr("vitedge.converters.sources.torch_export.programs.run_sandboxed", run)


class Linear(nn.Module):
    """A classifier small enough to be exported for each test."""

    def __init__(self, classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(image.mean(dim=(2, 3)))


def save(path: Path, module: nn.Module, *inputs: Any, dynamic: Any = None, **keywords: Any) -> ExportedProgramFile:
    torch.export.save(torch.export.export(module, inputs, keywords, dynamic_shapes=dynamic), path)
    return ExportedProgramFile(path)


def load(source: ExportedProgramFile, **options: Any) -> ExportedProgramModel:
    described = source.path.with_name("preprocessing.json")
    described.write_text(json.dumps(PREPROCESSING), encoding="utf-8")
    return load_program(source, **{"labels": None, "preprocessing": str(described), **options})


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("programs") / "net.pt2", Linear().eval(), torch.zeros(1, 3, 32, 32)).path


@pytest.mark.parametrize("build", [Linear, pytest.param(checkpoints.small_vit, marks=pytest.mark.long)])
def test_a_program_computes_what_its_module_did(tmp_path: Path, frames: Any, build: Callable[[], nn.Module]) -> None:
    """In the sandbox, where PyTorch's exporter takes long to begin."""
    module = build().eval()
    model = load(save(tmp_path / "shapes.pt2", module, torch.zeros(1, 3, 32, 32)))
    assert (model.card.name, model.card.architecture, model.card.num_classes) == ("shapes", "torch.export", 5)
    assert model.card.preprocessing.input_size == (32, 32)
    assert model.card.preprocessing.resize_size == (35, 35)
    check_export(model, module, frames)


@pytest.mark.usefixtures("in_process")
def test_a_program_for_any_batch(tmp_path: Path, frames: Any) -> None:
    module = checkpoints.small_vit()
    dynamic = ({0: torch.export.Dim.AUTO},)
    check_export(load(save(tmp_path / "net.pt2", module, torch.zeros(2, 3, 32, 32), dynamic=dynamic)), module, frames)


@pytest.mark.usefixtures("in_process")
def test_tied_weights_subgraphs_and_constants(tmp_path: Path, frames: Any) -> None:
    module = Tied().eval()
    check_export(load(save(tmp_path / "net.pt2", module, torch.zeros(1, 3, 32, 32))), module, frames)


def check_export(model: ExportedProgramModel, module: nn.Module, frames: Any) -> None:
    expected = module_logits(module, frames, model.card.preprocessing)
    graph, logits = model.export(frames)
    assert sqnr_db(expected, logits) > 100
    assert sqnr_db(expected, graph_logits(graph, frames, model.card.preprocessing)) > 100


class Tied(nn.Module):
    """Two names of one weight, a constant in the code, and a part that knows no gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.arange(1.0, 7.0).reshape(2, 3))

    def forward(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            mean = image.mean(dim=(2, 3)) * self.scale[1]
        return self.second(self.first(mean)) + torch.tensor([1.0, 2.0, 3.0])


def test_what_the_sandbox_says_is_an_error(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitedge.converters.sources.torch_export.programs.SANDBOX_MEMORY", 1 << 20)
    monkeypatch.setattr("vitedge.converters.sources.torch_export.programs.PROGRAM_MEMORY", 0)
    monkeypatch.setattr(sandbox, "_POLL_SECONDS", 0.001)
    with pytest.raises(CheckpointError, match=r"net\.pt2 (took more than 1 MiB of memory|cannot be loaded)"):
        load(ExportedProgramFile(archive))


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        {},
        {"input_size": None, "logits": 0},
        {"input_size": [32, -1], "logits": 5},
        {"input_size": [1e9, 32], "logits": 5},
        {"input_size": [1 << 20, 32], "logits": 5},
        {"input_size": "32", "logits": 5},
        {"input_size": None, "logits": "5"},
    ],
)
def test_a_childs_word_is_checked(archive: Path, monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    monkeypatch.setattr("vitedge.converters.sources.torch_export.programs.run_sandboxed", lambda *_, **__: told)
    with pytest.raises(CheckpointError, match="describes itself"):
        load(ExportedProgramFile(archive))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("name", "content"),
    [("model.onnx", b""), ("model.onnx", b"x" * 100), ("logits.f32", b""), ("logits.f32", b"x" * 99)],
)
def test_a_childs_files_are_checked(
    archive: Path, frames: Any, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    model = load(ExportedProgramFile(archive))

    def write(module: str, request: dict[str, Any], folder: Path, bounds: object, **_: object) -> Any:
        facts = program_worker.serve(request, folder)
        (folder / name).write_bytes(content)
        return json.loads(json.dumps(facts))

    monkeypatch.setattr("vitedge.converters.sources.torch_export.programs.run_sandboxed", write)
    with pytest.raises(ConversionError, match=r"the (program|model) (gave|gives|did not give)"):
        model.export(frames)


@pytest.mark.usefixtures("in_process")
def test_open_sides_are_those_of_the_preprocessing(tmp_path: Path) -> None:
    sides = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    source = save(tmp_path / "net.pt2", Linear().eval(), torch.zeros(1, 3, 48, 64), dynamic=sides)
    assert load(source, preprocessing="timm:mobilevit_xxs").card.preprocessing.input_size == (256, 256)


@pytest.mark.usefixtures("in_process")
def test_labels(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="2 labels, the network has 5 logits"):
        load(ExportedProgramFile(archive), labels=tmp_path / "labels.txt")
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    assert load(ExportedProgramFile(archive), labels=tmp_path / "labels.txt").card.labels == tuple("abcde")


@pytest.mark.usefixtures("in_process")
def test_preprocessing_must_be_given_and_fit(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing says how images are preprocessed") as caught:
        load(ExportedProgramFile(archive), preprocessing=None)
    assert "preprocessing=" in caught.value.fix
    (tmp_path / "other.json").write_text(json.dumps({**PREPROCESSING, "input_size": [3, 64, 64]}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="for images of 64x64, the network takes 32x32"):
        load(ExportedProgramFile(archive), preprocessing=str(tmp_path / "other.json"))


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


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("module", "shapes", "problem"),
    [
        (TwoInputs(), (IMAGE, IMAGE), r"takes image torch\.float32 \(1,3,32,32\), mask torch\.float32"),
        (TwoOutputs(), (IMAGE,), r"returns .* \(1,5\), image"),
        (Indices(), (IMAGE,), r"returns argmax torch\.int64 \(1\)"),
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


@pytest.mark.usefixtures("in_process")
def test_an_image_by_keyword_or_in_half_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="takes image"):
        load(save(tmp_path / "net.pt2", Linear().eval(), image=torch.zeros(IMAGE)))
    with pytest.raises(CheckpointError, match=r"torch\.float16"):
        load(save(tmp_path / "half.pt2", Linear().half().eval(), torch.zeros(IMAGE).half()))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.Dropout(0.1)])
def test_training_mode_is_refused(tmp_path: Path, layer: nn.Module) -> None:
    module = nn.Sequential(layer, Linear())
    with pytest.raises(CheckpointError, match="in training mode") as caught:
        load(save(tmp_path / "net.pt2", module.train(), torch.zeros(IMAGE)))
    assert "model.eval()" in caught.value.fix
    assert load(save(tmp_path / "eval.pt2", module.eval(), torch.zeros(IMAGE))).card.num_classes == 5


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_truncated_file(archive: Path, tmp_path: Path, kept: float) -> None:
    data = archive.read_bytes()
    (tmp_path / "net.pt2").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match="is cut off, or not a program"):
        load(ExportedProgramFile(tmp_path / "net.pt2"))


@pytest.mark.usefixtures("in_process")
def test_a_file_of_another_schema(archive: Path, tmp_path: Path) -> None:
    def age(graph: dict[str, Any]) -> None:
        graph["schema_version"]["major"] = 1

    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(ExportedProgramFile(rewritten(archive, tmp_path / "net.pt2", "models/model.json", in_json(age))))


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


def structure(kind: str) -> Callable[[dict[str, Any]], None]:
    context = '{"__enum__": 1, "fqn": "this:A", "name": "B"}'
    tree = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])

    def edit(graph: dict[str, Any]) -> None:
        graph["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = tree

    return edit


def argument_name(name: str) -> Callable[[dict[str, Any]], None]:
    def edit(graph: dict[str, Any]) -> None:
        graph["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [name]

    return edit


GRAPH = "models/model.json"


@pytest.mark.usefixtures("in_process")
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
        (GRAPH, operator("torch.ops.aten.from_file.default"), "no backend has the operator"),
        (GRAPH, operator("torch.ops.aten.save.default"), "no backend has the operator"),
        (GRAPH, operator("torch.ops.aten.__class__.mro"), "no backend has the operator"),
        (GRAPH, operator("torch.ops.aten.add.overloads"), "no backend has the operator"),
        (GRAPH, operator("torch.ops.aten.name.upper"), "no backend has the operator"),
        (GRAPH, structure("collections.defaultdict"), r"takes or returns collections\.defaultdict"),
        (GRAPH, structure("torch.return_types.max"), r"takes or returns torch\.return_types"),
        (GRAPH, argument_name("x):\n    pass\n#"), "has the name"),
        (GRAPH, argument_name("lambda"), "has the name"),
    ],
)
def test_what_would_run_code_is_refused_before_pytorch_loads_it(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str, edit: Any, problem: str
) -> None:
    monkeypatch.setattr(torch.export, "load", lambda path: pytest.fail("loaded"))
    with pytest.raises(CheckpointError, match=problem):
        load(ExportedProgramFile(rewritten(archive, tmp_path / "net.pt2", member, in_json(edit))))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("member", ["data/weights/model.pt", "data/constants/model.pt", "models/evil.json", "a.so"])
def test_planted_pickles_are_not_loaded(archive: Path, tmp_path: Path, member: str) -> None:
    mark = tmp_path / "mark"
    source = ExportedProgramFile(rewritten(archive, tmp_path / "net.pt2", member, lambda _: pickled(mark)))
    with pytest.raises(CheckpointError, match="PyTorch would run code"):
        load(source)
    assert not mark.exists()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("member", ["data/sample_inputs/model.pt", "extra/notes.txt"])
def test_what_no_conversion_needs_is_never_read(archive: Path, tmp_path: Path, member: str) -> None:
    mark = tmp_path / "mark"
    source = ExportedProgramFile(rewritten(archive, tmp_path / "net.pt2", member, lambda _: pickled(mark)))
    assert load(source).card.num_classes == 5
    assert not mark.exists()


def test_the_planted_pickle_would_have_run(archive: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = rewritten(archive, tmp_path / "net.pt2", "data/sample_inputs/model.pt", lambda _: pickled(mark))
    with contextlib.suppress(Exception):  # whatever PyTorch makes of it, after it has run it
        torch.export.load(path)
    assert mark.exists()


@pytest.mark.usefixtures("in_process")
def test_compiled_code_is_refused(archive: Path, tmp_path: Path) -> None:
    path = rewritten(archive, tmp_path / "net.pt2", "data/aotinductor/model/model.so", lambda _: b"\x7fELF")
    with pytest.raises(CheckpointError, match="holds compiled code"):
        load(ExportedProgramFile(path))
