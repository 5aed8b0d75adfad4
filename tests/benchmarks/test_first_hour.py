"""The walk from an empty machine to a result: what a step costs, how it ends, and what the page tells."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
LABEL = "rose 0.9"


@pytest.fixture
def walk(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from common import walkthrough

    return walkthrough


def taken(walk: Any, folder: Path, *commands: str, limit: float = 60.0, **options: Any) -> Any:
    step = walk.Step("step", commands, **options)
    return walk.walk(
        step,
        folder,
        activate=".venv/bin/activate",
        names={"CAMERA": "rtsp://here"},
        limit=limit,
        log=folder / "step.log",
    )


def test_what_a_step_costs(walk: Any, tmp_path: Path) -> None:
    package = ".venv/lib/python3/site-packages/thing-1.dist-info"
    found = taken(walk, tmp_path, f"mkdir -p {package}", "head -c 2000000 /dev/zero > home/cache", "sh script CAMERA",
                  files={"script": 'test "$1" = rtsp://here\n\ntest "$HOME" = "$PWD/home"\n'})  # fmt: skip
    assert (found.exit_code, found.error, found.packages, found.megabytes) == (0, "", 1, 2.0)
    assert len(found.commands) == 3
    assert found.lines_of_code == 2, "an empty line is none"


def test_the_virtual_environment_of_an_earlier_step_is_used(walk: Any, tmp_path: Path) -> None:
    taken(walk, tmp_path, "mkdir -p .venv/bin", "echo HERE=yes > .venv/bin/activate")
    assert taken(walk, tmp_path, "test $HERE = yes").exit_code == 0


def test_the_first_error_is_told_and_ends_the_step(walk: Any, tmp_path: Path) -> None:
    found = taken(walk, tmp_path, "echo before", "echo 'ValueError: no images'", "false", "touch never")
    assert (found.exit_code, found.error) == (1, "ValueError: no images")
    assert (tmp_path / "step.log").read_text() == "before\nValueError: no images\n"
    assert not (tmp_path / "never").exists()


def test_ctrl_c_ends_a_stream_that_showed_its_label(walk: Any, tmp_path: Path) -> None:
    found = taken(walk, tmp_path, f"echo {LABEL}", "sleep 600", until="rose")
    assert found.exit_code == 0
    assert taken(walk, tmp_path, "echo nothing", until="rose").exit_code == 1


def test_a_step_that_takes_too_long_is_ended(walk: Any, tmp_path: Path) -> None:
    assert taken(walk, tmp_path, "sleep 600", limit=0.5).exit_code == 124


def test_a_user_keeps_settings_of_pip_and_nothing_else(
    walk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "file:///index")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("HF_TOKEN", "secret")
    found = walk.environment(tmp_path)
    assert found["PIP_INDEX_URL"] == "file:///index"
    assert not {"PYTHONPATH", "HF_TOKEN", "VIRTUAL_ENV"} & set(found)


class TestTools:
    """The lists of commands, and the page."""

    @pytest.fixture
    def script(self, walk: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        pytest.importorskip("av")
        monkeypatch.delitem(sys.modules, "first_hour", raising=False)
        import first_hour

        return first_hour

    def test_every_goal_is_reached_or_absent(self, script: Any) -> None:
        for tool in script.TOOLS:
            names = {step.name for step in tool.steps}
            for goal in script.GOALS:
                assert (goal in tool.absent) != bool(tool.steps_to(goal))
                assert set(tool.steps_to(goal)) <= names
            for text in (text for step in tool.steps for text in step.files.values()):
                compile(text, tool.name, "exec")

    def test_a_failure_ends_the_ways_that_need_its_step(self, script: Any) -> None:
        tool = script.TOOLS[0]
        assert tool.can_go_on("int8", {"demo"})
        assert not tool.can_go_on("int8", {"install"})
        assert not tool.can_go_on("int8", {"int8"})
        assert tool.can_go_on("demo", {"install"})

    def test_resumed_results_make_the_same_page(self, script: Any, walk: Any) -> None:
        import dataclasses

        def outcome(step: Any) -> Any:
            return walk.Outcome(step.name, step.commands, step.lines_of_code, 0, 10.0, 100.0, 3, "")

        measured = {
            tool.name: script.Walked("2026-01-01", "a machine", tuple(outcome(step) for step in tool.steps))
            for tool in script.TOOLS
        }
        fields = dataclasses.asdict(measured["optimum"].outcomes[0])
        assert script.outcome(fields) == measured["optimum"].outcomes[0]
        page = script.page(measured)
        assert "| the demo | vitedge | 3 | 20 | 200 | 6 | 0 |" in page
        assert "| the demo | Optimum Intel | none: its examples load models from a hub |" in page
        assert "| an int8 model | Optimum Intel | 4 | 20 | 200 | 6 | 16 |" in page

    def test_a_failed_step_is_told(self, script: Any, walk: Any) -> None:
        tool = script.TOOLS[1]
        failed = walk.Outcome("install", ("pip install a",), 0, 1, 5.0, 0.0, 0, "ERROR: a | b")
        page = script.page({tool.name: script.Walked("2026-01-01", "a machine", (failed,))})
        assert "failed after 5" in page
        assert r"| `pip install a` | 5 | 0 | 1: `ERROR: a \| b` |" in page
