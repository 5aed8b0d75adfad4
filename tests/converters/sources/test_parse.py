from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitedge.converters.sources.cswin_pvt.variants import VARIANTS
from vitedge.converters.sources.parse import (
    WEIGHT_SUFFIXES,
    CswinPvtName,
    ExportedProgramFile,
    Factory,
    HubFolder,
    HubRepo,
    OnnxFile,
    TimmName,
    parse_source,
)
from vitedge.converters.sources.weights.checkpoints import SUFFIXES
from vitedge.errors import UsageError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", ["timm:deit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_a_name_means_timm(text: str) -> None:
    assert parse_source(text) == TimmName("deit_tiny_patch16_224")


def test_a_name_with_a_tag() -> None:
    assert parse_source("vit_base_patch16_224.augreg_in1k") == TimmName("vit_base_patch16_224.augreg_in1k")


def test_a_folder(here: Path) -> None:
    (here / "my_vit").mkdir()
    source = parse_source("my_vit/")
    assert source == HubFolder(Path("my_vit"))
    assert source.name == "my_vit"
    assert parse_source("timm:my_vit") == TimmName("my_vit")


def test_the_current_folder_has_a_name(here: Path) -> None:
    assert parse_source(".").name == here.name


def test_an_onnx_file(here: Path) -> None:
    (here / "net.v2.onnx").touch()
    source = parse_source("net.v2.onnx")
    assert source == OnnxFile(Path("net.v2.onnx"))
    assert source.name == "net.v2"


@pytest.mark.parametrize(
    ("text", "repo", "revision", "name"),
    [
        ("hf:google/vit-base-patch16-224", "google/vit-base-patch16-224", "", "vit-base-patch16-224"),
        ("hf:timm/vit_tiny.augreg@v1.0", "timm/vit_tiny.augreg", "v1.0", "vit_tiny.augreg"),
        ("hf:someone/net@refs/pr/3", "someone/net", "refs/pr/3", "net"),
        ("hf:resnet", "resnet", "", "resnet"),
    ],
)
def test_a_name_of_the_hub(text: str, repo: str, revision: str, name: str) -> None:
    source = parse_source(text)
    assert source == HubRepo(repo, revision)
    assert source.name == name
    assert str(source) == text


@pytest.mark.parametrize("text", ["hf:", "hf:a/b/c", "hf:google/vit base", "hf:google/", "hf:google/vit@", "hf:/vit"])
def test_what_is_no_name_of_the_hub(text: str) -> None:
    with pytest.raises(UsageError, match="is not a name of the hub") as caught:
        parse_source(text)
    assert "hf:OWNER/NAME" in caught.value.expected


def test_home(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "vit").mkdir()
    assert parse_source("~/vit") == HubFolder(here / "vit")


@pytest.mark.parametrize("text", ["missing/vit", "./missing", "~/missing", "", f"{os.sep}missing"])
def test_a_path_that_is_not_there(text: str) -> None:
    with pytest.raises(UsageError, match="no file or folder at"):
        parse_source(text)


def test_an_onnx_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"no file at net\.onnx"):
        parse_source("net.onnx")


@pytest.mark.parametrize("suffix", WEIGHT_SUFFIXES)
def test_weights_alone_need_a_name(here: Path, suffix: str) -> None:
    (here / f"weights{suffix}").touch()
    with pytest.raises(UsageError) as caught:
        parse_source(f"weights{suffix}")
    assert "weights=" in caught.value.fix


def test_the_suffixes_of_weights_are_those_that_can_be_read() -> None:
    assert set(WEIGHT_SUFFIXES) == set(SUFFIXES)


def test_another_file(here: Path) -> None:
    (here / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"notes\.txt does not name its model"):
        parse_source("notes.txt")


def test_a_bundle_is_not_converted_again(here: Path) -> None:
    (here / "deit.bundle").mkdir()
    (here / "deit.bundle" / "manifest.json").touch()
    with pytest.raises(UsageError, match="is a bundle") as caught:
        parse_source("deit.bundle")
    assert "model.onnx" in caught.value.fix


def test_schemes() -> None:
    with pytest.raises(UsageError, match="unknown source scheme 'tim'") as caught:
        parse_source("tim:vit_base_patch16_224.augreg_in1k/")
    assert caught.value.fix == "did you mean timm?"
    with pytest.raises(UsageError, match="names no model"):
        parse_source("timm:")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_bare_name_may_be_one_that_timm_does_not_have(here: Path, name: str) -> None:
    assert parse_source(name) == CswinPvtName(name)
    assert parse_source(f"timm:{name}") == TimmName(name)
    (here / name).mkdir()
    assert parse_source(name) == HubFolder(Path(name))


def test_a_program(here: Path) -> None:
    (here / "net.pt2").touch()
    assert parse_source("net.pt2") == ExportedProgramFile(Path("net.pt2"))
    assert parse_source("net.pt2").name == "net"
    with pytest.raises(UsageError, match=r"no file at other\.pt2"):
        parse_source("other.pt2")


@pytest.mark.parametrize(
    ("text", "module", "attribute", "name"),
    [
        ("net:build", "net", "build", "build"),
        ("my_models.zoo.net:build", "my_models.zoo.net", "build", "build"),
        ("net:Net.small", "net", "Net.small", "small"),
    ],
)
def test_a_factory(text: str, module: str, attribute: str, name: str) -> None:
    source = parse_source(text)
    assert source == Factory(module, attribute)
    assert (source.name, str(source)) == (name, text)


@pytest.mark.parametrize("text", ["net:", "my-models:build", "net.py:build()", "net..zoo:build"])
def test_what_is_no_factory(text: str) -> None:
    with pytest.raises(UsageError, match=r"unknown source scheme|no file or folder"):
        parse_source(text)


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, vitedge.converters.convert; print({'torch', 'timm', 'onnx', 'openvino'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
