"""What ``SOURCE`` means: a timm name, a folder in timm's hub layout, or an ONNX file. Nothing heavy is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vitedge.bundle import MANIFEST, MODEL_ONNX
from vitedge.errors import UsageError, did_you_mean

EXPECTED = "timm:NAME, a folder with config.json and model.safetensors, or a file that ends in .onnx"
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.\-]+):(.*)", re.DOTALL)


@dataclass(frozen=True)
class TimmName:
    """A model that timm knows by name, such as ``deit_tiny_patch16_224`` or ``vit_base_patch16_224.augreg_in1k``."""

    name: str


@dataclass(frozen=True)
class HubFolder:
    """A folder in timm's hub layout: ``config.json`` and a weight file."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX graph."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the file without ``.onnx``."""
        return self.path.stem


Source = TimmName | HubFolder | OnnxFile


def parse_source(text: str) -> Source:
    """Tell what a user's SOURCE is. A bare name is a timm name unless a folder or file of that name exists.

    Raises:
        UsageError: a path that does not exist, a scheme that is not known, a bundle, or weights without a model.
    """
    scheme = _SCHEME.fullmatch(text)
    if scheme:
        return _with_scheme(scheme[1], scheme[2])
    path = Path(text).expanduser()
    if text and path.is_dir():
        return _folder(path)
    if path.suffix == ".onnx" or path.is_file():
        return _file(path)
    if not text or any(mark in text for mark in "/\\~"):
        raise UsageError(f"no file or folder at {text!r}", expected=EXPECTED, fix="check the path")
    return TimmName(text)


def _with_scheme(scheme: str, name: str) -> Source:
    if scheme == "timm" and name:
        return TimmName(name)
    problem = f"unknown source scheme {scheme!r}" if scheme != "timm" else "timm: names no model"
    raise UsageError(problem, expected=EXPECTED, fix=did_you_mean(scheme, ["timm"]))


def _folder(path: Path) -> Source:
    if (path / MANIFEST).is_file():
        raise UsageError(
            f"{path} is a bundle: it was converted already",
            expected=EXPECTED,
            fix=f"vitedge run {path}, or convert its graph again: vitedge convert {path / MODEL_ONNX}",
        )
    return HubFolder(path)


def _file(path: Path) -> Source:
    if path.suffix == ".onnx":
        if not path.is_file():
            raise UsageError(f"no file at {path}", expected="an ONNX file", fix="check the path")
        return OnnxFile(path)
    fix = "name its model: vitedge convert timm:NAME --weights FILE" if path.suffix in WEIGHT_SUFFIXES else ""
    raise UsageError(f"{path} is not a model that says what it is", expected=EXPECTED, fix=fix)
