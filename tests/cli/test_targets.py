"""``vitedge targets`` shows every target, what it takes, and the JetPacks."""

from __future__ import annotations

import json

import pytest

from vitedge.bundle.targets import TARGETS
from vitedge.cli import main


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["targets", *arguments]) == 0
    return capsys.readouterr().out


def test_a_row_for_each_target(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {line.split()[0]: line for line in printed(capsys).split("\n\n")[0].splitlines()}
    assert set(rows) == {"target"} | {target.name for target in TARGETS}
    assert rows["jetson-orin-nx"].split()[1:7] == ["fp32", "fp16", "int8", "8.7", "8,", "16"]
    assert "fp8" in rows["jetson-thor"]
    assert "refused" in rows["jetson-xavier-nx"]


def test_columns_are_aligned_and_fit_a_wide_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys).split("\n\n")[0].splitlines()
    column = lines[0].index("device")
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)
    assert max(map(len, lines)) <= 120


def test_every_note_and_every_refusal_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    for target in TARGETS:
        assert (target.refusal or target.notes) in text


def test_the_jetpacks_and_what_they_run_on(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split(maxsplit=5) for line in printed(capsys).split("\n\n")[2].splitlines()]
    table = {row[0]: row[1:] for row in rows}
    assert table["6.1-6.2"] == ["36.4", "10.3", "12.6", "3.10", "jetson-orin-nano, jetson-orin-nx, jetson-agx-orin"]
    assert table["7.1"][-1] == "jetson-thor"
    assert table["6.0"][-1].startswith("none: TensorRT 10.3 is the oldest")


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "--json"))
    assert found["version"] == 1
    targets = {target["name"]: target for target in found["targets"]}
    assert list(targets) == [target.name for target in TARGETS]
    assert targets["cpu"]["tensorrt"] is None
    assert targets["jetson-orin-nano"]["tensorrt"]["releases"][2]["tensorrt"] == "10.3"
