"""What vitedge uses of TensorRT is in the real bindings of every version that it claims.

NVIDIA's wheels of bindings import without TensorRT over libraries that define no more than the symbols they ask for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tensorrt_uses import Uses, problems, uses_in

Description = dict[str, Any]
Find = Callable[[dict[str, str]], Uses]

ROOT = Path(__file__).resolve().parents[4]
ROOMS = ("vitedge", "runtime", "calib", "converters")
WHEELS = ("tensorrt-cu12-bindings==10.3.0", "tensorrt-cu12-bindings==10.13.3.9", "tensorrt-cu13-bindings==11.4.0.106")
RTX = "tensorrt_rtx"

LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)

BUILDS_AND_RUNS = """
from typing import Any

def build(module: Any, onnx: bytes) -> Any:
    builder = module.Builder(module.Logger(module.Logger.WARNING))
    network = builder.create_network(0)
    parser = module.OnnxParser(network, builder.logger)
    if not parser.parse(onnx):
        raise ValueError(parser.get_error(0).desc())
    config = builder.create_builder_config()
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, 1 << 30)
    return builder.build_serialized_network(network, config)
"""


def sources() -> dict[str, str]:
    """Our code that may get hold of TensorRT's module: that which runs it, and whatever imports from there."""
    files = {file: file.read_text(encoding="utf-8") for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    return {
        str(file.relative_to(ROOT)): text
        for file, text in files.items()
        if file.is_relative_to(ROOT / "runtime" / "engines" / "tensorrt") or "vitedge.runtime.engines.tensorrt" in text
    }


def describe(module: str, **environment: str) -> Description:
    """What ``tests/support/tensorrt_api.py`` prints of a module, in a process of its own."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "tensorrt_api.py"), module],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found: Description = json.loads(result.stdout)
    return found


def describe_wheel(name: str, folder: Path) -> Description | str:
    """The same of a wheel of bindings; why not, where that cannot be."""
    wheel, compiler = ROOT / "build" / "references" / name, shutil.which("cc")
    if not wheel.is_dir():
        return f"no bindings in {wheel}: make references"
    if compiler is None:
        return "no C compiler makes the stand-in libraries: apt-get install gcc"
    make_stand_ins(folder, compiler, major=name.partition("==")[2].partition(".")[0])
    path = os.pathsep.join(filter(None, [str(wheel), os.environ.get("PYTHONPATH")]))
    return describe("tensorrt_bindings", LD_LIBRARY_PATH=str(folder), PYTHONPATH=path)


def make_stand_ins(folder: Path, compiler: str, major: str) -> None:
    """Empty libraries with the names and symbols that the bindings ask for."""
    (folder / "empty.c").write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for name in LIBRARIES:
        library = f"lib{name}.so.{major}"
        command = [compiler, "-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{library}", "-o", library, "empty.c"]
        subprocess.run(command, cwd=folder, check=True)


@pytest.fixture(scope="module")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Description | str]:
    """What each version offers, or why that is not known."""
    found = {name: describe_wheel(name, tmp_path_factory.mktemp("stand-ins")) for name in WHEELS}
    installed = importlib.util.find_spec(RTX) is not None
    found[RTX] = describe(RTX) if installed else 'TensorRT for RTX is not installed: pip install -e ".[dev]"'
    return found


@pytest.fixture(params=[*WHEELS, RTX])
def description(request: pytest.FixtureRequest, bindings: dict[str, Description | str]) -> Description:
    """What one version offers."""
    found = bindings[request.param]
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="module")
def find(bindings: dict[str, Description | str]) -> Find:
    """``uses_in``, with the names and the classes of all versions."""
    known = [each for each in bindings.values() if not isinstance(each, str)]
    if not known:
        pytest.skip("; ".join(str(each) for each in bindings.values()))
    members = frozenset(name for each in known for names in each["names"].values() for name in names)
    return partial(
        uses_in, members=members, returns={key: name for each in known for key, name in each["returns"].items()}
    )


def test_every_use_is_in_it(description: Description, find: Find) -> None:
    assert problems(find(sources()).uses, description) == []


def test_no_use_escapes(find: Find) -> None:
    assert find(sources()).unknown == ()


def test_what_an_engine_cannot_do_without_is_among_the_uses(find: Find) -> None:
    found = {f"{use.owner}.{use.name}" for use in find(sources()).uses}
    assert {"OnnxParser.parse", "Builder.build_serialized_network", "IExecutionContext.execute_async_v3"} <= found


def test_its_row_of_the_table_makes_networks_strongly_typed(description: Description) -> None:
    """Where the flag is needed, it is the bit that this version gives it; where there is none, it is not passed."""
    api = description["api"]
    assert (api["network_flags"] == 0) == (
        "EXPLICIT_BATCH" not in description["names"]["NetworkDefinitionCreationFlag"]
    )
    assert api["network_flags"] in (0, 2)
    assert bool(api["capture_flag"]) == ("is_stream_capturable" in description["names"]["IExecutionContext"])


def planted(statement: str) -> dict[str, str]:
    return {"planted.py": BUILDS_AND_RUNS.replace("    return builder", f"    {statement}\n    return builder")}


class TestTheCheckItself:
    def test_what_is_right_passes(self, description: Description, find: Find) -> None:
        found = find({"right.py": BUILDS_AND_RUNS})
        assert len(found.uses) > 10
        assert (problems(found.uses, description), found.unknown) == ([], ())

    @pytest.mark.parametrize(
        "statement",
        [
            "config.int8_calibrator = None",
            "config.set_flag(module.BuilderFlag.FP16)",
            "builder.platform_has_fast_fp16",
            "getattr(builder, 'platform_has_fast_int8')",
            "module.IInt8EntropyCalibrator2",
        ],
    )
    def test_a_planted_removed_name_fails_where_it_was_removed(
        self, description: Description, find: Find, statement: str
    ) -> None:
        found = problems(find(planted(statement)).uses, description)
        removed = description["api"]["version"][0] != 10  # 11 of TensorRT, and 1 of TensorRT for RTX
        assert [problem.partition(": it has no such")[2] != "" for problem in found] == [True] * removed

    @pytest.mark.parametrize(
        ("statement", "problem"),
        [
            ("config.max_workspace_size = 1", "no such member"),
            ("builder.create_network(0, 1)", "none of its signatures"),
            ("builder.create_network(flag=0)", "none of its signatures"),
            ("config.set_memory_pool_limit(0)", "none of its signatures"),
            ("config.num_optimization_profiles = 2", "cannot be assigned"),
            ("config.builder_optimization_level(3)", "cannot be called"),
            ("class Quiet(module.ILogger):\n        def log(self, message): ...", "has not 1 parameters"),
            ("class Quiet(module.ILogger):\n        def name(self): ...", "no such member"),
            ("parser.get_error(0).reason()", "no such member"),
            ("for each in [parser.get_error(0)]:\n        each.desc(1)", "none of its signatures"),
            ("module.ILogger.Severity.QUIET", "no such member"),
        ],
    )
    def test_a_planted_mistake_fails_everywhere(
        self, description: Description, find: Find, statement: str, problem: str
    ) -> None:
        (found,) = problems(find(planted(statement)).uses, description)
        assert problem in found
        assert found.startswith("planted.py:13" if "\n" in statement else "planted.py:12")

    @pytest.mark.parametrize(
        "statement",
        [
            "engine.profile.num_layers",
            "for each in {1: build(module, onnx)}.values():\n        each.name",
            "built = build(module, onnx); built.num_layers",
            "for each in build(module, onnx):\n        each.name",
            "(builder if onnx else network).reset",
            "getattr(config, onnx.decode())",
        ],
    )
    def test_what_nobody_can_tell_the_owner_of_is_reported(self, find: Find, statement: str) -> None:
        assert len(find(planted(statement)).unknown) == 1

    @pytest.mark.parametrize(
        "other",
        [
            "import json as engine\nengine.name",
            "def f(config: Path) -> str:\n    return config.name",
            "def f(path: Path) -> list[str]:\n    return [each.name for each in sorted(path.iterdir())]",
            "class A:\n    path: Path\n    def f(self) -> str:\n        return self.path.name",
            "def ours() -> Path: ...\nengine = ours()\nengine.name",
            "def ours() -> list[Path]: ...\nfor engine in {each: each for each in ours()}.values():\n    engine.name",
            "try:\n    pass\nexcept OSError as error:\n    error.code",
            "'a'.name",
        ],
    )
    def test_what_is_known_to_be_something_else_is_left_alone(self, find: Find, other: str) -> None:
        assert find({"other.py": other}) == Uses((), ())
