"""``vitedge models`` shows the matrix that the package carries."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vitedge.cli import main
from vitedge.verbs.models import KnownModel, ModelPeer, models


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["models", *arguments]) == 0
    return capsys.readouterr().out


def test_a_line_for_each_under_its_family(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys).splitlines()
    for model in models():
        position = next(number for number, line in enumerate(lines) if line.split()[:1] == [model.name])
        headings = [line for line in lines[:position] if line and not line.startswith(" ")]
        assert headings[-1] == model.family
    assert len({line.index(" M ") for line in lines if " M " in line}) == 1, "columns are aligned"


def test_models_that_people_ask_for_are_there() -> None:
    names = {model.name for model in models()}
    assert {"deit_tiny_patch16_224", "cswin_tiny_224", "swin_tiny_patch4_window7_224", "mobilevit_s"} <= names


def test_a_filter_is_part_of_a_name_or_a_family(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "mobilevit", "--json"))
    assert found["version"] == 1
    assert found["models"]
    assert all("mobilevit" in f"{each['name']} {each['family']}".lower() for each in found["models"])
    for each in found["models"]:  # measured in all precisions, or not yet at all
        assert set(each["speedups"]) | set(each["failed"]) in ({"fp32", "fp16", "int8"}, set())


def test_a_filter_that_matches_nothing_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "mobilevit_xl"]) == 2
    assert "no model of the list matches 'mobilevit_xl'" in capsys.readouterr().err


def known(name: str, *peers: ModelPeer) -> KnownModel:
    """A model of one family, with peers in int8."""
    named = {f"NNCF {number}": peer for number, peer in enumerate(peers)}
    return KnownModel(
        name=name,
        family="Some",
        input_size=(224, 224),
        parameters=5_000_000,
        macs=10**9,
        speedups={"fp32": 1.0, "fp16": 2.0, "int8": 3.0},
        megabytes={"int8": 7.0},
        failed={},
        sqnr_db={"int8": 31.8} if peers else {},
        agreement={"int8": 99.0} if peers else {},
        peers=named,
        processor="Some CPU",
        date="2026-01-02",
    )


def test_nncf_is_a_column_marked_where_it_is_faster(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slower = ModelPeer("int8", 0.74, (0.7, 0.8), 24.2, 95.0, collapsed=False, reason="")
    faster = ModelPeer("int8", 1.42, (1.4, 1.5), 19.0, 90.0, collapsed=False, reason="reference kernels 727 µs")
    useless = replace(faster, sqnr_db=1.8, collapsed=True, reason="")
    other = replace(known("waiting"), date="2026-01-04")
    listed = (known("ahead", slower, useless), known("behind", slower, faster), known("alone", useless), other)
    monkeypatch.setattr("vitedge.cli.models.models", lambda _: listed)
    text = printed(capsys)
    columns = {line.split()[0]: line.split()[-3:] for line in text.splitlines() if "224x224" in line}
    assert columns == {
        "ahead": ["0.74", "31.8", "24.2"],
        "behind": ["*1.42", "31.8", "19.0"],
        "alone": ["none", "31.8", "1.8"],
        "waiting": ["-", "-", "-"],
    }
    assert "Measured on Some CPU, 2026-01-02 to 2026-01-04." in text
    assert max(map(len, text.splitlines())) <= 120
    found = json.loads(printed(capsys, "--json"))["models"]
    assert found[1]["peers"]["NNCF 1"]["reason"] == "reference kernels 727 µs"
    assert found[1]["peers"]["NNCF 1"]["time_ratio"] == 1.42


def test_without_any_peer_the_text_says_that_they_were_not_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitedge.cli.models.models", lambda _: (known("waiting"),))
    assert "NNCF's int8 on OpenVINO's own IR; not measured yet." in printed(capsys)
