"""No file of the current folder is run: neither beside a bundle nor in it, by no verb and by no child of one.

The console script runs every verb. ``python -m vitedge`` differs in how Python starts, so that the default suite gives
it the verbs that start children, and ``long`` all of them.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("timm")

import verbs

from vitedge.cli import VERBS
from vitedge.errors import EngineError, VitedgeError
from vitedge.progress import Silent
from vitedge.runtime.bench.cold_start import cold_start
from vitedge.runtime.engines.tensorrt.build.worker import BuildRequest, build_apart
from vitedge.runtime.outputs import window
from vitedge.safety import child

STARTED_BY_PYTHON = "sitecustomize", "usercustomize"
OPTIONAL = "tensorrt", "tensorrt_rtx", "tensorrt_bindings", "cuda", "nvidia", "matplotlib", "model_api"
# Python reads these itself before `python -m` finds a module, vitedge among them: nothing that is found can forbid it.
PYTHONS_OWN = {*sys.stdlib_module_names, "vitedge"} - {"json", "hashlib", "subprocess", "ctypes", "urllib", "email"}

START_CHILDREN = ("bench", "run")
ON_BUNDLES = ("build", "eval", "run", "bench", "inspect", "sign", "export")
SECONDS = 200
pytestmark = pytest.mark.slow


def names() -> set[str]:
    """Whatever a program could import by name."""
    installed = {name for name in importlib.metadata.packages_distributions() if name.isidentifier()}
    return installed | {*sys.stdlib_module_names, *STARTED_BY_PYTHON, *OPTIONAL, "vitedge"}


def plant(folder: Path, ran: Path, *, but: set[str] | frozenset[str] = frozenset()) -> None:
    """Write modules, packages and a library into a folder, each of which leaves a file in ``ran`` when it runs."""
    for name in names() - but:
        path = folder / name / "__init__.py" if name in OPTIONAL else folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(ran / name)!r}, 'w').close()\nraise ImportError({name!r})\n", encoding="utf-8")
    compiler = shutil.which("cc")
    if compiler:
        source = folder / "planted.c"
        text = f'__attribute__((constructor)) static void run(void) {{ fclose(fopen("{ran}/libcuda", "w")); }}'
        source.write_text(f"#include <stdio.h>\n{text}\n", encoding="utf-8")
        options = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
        subprocess.run([compiler, *options, "-o", folder / "libcuda.so.1", source], check=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> verbs.Inputs:
    for package in ("onnx", "onnxruntime", "openvino", "PIL", "av"):
        pytest.importorskip(package)
    return verbs.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    folder = tmp_path / "ran"
    folder.mkdir()
    return folder


@pytest.fixture
def stranger(tmp_path: Path, ran: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder full of planted modules, which is the current one."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    plant(folder, ran)
    monkeypatch.chdir(folder)
    return folder


Ended = dict[str, subprocess.CompletedProcess[str]]


def run_all(program: Sequence[str], arguments: dict[str, list[str]], folder: Path) -> Ended:
    """Run each verb in a folder."""

    def run(words: list[str]) -> subprocess.CompletedProcess[str]:
        command = [*program, *words]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    environment = child.environment()  # OpenCV, in this process, has put the current folder into LD_LIBRARY_PATH
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ended = pool.map(run, [[verb, *words] for verb, words in arguments.items()])
        return dict(zip(arguments, ended, strict=True))


def files(ran: Path) -> list[str]:
    return sorted(path.name for path in ran.iterdir())


def test_every_verb_is_tried(inputs: verbs.Inputs) -> None:
    assert set(verbs.arguments(inputs)) == set(VERBS)


def test_what_is_planted_runs_where_it_is_imported(stranger: Path, ran: Path) -> None:
    code = "for name in ('numpy', 'tensorrt', 'vitedge'):\n    try: __import__(name)\n    except ImportError: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {"numpy", "tensorrt", "vitedge"} <= set(files(ran))


def test_a_planted_library_runs_where_it_is_loaded(stranger: Path, ran: Path) -> None:
    if not (stranger / "libcuda.so.1").exists():
        pytest.skip("no C compiler makes a library: apt-get install gcc")
    ctypes.CDLL(str(stranger / "libcuda.so.1"))
    assert files(ran) == ["libcuda"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("program", "tried"),
    [
        pytest.param(verbs.CONSOLE, VERBS, id="vitedge"),
        pytest.param(verbs.MODULE, START_CHILDREN, id="python -m vitedge"),
        pytest.param(verbs.MODULE, VERBS, id="python -m vitedge, every verb", marks=pytest.mark.long),
    ],
)
def test_beside_a_bundle(
    program: Sequence[str], tried: Collection[str], inputs: verbs.Inputs, tmp_path: Path, ran: Path
) -> None:
    folder = tmp_path / "stranger"
    folder.mkdir()
    plant(folder, ran, but=PYTHONS_OWN if program == verbs.MODULE else frozenset())
    arguments = {verb: words for verb, words in verbs.arguments(inputs).items() if verb in tried}
    assert set(arguments) == set(tried)
    ended = run_all(program, arguments, folder)
    assert files(ran) == []
    allowed = {"build": (0, 1)}  # it fails without TensorRT
    failed = {verb: done.stderr for verb, done in ended.items() if done.returncode not in allowed.get(verb, (0,))}
    assert failed == {}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "program"),
    [
        pytest.param("bundle", verbs.CONSOLE, id="bundle, vitedge"),
        pytest.param("jetson", verbs.MODULE, id="jetson, python -m vitedge"),
        pytest.param("jetson", verbs.CONSOLE, id="jetson, vitedge", marks=pytest.mark.long),
        pytest.param("bundle", verbs.MODULE, id="bundle, python -m vitedge", marks=pytest.mark.long),
    ],
)
def test_in_a_bundle(program: Sequence[str], kind: str, inputs: verbs.Inputs, tmp_path: Path, ran: Path) -> None:
    folder = shutil.copytree(getattr(inputs, kind), tmp_path / "stranger.bundle")
    plant(folder, ran, but=PYTHONS_OWN if program == verbs.MODULE else frozenset())
    arguments = verbs.arguments(inputs)
    run_all(program, {verb: [".", *arguments[verb][1:]] for verb in ON_BUNDLES}, folder)
    assert files(ran) == []


def test_a_cold_start(stranger: Path, ran: Path, inputs: verbs.Inputs) -> None:
    assert cold_start(inputs.bundle, (32, 32)) is not None
    assert files(ran) == []


def test_a_build_of_its_own(stranger: Path, ran: Path, inputs: verbs.Inputs, tmp_path: Path) -> None:
    request = BuildRequest(
        "tensorrt", str(inputs.jetson / "model.onnx"), str(tmp_path / "x"), str(tmp_path / "y"), 1 << 26
    )
    with pytest.raises(EngineError):
        build_apart(request, Silent())
    assert files(ran) == []


def test_the_trial_of_a_window(stranger: Path, ran: Path) -> None:
    with pytest.raises(VitedgeError, match="cannot open a window"):
        window.check_window(type("Build", (), {"getBuildInformation": lambda: "GUI: QT5"}))
    assert files(ran) == []
