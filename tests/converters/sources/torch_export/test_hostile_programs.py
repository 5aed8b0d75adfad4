"""Every text of a ``.pt2``, replaced by one that would run: none of them does, each ends in an error or is left out."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from vitedge.converters.sources.parse import ExportedProgramFile
from vitedge.converters.sources.torch_export import archives as program_archives
from vitedge.converters.sources.torch_export import worker as program_worker
from vitedge.converters.sources.torch_export.programs import load_program
from vitedge.converters.sources.torch_export.readers import TEXT, to_json
from vitedge.converters.sources.torch_export.schema import read_payloads, read_program
from vitedge.errors import CheckpointError, VitedgeError
from vitedge.safety.confinement import available
from vitedge.safety.sandbox import SandboxLimits, run_sandboxed

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SUPPORT = Path(__file__).resolve().parents[3] / "support"

RUN = "__import__('pathlib').Path('MARK').touch()"
BREAKOUT = "x='''):\n    pass\n" + RUN + "\ndef forward(self, x):\n    pass #"
"""Names stand twice in the source that torch.fx generates: the first opens a string, the second closes it."""
PAYLOADS = (
    BREAKOUT, RUN, "x=" + RUN, "x, y=" + RUN, "x; " + RUN, "\n" + RUN + "\n", "'+" + RUN + "+'", '"+' + RUN + '+"',
    "{" + RUN + "}", "x)#", "x: int", "x # y", "x\ny", "x\x00", "x\u2028y", "x y", "1-x", "x-y", "*x", "**x", "@x",
    "\uff45\uff56\uff41\uff4c", "__\uff49mport__", "\U0001d431", "x\u0301", "\ufb01", "lambda", "None", "class",
    "await", "__import__", "__class__", "a.__class__.b", "a..b", ".a", "a.", "a.None.b", "../../etc/passwd",
    "/etc/passwd", "a" * 5000, "%s", "$(id)", "`id`",
)  # fmt: skip


METADATA = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom")
MAPPINGS = ("tensor_values", "sym_int_values", "range_constraints", "opset_version", "config")


class Net(nn.Module):
    """Small, with all that a program can hold: a subgraph, a buffer, a constant, symbolic sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)
        self.register_buffer("scale", torch.ones(3))

    def forward(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            mean = image.mean(dim=(2, 3)) * self.scale
        return self.head(nn.functional.gelu(mean, approximate="tanh")) + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "net.pt2"
    shapes = ({0: torch.export.Dim.AUTO},)
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=shapes), path)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as source:
        return {name.partition("/")[2]: source.read(name) for name in source.namelist()}


def write(path: Path, files: dict[str, bytes], root: str = "net") -> Path:
    with zipfile.ZipFile(path, "w") as copied:
        for name, content in files.items():
            copied.writestr(f"{root}/{name}", content)
    return path


Place = tuple[Any, ...]


def places(value: Any, above: Place = ()) -> Iterator[Place]:
    """Every text of a JSON value: those of keys end in None."""
    if isinstance(value, str):
        yield above
    elif isinstance(value, dict):
        for key, each in value.items():
            yield (*above, key, None)
            yield from places(each, (*above, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from places(each, (*above, index))


@contextlib.contextmanager
def replaced(value: Any, place: Place, text: str) -> Iterator[Any]:
    """The value with one text replaced; afterwards it is as it was."""
    is_key = place[-1] is None
    *above, last = place[:-1] if is_key else place
    at = value
    for each in above:
        at = at[each]
    if is_key:
        at[text] = at.pop(last)
        yield value
        at[last] = at.pop(text)
    else:
        before, at[last] = at[last], text
        yield value
        at[last] = before


def shortened(program: Any) -> Any:
    """Without most of the stack traces, which make every reading slow."""
    for node in program.get("graph_module", {}).get("graph", {}).get("nodes", ())[1:]:
        node["metadata"] = {}
    return program


def role(place: Place) -> str:
    """A place without numbers and names of the graph's own."""
    above = (None, *place)
    return ".".join(
        "*" if isinstance(each, int) or before in MAPPINGS else str(each)
        for before, each in zip(above, place, strict=False)
    )


def texts(value: Any) -> set[str]:
    found = set()
    for place in places(value):
        at = value
        for each in place[:-2] if place[-1] is None else place:
            at = at[each]
        found.add(place[-2] if place[-1] is None else at)
    return found


READERS: dict[str, Callable[[bytes], Any]] = {
    GRAPH: read_program,
    WEIGHTS: lambda text: read_payloads(text, program_archives.PAYLOADS[WEIGHTS][1]),
    CONSTANTS: lambda text: read_payloads(text, program_archives.PAYLOADS[CONSTANTS][1]),
}


@pytest.mark.parametrize("member", READERS)
def test_no_text_but_harmless_ones_reaches_pytorch(archive: Path, member: str) -> None:
    """Each text with one payload, and each role with all of them."""
    original = shortened(json.loads(members(archive)[member]))
    before = texts(READERS[member](to_json(original)))
    seen: set[str] = set()
    refused = left_out = 0
    for number, place in enumerate(list(places(original))):
        payloads = [PAYLOADS[number % len(PAYLOADS)]] if role(place) in seen else PAYLOADS
        seen.add(role(place))
        for payload in payloads:
            with replaced(original, place, payload) as hostile:
                text = to_json(hostile)
            try:
                after = READERS[member](text)
            except ValueError:
                refused += 1
                continue
            left_out += 1
            new = texts(after) - before
            assert not new or (place[-1] == "as_string" and all(map(TEXT.fullmatch, new))), (place, payload)
    assert refused > 100 or member == CONSTANTS
    assert left_out or member != GRAPH


def test_no_role_of_a_text_runs_code(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever passes is loaded by PyTorch here, without the sandbox."""
    monkeypatch.chdir(tmp_path)
    files = members(archive)
    seen: set[str] = set()
    loaded = 0
    for member in READERS:
        original = shortened(json.loads(files[member]))
        for place in list(places(original)):
            if role(place) in seen:
                continue
            seen.add(role(place))
            with replaced(original, place, BREAKOUT) as hostile:
                path = write(tmp_path / "net.pt2", {**files, member: to_json(hostile)})
            try:
                program_worker.serve({"path": str(path), "name": "net.pt2"}, tmp_path)
                loaded += 1
            except VitedgeError:
                pass
            assert not (tmp_path / "MARK").exists(), place
    assert len(seen) > 60
    assert loaded > 5


LEAF = {"type": None, "context": None, "children_spec": []}


def branch(kind: str, children: list[Any], context: str = "null") -> dict[str, Any]:
    return {"type": kind, "context": context, "children_spec": children}


def deep(levels: int) -> Any:
    return LEAF if levels == 0 else branch("builtins.tuple", [deep(levels - 1)])


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        (branch("builtins.dict", [LEAF], json.dumps([BREAKOUT])), "has the name"),
        (branch("builtins.dict", [LEAF], json.dumps(["lambda"])), "has the name"),
        (branch("builtins.dict", [LEAF], json.dumps(["x", "y"])), "does not name each"),
        (branch("builtins.dict", [LEAF, LEAF], json.dumps(["x", "x"])), "does not name each"),
        (
            branch("builtins.dict", [LEAF], json.dumps([{"__enum__": True, "fqn": "os:system", "name": "x"}])),
            "not a text",
        ),
        (branch("builtins.dict", [LEAF], "not JSON"), "not a program"),
        (branch("builtins.tuple", [LEAF], '{"default_factory_module": "os"}'), "is none of"),
        (branch("collections.defaultdict", [LEAF], '{"default_factory_module": "os"}'), "takes or returns collections"),
        (branch("collections.namedtuple", [LEAF]), "takes or returns collections"),
        (branch("os.system", [LEAF]), r"takes or returns os\.system"),
        (branch("builtins.tuple", [{**LEAF, "evil": 1}]), "is not a structure"),
        (branch("builtins.tuple", [None]), "is not an object"),
        (deep(16), "is not a structure"),
        ("x", "is not an object"),
    ],
)
@pytest.mark.parametrize("place", ["in_spec", "out_spec"])
def test_structures_of_inputs_and_outputs(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, tree: Any, problem: str
) -> None:
    monkeypatch.setattr(torch.export, "load", lambda path: pytest.fail("loaded"))
    files = members(archive)
    program = json.loads(files[GRAPH])
    program["graph_module"]["module_call_graph"][0]["signature"][place] = json.dumps([1, tree])
    check_refused(write(tmp_path / "net.pt2", {**files, GRAPH: to_json(program)}), problem)


def test_what_is_left_out_changes_nothing(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = members(archive)
    program = json.loads(files[GRAPH])
    program["guards_code"] = [RUN]
    program["torch_version"] = BREAKOUT
    program["graph_module"]["metadata"] = {"custom": json.dumps({BREAKOUT: BREAKOUT})}
    for node in program["graph_module"]["graph"]["nodes"]:
        node["metadata"] = dict.fromkeys(METADATA, BREAKOUT)
    program["graph_module"]["module_call_graph"].append({"fqn": BREAKOUT, "signature": None})
    assert read_program(to_json(program)) == read_program(files[GRAPH])
    plain, hostile = tmp_path / "plain", tmp_path / "hostile"
    for folder, content in ((plain, files[GRAPH]), (hostile, to_json(program))):
        folder.mkdir()
        (folder / program_worker.IMAGES).write_bytes(bytes(4 * 3 * 32 * 32))
        path = write(folder / "net.pt2", {**files, GRAPH: content})
        program_worker.serve({"path": str(path), "name": "net.pt2", "input_size": [32, 32]}, folder)
    assert (plain / program_worker.LOGITS).read_bytes() == (hostile / program_worker.LOGITS).read_bytes()
    assert computed(plain / program_worker.GRAPH) == computed(hostile / program_worker.GRAPH)
    assert b"MARK" not in (hostile / program_worker.GRAPH).read_bytes()
    assert not list(tmp_path.rglob("MARK"))


def computed(path: Path) -> onnx.ModelProto:
    """A graph without notes of its exporter, which counts the modules that it has seen."""
    model = onnx.load(path)
    for each in (*model.graph.node, *model.graph.initializer, *model.graph.value_info, *model.graph.input):
        del each.metadata_props[:]
    return model


def hostile_archive(archive: Path, path: Path, name: str) -> Path:
    files = members(archive)
    program = json.loads(files[GRAPH])
    program["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [name]
    return write(path, {**files, GRAPH: to_json(program)})


def test_a_name_would_have_run(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch by itself runs what the other tests plant."""
    monkeypatch.chdir(tmp_path)
    path = hostile_archive(archive, tmp_path / "net.pt2", BREAKOUT)
    torch.export.load(path).module(check_guards=False)
    assert (tmp_path / "MARK").exists()


def test_converting_does_not_run_it(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = hostile_archive(archive, tmp_path / "net.pt2", BREAKOUT)
    with pytest.raises(CheckpointError, match="which is no identifier: PyTorch would run code"):
        load_program(ExportedProgramFile(path), labels=None, preprocessing=None)
    assert not list(tmp_path.rglob("MARK"))


@pytest.mark.skipif(not available().landlock, reason="this kernel has no Landlock")
def test_code_that_ran_would_stay_in_the_sandbox(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no check stood before PyTorch."""
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    inside, outside = scratch / "MARK", tmp_path / "MARK"
    marks = f"({str(inside)!r}, {str(outside)!r})"
    touch_both = f"[__import__('pathlib').Path(each).touch() for each in {marks}]"
    path = hostile_archive(archive, tmp_path / "net.pt2", BREAKOUT.replace(RUN, touch_both))
    with contextlib.suppress(CheckpointError):
        run_sandboxed("trusting_worker", {"path": str(path)}, scratch, SandboxLimits(), readable=[path])
    assert inside.exists()
    assert not outside.exists()


Files = dict[str, bytes]


def without(name: str) -> Callable[[Files], None]:
    return lambda files: files.pop(name) and None


def with_file(name: str, content: bytes) -> Callable[[Files], None]:
    return lambda files: files.update({name: content})


def with_meta(**changed: Any) -> Callable[[Files], None]:
    def edit(files: Files) -> None:
        config = json.loads(files[WEIGHTS])
        next(iter(config["config"].values()))["tensor_meta"].update(changed)
        files[WEIGHTS] = json.dumps(config).encode()

    return edit


def numbers(*values: int) -> list[dict[str, int]]:
    return [{"as_int": value} for value in values]


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (without(GRAPH), "cut off, or not a program.*has no models/model.json"),
        (without(WEIGHTS), "has no data/weights"),
        (without("data/weights/weight_0"), "weight_0"),
        (with_file("archive_version", b"1"), "its archive_version is not 0"),
        (with_file("archive_format", b"zip"), "its archive_format is not pt2"),
        (with_file("byteorder", b"big"), "its byteorder is not little"),
        (with_file(GRAPH, b""), "not a program"),
        (with_file(GRAPH, b"[" * 100_000), "not a program.*deeper than"),
        (with_file(GRAPH, b"{}"), "not a program|cannot be loaded"),
        (with_file(GRAPH, b"null"), "not a program"),
        (with_file(GRAPH, b"\xff\xfe"), "not a program"),
        (with_file(GRAPH, b'{"opset_version": {"aten": 1e999}}'), "not a program"),
        (with_file("data/weights/../../evil", b""), "holds 'data/weights/../../evil'"),
        (with_file("/etc/evil", b""), "holds '/etc/evil'"),
        (with_file("data/weights/weight_0.so", b""), "holds 'data/weights/weight_0.so'"),
        (with_file("executorch/model.pte", b""), "holds 'executorch"),
        (with_meta(sizes=numbers(1 << 40, 3)), "larger than its file"),
        (with_meta(sizes=numbers(5, -3)), "has the sizes"),
        (with_meta(strides=numbers(-1, 1)), "has the sizes"),
        (with_meta(strides=numbers(1)), "has the sizes"),
        (with_meta(sizes=numbers(1 << 20, 1 << 20), strides=numbers(0, 0)), "tensors take"),
        (with_meta(sizes=numbers(*[1] * 17), strides=numbers(*[1] * 17)), "has the sizes"),
        (with_meta(storage_offset={"as_int": 1 << 40}), "larger than its file"),
        (with_meta(storage_offset={"as_int": 1 << 70}), "not an integer of 64 bits"),
        (with_meta(sizes=[{"as_expr": {"expr_str": "s0"}}]), "none of as_int"),
        (with_meta(dtype=99), "not a program"),
        (with_meta(dtype="float"), "not an integer"),
        (with_meta(layout=1), "none of"),
        (with_meta(device={"type": "meta"}), "none of"),
        (with_meta(new_field=1), "the field 'new_field' is not known"),
    ],
)
def test_damaged_archives(archive: Path, tmp_path: Path, edit: Callable[[Files], None], problem: str) -> None:
    files = members(archive)
    edit(files)
    path = write(tmp_path / "net.pt2", files)
    with pytest.raises(CheckpointError, match=problem):
        program_worker.serve({"path": str(path), "name": "net.pt2"}, tmp_path)


def test_a_field_of_a_newer_pytorch_that_says_nothing(archive: Path, tmp_path: Path) -> None:
    files = members(archive)
    with_meta(new_field=None)(files)
    path = write(tmp_path / "net.pt2", files)
    assert program_worker.serve({"path": str(path), "name": "net.pt2"}, tmp_path)["logits"] == 5


def test_a_program_of_a_gpu_is_converted_on_the_cpu(archive: Path, tmp_path: Path) -> None:
    files = {name: content.replace(b'"cpu"', b'"cuda"') for name, content in members(archive).items()}
    path = write(tmp_path / "net.pt2", files)
    assert program_worker.serve({"path": str(path), "name": "net.pt2"}, tmp_path)["logits"] == 5


def test_a_compressed_archive(archive: Path, tmp_path: Path) -> None:
    """A small one could become gigabytes."""
    with zipfile.ZipFile(tmp_path / "net.pt2", "w", zipfile.ZIP_DEFLATED) as copied:
        for name, content in members(archive).items():
            copied.writestr(f"net/{name}", content)
    check_refused(tmp_path / "net.pt2", "is compressed")


def test_a_name_twice(archive: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(write(tmp_path / "net.pt2", members(archive)), "a") as grown,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        grown.writestr(f"net/{GRAPH}", b"{}")
    check_refused(tmp_path / "net.pt2", "one name")


def test_two_folders(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(write(tmp_path / "net.pt2", members(archive)), "a") as grown:
        grown.writestr(f"other/{GRAPH}", b"{}")
    check_refused(tmp_path / "net.pt2", "do not lie in one folder")


def test_a_changed_weight(archive: Path, tmp_path: Path) -> None:
    files = members(archive)
    content = write(tmp_path / "net.pt2", files).read_bytes()
    weight = files["data/weights/weight_0"]
    (tmp_path / "net.pt2").write_bytes(content.replace(weight, bytes([weight[0] ^ 1]) + weight[1:]))
    check_refused(tmp_path / "net.pt2", "Bad CRC-32")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "net.pt2")
    with pytest.raises(CheckpointError, match=r"net\.pt2 cannot be read: it is"):
        load_program(ExportedProgramFile(tmp_path / "net.pt2"), labels=None, preprocessing=None)


def check_refused(path: Path, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        program_worker.serve({"path": str(path), "name": "net.pt2"}, path.parent)


def test_what_an_image_decides_is_refused(tmp_path: Path) -> None:
    """Each image could take another time and memory."""

    class Chosen(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            found = torch.nonzero(image.flatten() >= 0)
            return found.float().mean(dim=0, keepdim=True).expand(1, 5)

    torch.export.save(torch.export.export(Chosen().eval(), (torch.zeros(1, 3, 8, 8),)), tmp_path / "net.pt2")
    (tmp_path / program_worker.IMAGES).write_bytes(bytes(4 * 3 * 8 * 8))
    request = {"path": str(tmp_path / "net.pt2"), "name": "net.pt2", "input_size": [8, 8]}
    with pytest.raises(CheckpointError, match="the content of the image decides"):
        program_worker.serve(request, tmp_path)
