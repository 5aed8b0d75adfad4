"""No verb connects anywhere, or writes anything but what it was asked for; downloads come from the hub alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("timm")

import hub_server
import verbs
from watching import Watched, strace_works, watch

from vitedge.cli import VERBS
from vitedge.safety import telemetry

STRACE = strace_works()
REPO = "shapes/vit"
ANYWHERE = ("/dev/null", "/dev/tty", "/dev/shm/", "/proc/self/", "/dev/pts/")
OUTPUTS = {
    "convert": {"made.bundle"},
    "convert a model of Transformers": {"made.bundle"},
    "convert from the hub": {"made.bundle"},
    "eval": {"eval.html"},
    "run": {"run.mp4"},
    "run in onnxruntime": {"run.mp4"},
    "bench": {"bench.html"},
    "export": {"repository"},
}


@dataclass(frozen=True)
class Run:
    """A verb that ran in folders of its own.

    Attributes:
        folder: holds them: ``here`` is the current one, and there is one for each variable of the environment.
        watched: what it did.
    """

    folder: Path
    watched: Watched

    def left(self, name: str) -> list[str]:
        """Files and folders that are left in one of them."""
        folder = self.folder / name
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def environment(folder: Path, **changes: str) -> dict[str, str]:
    """Folders of a user who has run nothing yet, with nothing turned off by this process."""
    named = {"HOME": "home", "TMPDIR": "tmp", "XDG_RUNTIME_DIR": "runtime"}
    named |= {f"XDG_{kind}_HOME": kind.lower() for kind in ("CACHE", "CONFIG", "DATA", "STATE")}
    for name in ("here", *named.values()):
        (folder / name).mkdir()
    unset = [*telemetry.VARIABLES, "VITEDGE_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "MPLCONFIGDIR"]
    unset += [name for name in os.environ if name.startswith("HF_") or name.lower().endswith("_proxy")]
    folders = {variable: str(folder / name) for variable, name in named.items()}
    return {**dict.fromkeys(unset, ""), **folders, "PYTHONDONTWRITEBYTECODE": "1", **changes}


def ran(folder: Path, arguments: list[str], **changes: str) -> Run:
    folder.mkdir()
    variables = environment(folder, **changes)
    command = [*verbs.CONSOLE, *arguments]
    found = watch(command, cwd=folder / "here", log=folder / "log", variables=variables, strace=STRACE)
    return Run(folder, found)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hub_server.Hub]:
    import checkpoints

    with hub_server.serving() as served:
        served.repos[REPO] = checkpoints.write_checkpoint(tmp_path_factory.mktemp("hub") / "vit")
        yield served


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, hub: hub_server.Hub) -> dict[str, Run]:
    """Each verb, and what else imports other libraries, by what it is called."""
    for package in ("onnx", "onnxruntime", "openvino", "PIL", "av", "transformers", "cryptography"):
        pytest.importorskip(package)
    import transformers_checkpoints

    folder = tmp_path_factory.mktemp("runs")
    inputs = verbs.write_inputs(tmp_path_factory.mktemp("inputs"))
    transformers = transformers_checkpoints.write_checkpoint(tmp_path_factory.mktemp("transformers") / "vit")
    converting = ["convert", "--target", "cpu", "--precision", "fp32", "-o", "made.bundle"]
    commands = {verb: [verb, *words] for verb, words in verbs.arguments(inputs).items()}
    commands["convert a model of Transformers"] = [*converting, str(transformers)]
    commands["convert from the hub"] = [*converting, f"hf:{REPO}"]
    commands["run in onnxruntime"] = [*commands["run"], "--engine", "onnxruntime"]
    changes = {"convert from the hub": {"HF_ENDPOINT": hub.url}}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ended = {
            name: pool.submit(ran, folder / name.replace(" ", "-"), words, **changes.get(name, {}))
            for name, words in commands.items()
        }
        return {name: each.result() for name, each in ended.items()}


NAMES = (*VERBS, "convert a model of Transformers", "convert from the hub", "run in onnxruntime")
pytestmark = [pytest.mark.timeout(1200), pytest.mark.slow]


@pytest.mark.parametrize("name", NAMES)
def test_it_did_what_it_was_asked_for(name: str, runs: dict[str, Run]) -> None:
    assert runs[name].watched.status in ((0, 1) if name == "build" else (0,)), runs[name].watched.stderr
    assert {each.split("/")[0] for each in runs[name].left("here")} == OUTPUTS.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_it_connected_nowhere(name: str, runs: dict[str, Run], hub: hub_server.Hub) -> None:
    asked_for = {hub.url.removeprefix("http://")} if name == "convert from the hub" else set()
    assert runs[name].watched.connections == asked_for


def test_the_hub_was_asked_for_files_and_nothing_else(runs: dict[str, Run], hub: hub_server.Hub) -> None:
    assert hub.requests
    assert [each for each in hub.requests if f"/{REPO}" not in each] == []


@pytest.mark.parametrize("name", NAMES)
def test_it_wrote_nowhere_else(name: str, runs: dict[str, Run]) -> None:
    asked_for = (f"{runs[name].folder}{os.sep}", *ANYWHERE)
    elsewhere = {each for each in runs[name].watched.written if not each.startswith(asked_for)}
    if name == "sign":
        elsewhere = {each for each in elsewhere if Path(each).parent.name != "signed.bundle"}
    assert elsewhere == set()


@pytest.mark.parametrize("name", NAMES)
def test_it_left_nothing_but_its_cache(name: str, runs: dict[str, Run]) -> None:
    run = runs[name]
    for kind in ("home", "tmp", "runtime", "config", "data", "state"):
        assert run.left(kind) == []
    caches = {each.split("/")[0] for each in run.left("cache")}
    assert caches <= ({"vitedge", "huggingface"} if name == "convert from the hub" else {"vitedge"})


@pytest.mark.parametrize("strace", [True, False] if STRACE else [False])
class TestTheWatcher:
    def watched(self, code: str, folder: Path, *, strace: bool) -> Watched:
        command = [sys.executable, "-c", code]
        return watch(command, cwd=folder, log=folder / "log", variables={}, strace=strace)

    def test_connections(self, strace: bool, tmp_path: Path) -> None:
        code = "import contextlib, socket\n"
        code += "with contextlib.suppress(OSError): socket.create_connection(('127.0.0.1', 9), 1)\n"
        code += "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.2', 9))\n"
        found = self.watched(code, tmp_path, strace=strace)
        assert found.connections == {"127.0.0.1:9", "127.0.0.2:9"}

    def test_those_of_children(self, strace: bool, tmp_path: Path) -> None:
        code = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.2', 9))"
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
        assert self.watched(code, tmp_path, strace=strace).connections == {"127.0.0.2:9"}

    def test_lookups(self, strace: bool, tmp_path: Path) -> None:
        code = "import contextlib, socket\n"
        code += "with contextlib.suppress(OSError): socket.getaddrinfo('collector.invalid', 443)\n"
        assert self.watched(code, tmp_path, strace=strace).connections

    def test_files(self, strace: bool, tmp_path: Path) -> None:
        code = f"import os; open('a', 'w').close(); os.mkdir('b'); open({str(tmp_path / 'c')!r}, 'a').close()\n"
        code += "open('a').close()\n"
        found = self.watched(code, tmp_path, strace=strace)
        assert {str(tmp_path / name) for name in "abc"} <= found.written
        assert found.status == 0
