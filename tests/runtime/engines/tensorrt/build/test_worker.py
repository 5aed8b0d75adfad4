"""The process that builds: what it tells, and how it ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import vits
from tensorrt_bundles import Steps

from vitedge.errors import EngineError
from vitedge.runtime.engines.tensorrt.build import worker
from vitedge.runtime.engines.tensorrt.build.worker import BuildRequest, JsonProgress, build_apart


def request(folder: Path) -> BuildRequest:
    return BuildRequest(
        "tensorrt_rtx", str(folder / "model.onnx"), str(folder / "plan"), str(folder / "cache"), 64 << 20
    )


def becomes(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a shell script run in the place of Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(worker.sys, "executable", str(path))


def test_killed_by_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    becomes("kill -9 $$", tmp_path, monkeypatch)
    with pytest.raises(EngineError, match="was killed") as caught:
        build_apart(request(tmp_path), Steps())
    assert "memory" in caught.value.expected
    assert "workspace_mb" in caught.value.fix


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo some words >&2; kill -SEGV $$", "crashed with SIGSEGV: some words"),
        ("echo Traceback >&2; exit 3", "ended with exit code 3: Traceback"),
        ("exit 1", "it said nothing"),
    ],
)
def test_other_ends(script: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    becomes(script, tmp_path, monkeypatch)
    with pytest.raises(EngineError, match=problem):
        build_apart(request(tmp_path), Steps())


def test_an_interrupt_kills_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    becomes(
        f'echo $$ > {tmp_path}/pid; echo \'{{"counter": 1, "total": 2, "unit": "x"}}\'; '
        "echo '{\"counter\": 1}'; exec sleep 600",
        tmp_path,
        monkeypatch,
    )

    class Interrupting(Steps):
        def track(self, items, *, total, unit):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt
            yield

    with pytest.raises(KeyboardInterrupt):
        build_apart(request(tmp_path), Interrupting())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_is_no_event_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [
        {"counter": 1, "total": 5, "unit": "phase"},
        {"counter": 1},
        {"counter": 1},
        {"counter": 1, "ended": True},
    ]
    lines = "\n".join(["some library's words", *map(json.dumps, events)])
    becomes(f"cat <<'END'\n{lines}\nEND", tmp_path, monkeypatch)
    steps = Steps()
    build_apart(request(tmp_path), steps)
    assert steps.counted == {"phase": [2, 5]}


def test_counters_survive_the_pipe() -> None:
    stream, steps = io.StringIO(), Steps()
    lines = JsonProgress(stream)
    outer = lines.track("abc", total=3, unit="outer")
    next(outer)
    assert list(lines.track("de", total=2, unit="inner")) == ["d", "e"]
    next(outer)
    worker._replay(stream.getvalue().splitlines(), steps)
    assert steps.counted == {"outer": [2, 3], "inner": [2, 2]}


def test_a_real_build_tells_its_phases(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    onnx.save(vits.vit(blocks=1), tmp_path / "model.onnx")
    steps = Steps()
    build_apart(request(tmp_path), steps)
    assert (tmp_path / "plan").stat().st_size > 10_000
    done, total = steps.counted["Optimizing graph"]
    assert 1 < done <= total + 1


def test_whoever_waited_has_gone(tmp_path: Path) -> None:
    """Then the build ends, for its result would be nobody's."""
    pytest.importorskip("tensorrt_rtx")
    onnx.save(vits.vit(blocks=1), tmp_path / "model.onnx")
    ask = json.dumps(vars(request(tmp_path)))
    process = subprocess.Popen([sys.executable, "-m", worker.__name__, ask], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 1
    assert not (tmp_path / "plan").exists()
