"""The public API: ``vitedge.__all__``, lazy, typed and documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin

import pytest

import vitedge
from vitedge.bundle.targets import TARGETS
from vitedge.converters.integrations.export import WRITERS
from vitedge.errors import VitedgeError
from vitedge.runtime.engines.open import ENGINES

SOURCE = Path(vitedge.__file__).read_text(encoding="utf-8")
NAMED = [name for name in vitedge.__all__ if name != "__version__"]
MODULES = [name for name in NAMED if isinstance(getattr(vitedge, name), ModuleType)]
CLASSES = [name for name in NAMED if inspect.isclass(getattr(vitedge, name))]
FUNCTIONS = [name for name in NAMED if inspect.isfunction(getattr(vitedge, name))]

VERBS = ("bench", "build", "convert", "doctor", "evaluate", "export", "inspect", "load", "models", "sign", "targets")


def imported_for_type_checkers() -> Iterator[str]:
    """The names under ``if TYPE_CHECKING``."""
    block = next(node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        for each in statement.names:
            yield each.asname or each.name


def test_all_is_what_type_checkers_see_and_what_is_imported() -> None:
    assert sorted([*imported_for_type_checkers(), "__version__"]) == sorted(vitedge.__all__)
    assert sorted([*vitedge._WHERE, "__version__"]) == sorted(vitedge.__all__)
    assert sorted(vitedge.__all__) == list(vitedge.__all__) == dir(vitedge)


def test_every_name_is_a_module_a_class_or_a_function() -> None:
    assert sorted([*MODULES, *CLASSES, *FUNCTIONS]) == sorted(NAMED)
    assert set(VERBS) <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_annotated_and_documented(name: str) -> None:
    function = getattr(vitedge, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert inspect.getdoc(function)
    documented = inspect.getdoc(function) or ""
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert f"    {parameter.name}: " in documented, f"{name} does not document {parameter.name}"


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_documented_and_their_methods_are_annotated(name: str) -> None:
    kind = getattr(vitedge, name)
    assert inspect.getdoc(kind)
    for method, function in inspect.getmembers(kind, inspect.isfunction):
        if not function.__module__.startswith("vitedge") or method.startswith("_"):
            continue
        assert inspect.getdoc(function), f"{name}.{method}"
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty, f"{name}.{method}"


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_documented(name: str) -> None:
    assert getattr(vitedge, name).__doc__


@pytest.mark.parametrize("name", MODULES)
def test_modules_show_public_names_alone(name: str) -> None:
    module = getattr(vitedge, name)
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, each) for each in module.__all__)


def test_the_runtime_shows_none_of_its_modules() -> None:
    """All of its public names are in ``vitedge`` itself."""
    runtime = importlib.import_module("vitedge.runtime")
    importlib.import_module("vitedge.runtime.load")
    assert dir(runtime) == runtime.__all__ == []


@pytest.mark.parametrize("name", CLASSES)
def test_classes_show_documented_names_alone(name: str) -> None:
    """Completion in an editor lists them."""
    kind = getattr(vitedge, name)
    shown = [each for each in dir(kind) if not each.startswith("_") and each not in dir(Exception)]
    documented = "".join(inspect.getdoc(each) or "" for each in kind.__mro__)
    missing = [
        each for each in shown if each not in documented and not inspect.getdoc(inspect.getattr_static(kind, each))
    ]
    assert missing == []


def choices(function: Callable[..., object], parameter: str) -> set[str]:
    """Return the strings of the literals that annotate a parameter."""
    annotation = eval(function.__annotations__[parameter], function.__globals__)
    parts = [annotation, *get_args(annotation)]
    return {each for part in parts if get_origin(part) is Literal for each in get_args(part)}


def test_choices_are_literals_that_the_tables_hold() -> None:
    """Editors complete them, and type checkers find a misspelled one."""
    assert choices(vitedge.convert, "target") == {each.name for each in TARGETS if not each.refusal}
    assert choices(vitedge.convert, "precision") == {"auto", *(each for kind in TARGETS for each in kind.precisions)}
    assert choices(vitedge.convert, "activation") == {"softmax", "sigmoid"}
    assert choices(vitedge.export, "tool") == set(WRITERS)
    assert choices(vitedge.Stream.__init__, "policy") == {"latest", "every"}
    for verb in (vitedge.load, vitedge.bench, vitedge.evaluate):
        assert choices(verb, "engine") == set(ENGINES)


def test_all_errors_are_public() -> None:
    def below(kind: type[VitedgeError]) -> set[type[VitedgeError]]:
        return {kind}.union(*(below(each) for each in kind.__subclasses__() if each.__module__ == "vitedge.errors"))

    assert {each.__name__ for each in below(VitedgeError)} <= set(vitedge.__all__)


def test_no_submodule_has_the_name_of_a_public_function_or_class() -> None:
    """``import vitedge.NAME`` would put the module in the place of the function."""
    folder = Path(vitedge.__file__).parent
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert not modules & {*FUNCTIONS, *CLASSES}


def run_python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **options  # type: ignore[call-overload]
    )  # fmt: skip


def test_a_star_import_gives_all_and_nothing_heavy() -> None:
    engines = ("onnx", "onnx_ir", "onnxruntime", "openvino")
    heavy = (*engines, "av", "cv2", "PIL", "torch", "timm", "transformers", "distributed")
    code = f"""
import sys
before = set(globals())
from vitedge import *
given = set(globals()) - before - {{"before"}}
import vitedge
assert given == set(vitedge.__all__), given ^ set(vitedge.__all__)
print([name for name in {heavy!r} if name in sys.modules])
"""
    result = run_python(code)
    assert result.stdout == "[]\n", result.stdout + result.stderr


def test_importing_vitedge_imports_no_room() -> None:
    code = "import sys, vitedge; print(sorted(each for each in sys.modules if each.startswith('vitedge.')))"
    rooms = [name for name in ast.literal_eval(run_python(code).stdout) if name.count(".") == 1]
    assert rooms == ["vitedge._hints", "vitedge.safety", "vitedge.version"]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("clasifier", "Classifier"),
        ("Clasifier", "Classifier"),
        ("CONVERT", "convert"),
        ("evaluat", "evaluate"),
        ("EngineErorr", "EngineError"),
        ("open_sources", "open_source"),
    ],
)
def test_a_misspelled_name_is_told_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; did you mean {nearest}\\?"):
        getattr(vitedge, name)
    with pytest.raises(ModuleNotFoundError, match=f"No module named 'vitedge.{name}'; did you mean {nearest}\\?"):
        importlib.import_module(f"vitedge.{name}")
    result = run_python(f"from vitedge import {name}")
    assert f"did you mean {nearest}?" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["nosuch", "x" * 100_000])
def test_a_name_that_is_near_nothing_is_told_all(name: str) -> None:
    with pytest.raises(AttributeError, match=r"vitedge has BenchReport, .*, testing"):
        getattr(vitedge, name)
    with pytest.raises(ModuleNotFoundError, match=r"vitedge has BenchReport, .*, testing"):
        importlib.import_module(f"vitedge.{name}")


def test_modules_below_vitedge_are_missed_as_usual() -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("vitedge.safety.nosuch")
    assert str(caught.value) == "No module named 'vitedge.safety.nosuch'"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The package as it lies in a checkout that nobody installed: without the rooms beside it."""
    folder = tmp_path / "it's a checkout"
    folder.mkdir()
    (folder / "vitedge").symlink_to(Path(vitedge.__file__).resolve().parent, target_is_directory=True)
    return folder


@pytest.mark.parametrize("arguments", [["-c", "import vitedge"], ["-m", "vitedge", "targets"]])
def test_a_checkout_that_is_not_installed_says_what_to_do(
    checkout: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    result = subprocess.run(
        [sys.executable, "-S", *arguments], cwd=checkout, capture_output=True, text=True, check=False
    )  # -S: without site-packages, and the editable install in it
    assert result.returncode != 0
    assert "which is not installed" in result.stderr
    assert f"{sys.executable} -m pip install -e " in result.stderr
    assert "numpy" not in result.stderr
