"""The README's commands and code run as they are printed, from an empty folder; its figures are those of the pages."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("timm")
pytest.importorskip("openvino")
pytest.importorskip("av")

import clips
import numpy as np
import photos
import timm
from timm.models import save_for_hf

from vitedge.cli import main
from vitedge.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = {path: path.read_text("utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
MODEL = "timm:deit_tiny_patch16_224"


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README says that a reader has: a checkpoint, images and a clip."""
    save_for_hf(timm.create_model("test_vit"), str(tmp_path / "checkpoint"), safe_serialization=True)
    for number in range(4):
        photos.write_photo(tmp_path / "images" / f"{number}.png", "red", seed=number)
    picture = np.full((120, 160, 3), 90, np.uint8)
    clips.write_pictures(tmp_path / "clip.mp4", [picture] * 3, codec="avc1", height=120, width=160)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_commands_run(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment, installing, *commands = block("sh").splitlines()
    assert environment == "python3 -m venv .venv && . .venv/bin/activate"
    assert installing == 'pip install -e ".[convert,camera]"', "the code below runs in the clone too"
    assert [shlex.split(command)[1] for command in commands] == ["convert", "run", "bench"]
    for command in commands:
        program, *arguments = shlex.split(command.replace(MODEL, "checkpoint"))
        assert program == "vitedge"
        assert main([*arguments, *(["--seconds", "0.1"] if arguments[0] == "bench" else [])]) == 0
    printed = capsys.readouterr()
    assert "3 predictions" in printed.err
    assert "p50" in printed.out


def test_its_code_runs(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = block("python")
    assert MODEL in code
    assert "rtsp://camera/1" in code
    exec(code.replace(MODEL, "checkpoint").replace("rtsp://camera/1", "clip.mp4"), {})
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_its_commands_of_make_exist() -> None:
    named = re.findall(r"^    make (\w+) ", README, re.MULTILINE)
    assert named == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert [name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_every_extra_that_a_page_names_exists(pyproject: dict[str, Any]) -> None:
    extras = set(pyproject["project"]["optional-dependencies"])
    for path, text in PAGES.items():
        named = re.findall(r"pip3? install [^\n`]*?\"(?:\.|vitedge|\./vitedge-[\w.-]+\.whl)\[([\w,]+)\]", text)
        assert {extra for each in named for extra in each.split(",")} <= extras | {"EXTRA"}, path


def test_the_page_of_installation_lists_every_extra(pyproject: dict[str, Any]) -> None:
    table = PAGES[ROOT / "docs" / "install.md"].split("| extra |")[1].split("\n\n")[0]
    first_cells = "".join(re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", first_cells)) == set(pyproject["project"]["optional-dependencies"])


def test_wheels_that_pages_name_have_this_version() -> None:
    for path, text in PAGES.items():
        assert set(re.findall(r"vitedge-([\d.]+)-py3-none-any\.whl", text)) <= {VERSION}, path


def test_its_figures_are_those_of_the_page_of_quantization() -> None:
    """Each row: top-1 in fp32 and int8, agreement and SQNR of vitedge and of the best of NNCF."""
    measured = PAGES[ROOT / "docs" / "quantization.md"]
    sections = re.findall(r"^### (\w+_(?:flowers|imagenet|vit))$", measured, re.MULTILINE)
    figures = README.split("## Measured\n")[1].split("\n## ")[0]
    assert [name for name in sections if f"(`{name}`)" not in figures] == []
    for section in sections:
        (row,) = re.findall(rf"^\|.*\(`{section}`\).*$", figures, re.MULTILINE)
        table = measured.split(f"### {section}\n")[1].split("\n#")[0]
        rows = {line.split(" | ")[0]: line.removesuffix(" |").split(" | ") for line in table.splitlines()}
        ours, fp32 = rows["| vitedge int8"], rows["| vitedge fp32"]
        nncf = [each for name, each in rows.items() if "NNCF" in name and not each[2].startswith("failed")]
        agreement = max(float(each[2].split()[0]) for each in nncf)
        sqnr = max(float(each[3]) for each in nncf)
        assert f"| {ours[2].split()[0]}, {agreement:.2f} % | {ours[3]}, {sqnr:.1f} dB |" in row
        assert not ours[1].strip() or f"| {fp32[1]} → {ours[1]} % |" in row


def test_its_plot_is_drawn_from_the_page_of_benchmarks() -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "draw_latency.py"))["drawing"]
    assert (ROOT / "docs" / "images" / "latency.svg").read_text("utf-8") == drawing(
        PAGES[ROOT / "docs" / "benchmarks.md"]
    ), "python docs/draw_latency.py draws it anew"
