"""What imports what: numpy alone suffices for the vocabulary, the runtime and the command line's help."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vitedge.errors import MissingExtraError
from vitedge.extras import require

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("vitedge", "calib", "converters", "runtime")
DISTRIBUTIONS = {"cv2": "opencv-python", "PIL": "pillow", "sklearn": "scikit-learn", "onnx_ir": "onnxscript"}
OPTIONAL = (
    "torch", "torchvision", "timm", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "nncf", "openvino", "cv2", "PIL",
    "safetensors", "sklearn", "scipy", "transformers", "huggingface_hub", "tqdm", "distributed", "cuda", "cryptography",
    "tensorrt", "tensorrt_rtx", "av", "threadpoolctl",
)  # fmt: skip

BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run_python(code: str, *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd)


def modules_of(room: str) -> list[str]:
    prefix = room if room == "vitedge" else f"vitedge.{room}"
    names = []
    for path in sorted((ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT / room).with_suffix("").parts
        names.append(".".join([prefix, *(part for part in parts if part != "__init__")]))
    return names


def vocabulary() -> list[str]:
    outer = ("vitedge.cli", "vitedge.demo", "vitedge.graph", "vitedge.verbs", "vitedge.__main__")
    return [name for name in modules_of("vitedge") if not name.startswith(outer)]


@pytest.mark.parametrize("room", ["vocabulary", "runtime", "cli"])
def test_every_module_imports_with_numpy_alone(room: str) -> None:
    names = {
        "vocabulary": vocabulary(),
        "runtime": modules_of("runtime"),
        "cli": [name for name in modules_of("vitedge") if name.startswith("vitedge.cli")],
    }[room]
    assert len(names) > 5
    result = run_python(f"{BLOCKER}\nimport importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n")
    assert result.returncode == 0, result.stderr


def test_nothing_optional_is_imported_where_it_is_there() -> None:
    names = [*vocabulary(), *modules_of("runtime")]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n    importlib.import_module(name)\n"
        f"print(sorted({set(OPTIONAL)!r} & sys.modules.keys()))\n"
    )
    result = run_python(code)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_loading_imports_no_reader_of_streams() -> None:
    code = """
import sys, vitedge.runtime.load
print(sorted(each for each in sys.modules if each.startswith(("vitedge.runtime.stream", "socket", "asyncio"))))
"""
    result = run_python(code)
    assert result.stdout == "[]\n", result.stdout + result.stderr


def test_the_blocker_blocks() -> None:
    result = run_python(f"{BLOCKER}\nimport openvino")
    assert "No module named 'openvino'" in result.stderr


@pytest.mark.parametrize("room", ["calib", "converters", "runtime"])
def test_rooms_refuse_their_bare_names(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)  # with it the root is not on the path
    result = run_python(f"import {room}", cwd=ROOT)
    assert result.returncode != 0
    assert f"import vitedge.{room}" in result.stderr


@dataclass(frozen=True)
class Requirement:
    """A ``require(module, extra=…)`` in the source."""

    place: str
    module: str
    extra: str


def requirements_in_source() -> Iterator[Requirement]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
                    yield from _requirement(node, f"{path.relative_to(ROOT)}:{node.lineno}")


def _requirement(node: ast.Call, place: str) -> Iterator[Requirement]:
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    module, extra = node.args[0], named["extra"]
    if isinstance(module, ast.Constant) and isinstance(extra, ast.Constant):
        yield Requirement(place=place, module=str(module.value), extra=str(extra.value))


def brought_by(extra: str, extras: dict[str, list[str]]) -> set[str]:
    """Distributions that an extra installs, those of the extras that it includes among them."""
    brought = set()
    for requirement in extras[extra]:
        name, included = re.match(r"([\w-]+)(?:\[([\w,]+)\])?", requirement).groups()  # type: ignore[union-attr]
        if name == "vitedge":
            brought.update(*(brought_by(each, extras) for each in included.split(",")))
        else:
            brought.add(name)
    return brought


def test_every_requirement_names_an_extra_that_brings_it(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    found = list(requirements_in_source())
    assert len(found) > 10
    for requirement in found:
        top = requirement.module.partition(".")[0]
        assert requirement.extra in extras, requirement
        assert DISTRIBUTIONS.get(top, top) in brought_by(requirement.extra, extras), requirement


@pytest.mark.parametrize(
    "extra",
    [
        "openvino",
        "onnxruntime",
        "camera",
        "window",
        "convert",
        "transformers",
        "demo",
        "cluster",
        "jetson",
        "rtx",
        "signing",
    ],
)
def test_a_missing_package_names_the_command_that_installs_it(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError) as caught:
        require("somepackage", extra=extra, purpose="this test")
    assert str(caught.value) == (
        f'this test needs somepackage, which is not installed\n  fix: pip install "vitedge[{extra}]"'
    )
