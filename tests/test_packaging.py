"""What is installed is what is in the tree, and the tools that guard the tree see all of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from vitedge.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("vitedge", "calib", "converters", "runtime")
BESIDE = (".ci", "benchmarks", "docs", "examples", "tests")
"""Folders that are in the sdist, and not in the wheel."""
NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")


def installed_name(path: Path) -> str:
    """Where a file of the tree lies in the installed package."""
    relative = path.relative_to(ROOT)
    return (relative if relative.parts[0] == "vitedge" else Path("vitedge") / relative).as_posix()


def source_files() -> set[str]:
    """Every file of the rooms, by its installed name."""
    return {
        installed_name(path)
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def copy_tree(destination: Path) -> Path:
    """The tree that packages are built from; building in place would leave its outputs there."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, destination / room, ignore=NOT_SOURCE)
    for folder in BESIDE:
        shutil.copytree(ROOT / folder, destination / folder, ignore=NOT_SOURCE)
    for path in ROOT.iterdir():
        if path.is_file() and path.name not in (".git", ".coverage"):
            shutil.copy(path, destination / path.name)
    return destination


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist."""
    tree = copy_tree(tmp_path_factory.mktemp("tree"))
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."],
        cwd=tree,
        check=True,
        capture_output=True,
    )
    return tree / "dist"


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


def test_packages_are_the_folders_with_an_init(pyproject: dict[str, Any]) -> None:
    folders = {
        installed_name(path.parent).replace("/", ".") for room in ROOMS for path in (ROOT / room).rglob("__init__.py")
    }
    packages = pyproject["tool"]["setuptools"]["packages"]
    assert sorted(packages) == sorted(folders)
    assert len(packages) == len(set(packages))


def test_no_module_lies_in_a_folder_without_an_init() -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


def git_files(*options: str) -> set[Path]:
    """What git lists of the folders with code and tests."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    command = ["git", "ls-files", "-z", *options, "--", *ROOMS, "tests", "benchmarks", "examples"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {ROOT / name for name in listed.split("\0") if name}


def test_git_has_every_package() -> None:
    """A folder that a pattern in .gitignore names by chance is missing from every clone."""
    tracked = git_files()
    assert {path for room in ROOMS for path in (ROOT / room).rglob("__init__.py")} - tracked == set()


def test_git_ignores_no_source() -> None:
    ignored = git_files("--others", "--ignored", "--exclude-standard")
    assert {path for path in ignored if "__pycache__" not in path.parts} == set()


def test_pytest_enters_every_folder_of_tests(pytestconfig: pytest.Config) -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    names = {part for folder in folders for part in folder.relative_to(ROOT).parts}
    patterns = pytestconfig.getini("norecursedirs")
    assert {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)} == set()


def test_one_version(pyproject: dict[str, Any]) -> None:
    assert pyproject["project"]["version"] == VERSION
    assert f"## {VERSION}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_numpy_is_the_only_requirement(pyproject: dict[str, Any]) -> None:
    (only,) = pyproject["project"]["dependencies"]
    assert only.startswith("numpy")


def test_the_wheel_has_every_file_and_no_other(wheel: Path) -> None:
    assert wheel.name == f"vitedge-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == source_files()


def test_the_sdist_is_the_repository(distributions: Path) -> None:
    """Its documentation, examples, benchmarks and tests are there, and everything that ``make`` reads."""
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    beside = {
        found.relative_to(ROOT).as_posix()
        for folder in BESIDE
        for found in (ROOT / folder).rglob("*")
        if found.is_file() and "__pycache__" not in found.parts
    }
    rooms = {
        found.relative_to(ROOT).as_posix()
        for room in ROOMS
        for found in (ROOT / room).rglob("*")
        if found.is_file() and "__pycache__" not in found.parts
    }
    roots = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "Makefile", "mkdocs.yml"}
    assert beside | rooms | roots | {"pyproject.toml", "MANIFEST.in", ".pre-commit-config.yaml"} <= names
    assert not {name for name in names if "__pycache__" in name}


def test_the_wheel_carries_the_licence_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = f"vitedge-{VERSION}.dist-info"
        assert "Apache License" in archive.read(f"{metadata}/licenses/LICENSE").decode()
        assert "vitedge = vitedge.cli:program" in archive.read(f"{metadata}/entry_points.txt").decode()
        assert "Requires-Python: >=3.10" in archive.read(f"{metadata}/METADATA").decode()


def test_pip_tells_an_older_python_what_is_wanted(wheel: Path, tmp_path: Path) -> None:
    """As docs/install.md prints it."""
    command = ["download", "--no-index", "--no-deps", "--only-binary", ":all:", "--python-version", "3.9.18"]
    refused = subprocess.run(
        [sys.executable, "-m", "pip", *command, "--dest", str(tmp_path), str(wheel)], capture_output=True, text=True
    )
    assert refused.returncode == 1
    told = "requires a different Python: 3.9.18 not in '>=3.10'"
    assert f"ERROR: Package 'vitedge' {told}" in refused.stderr
    assert f"`{told}`" in (ROOT / "docs" / "install.md").read_text("utf-8")


def test_the_wheel_runs_without_the_tree(wheel: Path, tmp_path: Path) -> None:
    """In a Python that has numpy and the wheel, and nothing else."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    import numpy as np

    packages = Path(np.__file__).parent.parent
    for folder in packages.glob("numpy*"):
        (site / folder.name).symlink_to(folder)
    code = (
        "import sys, vitedge, vitedge.runtime, vitedge.runtime.classifier, vitedge.calib, vitedge.converters\n"
        f"assert vitedge.__file__.startswith({str(site)!r}), vitedge.__file__\n"
        "from vitedge.cli import main\n"
        "sys.exit(main(['targets']))\n"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],  # -S leaves site-packages out, and with them the editable install
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "\ncpu " in result.stdout


USER_SCRIPT = """
from __future__ import annotations

from pathlib import Path

import numpy as np

import vitedge
from vitedge import *


class Steps:
    def step(self, text: str) -> None:
        print(text)


def convert_and_measure(photos: Path) -> float:
    bundle = vitedge.convert("timm:deit_tiny_patch16_224", target="cpu", precision="int8", calib=photos)
    reveal_type(bundle)
    reveal_type(vitedge.evaluate(bundle, photos, against="fp32.bundle").to_json())
    reveal_type(vitedge.inspect(bundle).graph)
    reveal_type(vitedge.export(bundle, tool="triton").path)
    reveal_type(vitedge.models("swin")[0].speedups)
    reveal_type(vitedge.targets()[0].precisions)
    reveal_type(vitedge.doctor().recommendation)
    reveal_type(vitedge.bench(bundle.path).ratio)
    reveal_type(vitedge.build(bundle))
    reveal_type(vitedge.sign(bundle, key=b"").id)
    return 0.0


def watch(bundle: Bundle, callback: vitedge.outputs.Callback) -> None:
    try:
        with vitedge.load(bundle, threads=2) as classifier, classifier.stream("rtsp://camera/1") as stream:
            for prediction in stream:
                reveal_type(prediction.label)
                callback.write(prediction)
    except EngineError as error:
        reveal_type(error.fix)
    reveal_type(vitedge.open_source("clip.mp4"))
    reveal_type(vitedge.testing.FakeEngine(lambda _: np.zeros(3), input_size=(8, 8)).calls)


def mistakes(steps: Steps) -> None:
    vitedge.clasifier
    vitedge.convert("deit_tiny_patch16_224", target="cpv", precision="int8")
    vitedge.convert("deit_tiny_patch16_224", target="cpu", precision="int8", progress=steps)
"""
REVEALED = (
    "vitedge.bundle.bundle.Bundle",
    "dict[str, Any]",
    "GraphSummary",
    "pathlib.Path",
    "Mapping[str, float]",
    "tuple[",
    "Recommendation",
    "Ratio",
    "BuildRecord",
    "str",
    "str",
    "str",
    "FrameSource",
    "list[",
)
MISTAKES = (
    'Module has no attribute "clasifier"',
    """Argument "target" to "convert" has incompatible type "Literal['cpv']"; expected "Literal['cpu', """,
    'Argument "progress" to "convert" has incompatible type "Steps"; expected "Progress"',
)


def test_mypy_checks_a_users_script_against_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    venv.create(python.parent.parent, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    import numpy as np

    (site / "numpy").symlink_to(Path(np.__file__).parent)
    (tmp_path / "script.py").write_text(USER_SCRIPT, encoding="utf-8")
    checked = run_in(tmp_path, "mypy", "--strict", "--python-executable", str(python), "script.py").stdout
    revealed = re.findall(r'Revealed type is "(.*)"', checked)
    assert len(revealed) == len(REVEALED), checked
    for found, expected in zip(revealed, REVEALED, strict=True):
        assert expected in found, checked
    errors = re.findall(r"error: (.*)", checked)
    assert len(errors) == len(MISTAKES), checked
    for error, expected in zip(errors, MISTAKES, strict=True):
        assert error.startswith(expected), checked


def test_type_checkers_find_an_editable_install_in_strict_mode(tmp_path: Path) -> None:
    """As CONTRIBUTING.md has it: they read no finder, and pip installs one by default."""
    tree = tmp_path / "tree"
    tree.mkdir()
    copy_tree(tree)
    build = (
        f"import setuptools.build_meta as b; print(b.build_editable({str(tmp_path)!r}, {{'editable_mode': 'strict'}}))"
    )
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
    python = tmp_path / "venv" / "bin" / "python"
    venv.create(python.parent.parent, with_pip=False)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(site)
    rooms = "import vitedge.bundle.bundle, vitedge.calib, vitedge.converters.convert, vitedge.runtime.classifier"
    (tmp_path / "script.py").write_text(rooms, encoding="utf-8")
    checked = run_in(tmp_path, "mypy", "--follow-imports=skip", "--python-executable", str(python), "script.py")
    assert checked.returncode == 0, checked.stdout
    (tmp_path / "script.py").write_text("import vitedge.nosuch", encoding="utf-8")
    checked = run_in(tmp_path, "mypy", "--follow-imports=skip", "--python-executable", str(python), "script.py")
    assert "import-not-found" in checked.stdout


def test_a_shadowing_wheel_is_refused(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    result = subprocess.run(
        [str(Path(sys.executable).with_name("pytest")), "--collect-only", "-q", "tests/test_errors.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "a wheel shadows this tree" in result.stderr + result.stdout


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with its link tree, as ``make links`` makes it."""
    tree = copy_tree(tmp_path_factory.mktemp("linked"))
    shutil.copy(ROOT / "Makefile", tree / "Makefile")
    make_links(tree)
    return tree


@pytest.fixture
def plant(linked: Path) -> Iterator[Callable[[str, str], None]]:
    """``plant(path, text)`` adds a file to the copy for the length of a test."""
    planted: list[Path] = []

    def add(path: str, text: str) -> None:
        planted.append(linked / path)
        planted[-1].write_text(text, encoding="utf-8")
        make_links(linked)

    yield add
    for path in planted:
        path.unlink()
    make_links(linked)


def make_links(tree: Path) -> None:
    subprocess.run(["make", "--silent", "links"], cwd=tree, check=True)


def test_mypy_sees_an_error_in_every_folder(linked: Path, plant: Callable[[str, str], None]) -> None:
    folders = sorted(
        {path.parent.relative_to(linked) for room in ROOMS for path in (linked / room).rglob("__init__.py")}
    )
    for folder in folders:
        plant(f"{folder}/planted_error.py", 'value: int = "no number"\n')
    if (ROOT / ".mypy_cache").is_dir():  # what make types has checked needs no second look
        shutil.copytree(ROOT / ".mypy_cache", linked / ".mypy_cache")
    result = run_in(linked, "mypy")
    for folder in folders:
        seen = folder if folder.parts[0] == "vitedge" else Path("vitedge") / folder
        assert f"build/types/{seen}/planted_error.py:1: error: Incompatible types in assignment" in result.stdout


def run_in(folder: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment."""
    return subprocess.run(
        [str(Path(sys.executable).with_name(command)), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("runtime", "import vitedge.calib"),
        ("runtime", "import vitedge.demo"),
        ("runtime", "import torch"),
        ("calib", "import vitedge.converters"),
        ("converters", "import vitedge.cli"),
    ],
)
def test_import_linter_sees_a_wrong_direction(
    importer: str, line: str, linked: Path, plant: Callable[[str, str], None]
) -> None:
    plant(f"{importer}/planted_import.py", f"{line}\n")
    result = lint_imports(linked)
    assert result.returncode != 0
    assert f"vitedge.{importer}.planted_import -> {line.split()[1]}" in result.stdout


def test_import_linter_wants_every_new_module_placed(linked: Path, plant: Callable[[str, str], None]) -> None:
    plant("vitedge/planted_noun.py", "")
    result = lint_imports(linked)
    assert result.returncode != 0
    assert "vitedge.planted_noun" in result.stdout


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    return run_in(tree / "build" / "types", "lint-imports", "--no-cache", "--config", "../../pyproject.toml")


SKIPPING = """
import pytest

def test_skips():
    pytest.skip("nothing to test with")

@pytest.mark.gpu
def test_skips_without_gpu():
    pytest.skip("no GPU")

@pytest.mark.xfail(reason="known", strict=True)
def test_fails_as_known():
    assert False
"""


@pytest.mark.parametrize(("required", "failed"), [("0", 0), ("1", 1)])
def test_a_skip_fails_where_every_test_is_required(required: str, failed: int, tmp_path: Path) -> None:
    result = run_beside_conftest(tmp_path, SKIPPING, required)
    summary = result.stdout.splitlines()[-1]
    assert ("1 failed" in summary) == bool(failed), result.stdout
    assert f"{2 - failed} skipped" in summary
    assert "1 xfailed" in summary
    assert ("VITEDGE_REQUIRE_ALL=1 and this was skipped: " in result.stdout) == bool(failed)
    assert result.returncode == failed


def test_a_skip_for_what_the_processor_lacks_does_not_fail(tmp_path: Path) -> None:
    module = 'import pytest\n\ndef test_skips():\n    pytest.skip("this CPU has no AMX")\n'
    result = run_beside_conftest(tmp_path, module, "1")
    assert "1 skipped" in result.stdout.splitlines()[-1], result.stdout
    assert result.returncode == 0


def test_a_module_that_skips_itself_fails_too(tmp_path: Path) -> None:
    module = 'import pytest\npytest.importorskip("no_such_package")\n\ndef test_never():\n    pass\n'
    assert run_beside_conftest(tmp_path, module, "0").returncode == 5  # nothing was collected
    result = run_beside_conftest(tmp_path, module, "1")
    assert result.returncode not in (0, 5)
    assert "no_such_package" in result.stdout


@pytest.mark.parametrize(("processor", "failed"), [("x86_64", 1), ("aarch64", 0)])
def test_what_is_published_for_x86_64_alone_may_skip_elsewhere(processor: str, failed: int, tmp_path: Path) -> None:
    module = f"""
import platform
import pytest

platform.machine = lambda: {processor!r}

def test_bindings():
    pytest.skip("no bindings in build/references/tensorrt: make references")

def test_passes():
    pass
"""
    result = run_beside_conftest(tmp_path, module, "1")
    assert result.returncode == failed, result.stdout


def run_beside_conftest(folder: Path, module: str, required: str) -> subprocess.CompletedProcess[str]:
    """Run a test module under this suite's own conftest, as if it lay in ``tests/``."""
    tests = folder / "tests"
    shutil.rmtree(tests, ignore_errors=True)
    tests.mkdir()
    conftest = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    original = "ROOT = Path(__file__).resolve().parent.parent\n"
    assert original in conftest
    (tests / "conftest.py").write_text(conftest.replace(original, f"ROOT = Path({str(ROOT)!r})\n"), encoding="utf-8")
    (tests / "test_planted.py").write_text(module, encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", folder / "pyproject.toml")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        cwd=folder,
        env={**os.environ, "VITEDGE_REQUIRE_ALL": required},
        capture_output=True,
        text=True,
        check=False,
    )


def test_pre_commit_configuration_is_valid() -> None:
    result = run_in(ROOT, "pre-commit", "validate-config", ".pre-commit-config.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_tests_on_arm64_exist() -> None:
    script = (ROOT / ".ci" / "arm64").read_text(encoding="utf-8")
    named = re.search(r"^tests=\((.*?)\)", script, re.MULTILINE | re.DOTALL)
    assert named
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {named[1]}".replace("\n", " ")], capture_output=True, text=True, check=True
    )
    paths = [re.sub(r"^--(deselect|ignore)=|::.*", "", word) for word in words.stdout.split()]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
