"""The page of benchmarks: scripts write their own sections, and prose stays."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
TAKEN = re.compile(r"^Taken \d{4}-\d\d-\d\d\. .*\d CPUs", re.MULTILINE)

SCRIPTS = {
    "overhead": "import sys; print('fast, 2 CPUs\\n\\n| a table |', *sys.argv[1:])",
    "preprocess": "print('slow, 2 CPUs'); raise SystemExit(1)  # a missed target",
    "conversion": "1 / 0",
    "cameras": "print('half'); raise SystemExit(2)",
}


@pytest.fixture(scope="module")
def report(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("report")


@pytest.fixture
def page(report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with prose around every section, in a repository of scripts that end at once."""
    (tmp_path / "benchmarks").mkdir()
    for name, script in SCRIPTS.items():
        (tmp_path / "benchmarks" / f"{name}.py").write_text(script, encoding="utf-8")
    (tmp_path / "deit-int8.bundle").mkdir()
    monkeypatch.setattr(report, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    places = (f"prose before {name}\n\n{place(name, 'old')}\n\n" for name in ("machine", *report.SECTIONS))
    page.write_text("".join(places) + "prose at the end\n", encoding="utf-8")
    return page


@pytest.fixture
def run(report: Any, page: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Call ``report.py`` on the page."""

    def call(*options: str) -> int:
        given = ["report.py", "--output", str(page), "--work", str(page.parent), *options]
        monkeypatch.setattr("sys.argv", given)
        return int(report.main())

    return call


def place(name: str, text: str) -> str:
    return f"<!-- {name} -->\n\n{text}\n\n<!-- /{name} -->"


def section(text: str, name: str) -> str:
    """What is between the markers of a section."""
    return text.split(f"<!-- {name} -->\n\n")[1].split(f"\n\n<!-- /{name} -->")[0]


def test_only_the_sections_that_were_measured_change(report: Any, run: Callable[..., int], page: Path) -> None:
    before = page.read_text("utf-8")
    assert run("--only", "preprocess", "overhead") == 0
    after = page.read_text("utf-8")
    taken, bundle = report.taken_now().date, page.parent / "deit-int8.bundle"
    assert section(after, "preprocess") == f"    python benchmarks/preprocess.py\n\nTaken {taken}. slow, 2 CPUs"
    assert section(after, "overhead") == (
        f"    python benchmarks/overhead.py {bundle}\n\nTaken {taken}. fast, 2 CPUs\n\n| a table | {bundle}"
    )
    assert " CPUs, " in section(after, "machine")
    for name in ("machine", "preprocess", "overhead"):
        after = after.replace(place(name, section(after, name)), place(name, "old"))
    assert after == before


@pytest.mark.parametrize("name", ["conversion", "cameras"])
def test_a_script_that_fails_changes_nothing(run: Callable[..., int], page: Path, name: str) -> None:
    before = page.read_text("utf-8")
    with pytest.raises(RuntimeError, match=rf"benchmarks/{name}\.py .*ended with"):
        run("--only", name)
    assert page.read_text("utf-8") == before


def test_a_section_without_a_place_is_an_error_before_anything_runs(run: Callable[..., int], page: Path) -> None:
    before = page.read_text("utf-8").replace("<!-- /conversion -->", "")
    page.write_text(before, encoding="utf-8")
    with pytest.raises(ValueError, match="no place for conversion"):
        run("--only", "overhead", "conversion")
    assert page.read_text("utf-8") == before


@pytest.mark.parametrize("options", [("overheads",), ("overhead", "typo"), ()])
def test_a_mistyped_section_is_an_error(
    run: Callable[..., int], options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--only", *options)
    assert ended.value.code == 2
    assert "--only" in capsys.readouterr().err


def test_every_section_is_a_script_with_a_place_on_the_page(report: Any) -> None:
    report.check_places(PAGE, [report.MACHINE, *report.SECTIONS])
    for name in report.SECTIONS:
        assert (ROOT / "benchmarks" / f"{name}.py").is_file()
    marked = re.findall(r"^<!-- (\w+) -->$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert marked == [report.MACHINE, *report.SECTIONS]


def test_every_section_tells_when_and_where_it_was_taken(report: Any) -> None:
    text = PAGE.read_text("utf-8")
    for name in report.SECTIONS:
        found = section(text, name)
        if found != "Not measured yet.":
            assert found.startswith(f"    python benchmarks/{name}.py")
            assert TAKEN.search(found), name
