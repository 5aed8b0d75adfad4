"""The Python blocks of ``docs/embed.md`` run, in their order; all examples use the public API."""

from __future__ import annotations

import ast
import dataclasses
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import vitedge
from vitedge.bundle.bundle import Bundle

pytest.importorskip("av")

import clips

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "embed.md"
EXAMPLES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*.py")))


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_embed(
    tiny_bundle: Bundle,
    colour_frame: Callable[..., np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    shutil.copytree(tiny_bundle.path, tmp_path / "model.bundle")
    blue = colour_frame("blue", height=240, width=320)
    clips.write_pictures(tmp_path / "clip.mp4", [blue] * 12, codec="avc1", height=240, width=320)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "OFF")
    blocks = python_blocks(PAGE)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    said = capsys.readouterr().out
    assert said.startswith("0 blue ")
    assert "refused: rtsp://127.0.0.1:9/1 refuses the connection" in said
    assert {"online None", "ended None", "ended"} <= set(said.splitlines())
    assert (tmp_path / "annotated.mp4").stat().st_size > 0
    assert len((tmp_path / "labels.jsonl").read_text().splitlines()) == 12
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vitedge-")]


def public_uses(code: str) -> Iterator[str]:
    """The names that a program takes from ``vitedge``, dotted if they are below it."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vitedge":
            yield node.attr
        elif isinstance(node, ast.Import):
            yield from (each.name.removeprefix("vitedge.") for each in node.names if each.name.startswith("vitedge."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vitedge":
            below = (node.module or "").removeprefix("vitedge").lstrip(".")
            yield from [below] if below else [each.name for each in node.names]


def programs(path: Path) -> list[str]:
    return [path.read_text(encoding="utf-8")] if path.suffix == ".py" else python_blocks(path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_use_the_public_api_alone(path: Path) -> None:
    for program in programs(path):
        assert set(public_uses(program)) <= set(vitedge.__all__)


def test_the_page_names_every_field_of_a_prediction() -> None:
    table = PAGE.read_text(encoding="utf-8").split("## The fields of a prediction")[1].split("\n## ")[0]
    fields = {each.name for each in dataclasses.fields(vitedge.Prediction)} - {"picture"}
    assert {name for name in fields if f"`{name}`" not in table} == set()


def test_services_can_be_started_again() -> None:
    """``--jsonl FILE`` refuses a file that exists, as it does after the first start."""
    pages = {page: page.read_text(encoding="utf-8") for page in ROOT.glob("docs/*.md")}
    units = [
        text for page in pages.values() for text in re.findall(r"^```ini\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    ]
    services = [unit for unit in units if "vitedge run" in unit]
    assert services
    for service in services:
        assert " --jsonl -\n" in service
        assert "\nStandardOutput=append:" in service
        assert "\nStandardError=journal\n" in service


def test_there_are_examples_of_every_verb() -> None:
    used = {name for path in EXAMPLES for program in programs(path) for name in public_uses(program)}
    assert {"convert", "load", "evaluate", "bench", "inspect", "doctor", "sign", "new_key"} <= used
