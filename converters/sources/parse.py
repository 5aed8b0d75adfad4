"""Parse a source: a name, a folder, a file, or the user's own factory. This module imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vitedge.bundle.bundle import MANIFEST, MODEL_ONNX, OPENVINO_XML
from vitedge.converters.sources.cswin_pvt.variants import VARIANTS
from vitedge.errors import UsageError, did_you_mean
from vitedge.files import did_you_mean_beside
from vitedge.safety.escape import shell
from vitedge.safety.files import expanded, is_file, is_folder

EXPECTED = (
    "timm:NAME, hf:OWNER/NAME, a folder with config.json and model.safetensors, a file that ends in .onnx or .pt2, or "
    "package.module:factory"
)
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")

SCHEMES = ("timm", "hf")
_REPO = re.compile(r"([\w.\-]+/)?([\w.\-]+)(?:@([\w.\-/]+))?", re.ASCII)
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.\-]+):(.*)", re.DOTALL)
_FACTORY = re.compile(r"([a-zA-Z_]\w*(?:\.[a-zA-Z_]\w*)*):([a-zA-Z_]\w*(?:\.[a-zA-Z_]\w*)*)", re.ASCII)


@dataclass(frozen=True)
class TimmName:
    """A model that timm knows by name, such as ``deit_tiny_patch16_224`` or ``vit_base_patch16_224.augreg_in1k``."""

    name: str


@dataclass(frozen=True)
class HubFolder:
    """A folder in the hub's layout, of timm or Transformers: ``config.json`` and a weights file."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name


@dataclass(frozen=True)
class HubRepo:
    """A repository of the Hugging Face hub.

    Attributes:
        repo: ``OWNER/NAME``.
        revision: branch, tag or commit; empty for the main branch.
    """

    repo: str
    revision: str = ""

    @property
    def name(self) -> str:
        """Name of the repository without its owner."""
        return self.repo.rpartition("/")[2]

    def __str__(self) -> str:
        return f"hf:{self.repo}@{self.revision}" if self.revision else f"hf:{self.repo}"


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX graph.

    Attributes:
        path: path of the file.
        logits: name of the output with the logits; None for the only output.
    """

    path: Path
    logits: str | None = None

    @property
    def name(self) -> str:
        """Name of the file without ``.onnx``."""
        return self.path.stem


@dataclass(frozen=True)
class CswinPvtName:
    """A CSWin or PVT v1 model, which timm lacks, such as ``cswin_tiny_224``."""

    name: str


@dataclass(frozen=True)
class ExportedProgramFile:
    """A file that ``torch.export.save`` wrote."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the file without ``.pt2``."""
        return self.path.stem


@dataclass(frozen=True)
class Factory:
    """The user's own callable that returns an ``nn.Module``.

    Attributes:
        module: dotted name of the module that holds the callable.
        attribute: name of the callable in the module; dotted for an attribute of a class.
    """

    module: str
    attribute: str

    @property
    def name(self) -> str:
        """Name of the callable."""
        return self.attribute.rpartition(".")[2]

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


_FILES: Mapping[str, type[OnnxFile | ExportedProgramFile]] = {".onnx": OnnxFile, ".pt2": ExportedProgramFile}

Source = TimmName | CswinPvtName | HubFolder | HubRepo | OnnxFile | ExportedProgramFile | Factory


def parse_source(text: str) -> Source:
    """Decide the kind of a source. A bare name is a known model, unless a folder or file of that name exists.

    Raises:
        UsageError: the path does not exist, the scheme is unknown, or the source is a bundle, or weights without a
            model.
    """
    scheme, factory = _SCHEME.fullmatch(text), _FACTORY.fullmatch(text)
    if factory and factory[1] not in SCHEMES:
        return Factory(factory[1], factory[2])
    if scheme:
        return _with_scheme(scheme[1], scheme[2])
    path = expanded(text)
    if text and is_folder(path):
        return _folder(path)
    if path.suffix in _FILES or is_file(path):
        return _file(path)
    if not text or any(mark in text for mark in "/\\~"):
        raise UsageError(
            f"no file or folder at {text!r}", expected=EXPECTED, fix=did_you_mean_beside(path) or "check the path"
        )
    return CswinPvtName(text) if text in VARIANTS else TimmName(text)


def _with_scheme(scheme: str, name: str) -> Source:
    if scheme == "timm" and name:
        return TimmName(name)
    if scheme == "hf":
        return _hub_repo(name)
    problem = f"unknown source scheme {scheme!r}" if scheme != "timm" else "timm: names no model"
    raise UsageError(problem, expected=EXPECTED, fix=did_you_mean(scheme, SCHEMES))


def _hub_repo(text: str) -> HubRepo:
    found = _REPO.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is not a name of the hub", expected="hf:OWNER/NAME, or hf:OWNER/NAME@REVISION")
    return HubRepo(f"{found[1] or ''}{found[2]}", found[3] or "")


def _folder(path: Path) -> Source:
    if is_file(path / MANIFEST):
        is_slim = is_file(path / OPENVINO_XML) and not is_file(path / MODEL_ONNX)
        graph = f"convert its graph again: vitedge convert {shell(str(path / MODEL_ONNX))}"
        raise UsageError(
            f"{path} is a bundle: it was converted already",
            expected=EXPECTED,
            fix=f"vitedge run {shell(str(path))}, or {'convert the graph of the full bundle' if is_slim else graph}",
        )
    return HubFolder(path)


def _file(path: Path) -> Source:
    if path.suffix in _FILES:
        if not is_file(path):
            raise UsageError(f"no file at {path}", expected=f"a {path.suffix} file", fix="check the path")
        return _FILES[path.suffix](path)
    fix = "name its model: vitedge.convert('timm:NAME', weights=FILE)" if path.suffix in WEIGHT_SUFFIXES else ""
    raise UsageError(f"{path} does not name its model", expected=EXPECTED, fix=fix)
