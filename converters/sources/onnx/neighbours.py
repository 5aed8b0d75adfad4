"""Preprocessing and labels of an ONNX file: from the files beside it or one folder up, or from the user.

An ONNX file does not define them itself. Metadata in the file that names them is reported, and is not used: neither
Model API nor Ultralytics resizes as the runtime does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitedge.bundle.bundle import MANIFEST
from vitedge.bundle.manifest import parse_manifest
from vitedge.bundle.model_card import Activation
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.sources.labels import configured_labels, numbered_labels
from vitedge.converters.sources.layouts import Layout, layout_of
from vitedge.converters.sources.preprocessing import read_preprocessing, require_preprocessing
from vitedge.converters.sources.timm.config import (
    CONFIG,
    completed,
    preprocessing_from,
    pretrained_cfg_of,
    read_config,
)
from vitedge.converters.sources.transformers.families import TIMM_WRAPPER
from vitedge.converters.sources.transformers.processor_files import (
    check_processor_agrees,
    find_processor,
    read_processor,
)
from vitedge.converters.sources.transformers.processors import PROCESSOR_CONFIG
from vitedge.errors import CheckpointError
from vitedge.progress import Progress
from vitedge.safety.files import is_file, read_text
from vitedge.safety.limits import MANIFEST_BYTES

NAMES_SHOWN = 8
NAME_CHARACTERS = 40
_DESCRIBING = re.compile(
    r"^model_info(?=_)|(?<![^_])(?:means?|std|scales?|imgsz|(?:input|image|img)_?size|resize|crop|interpolation|names"
    r"|labels?|classes|id2label|(?:pre)?process(?:ing|or)|preprocess|normaliz(?:e|ation)|rgb|bgr|channels?|colou?r|pixel"
    r")(?![^_])"
)
"""Words of a key that names preprocessing or labels."""
_BETWEEN_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z0-9]+")


@dataclass(frozen=True)
class Neighbours:
    """What the files around a graph say about it.

    Attributes:
        path: file that names the labels, for errors.
        preprocessing: turns images into inputs.
        labels: labels in the order of the logits; None if no file has any.
        pretrained: whether the weights come from training.
        imagenet: whether 1000 classes without labels are ImageNet's.
        model: ``config.json`` of Transformers or of its wrapper of timm; empty if there is none.
        activation: of a bundle's manifest; None if there is no manifest.
    """

    path: Path
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    pretrained: bool = True
    imagenet: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    activation: Activation | None = None


def read_neighbours(
    path: Path,
    *,
    given: str | None,
    size: tuple[int, int] | None,
    metadata: Mapping[str, str],
    progress: Progress,
) -> Neighbours:
    """Read the files that lie beside a graph, else one folder up, as in optimum's ``onnx/model.onnx``.

    The manifest of a bundle comes first, then ``config.json`` of timm, then ``preprocessor_config.json`` and
    ``config.json`` of Transformers.

    Args:
        path: the graph.
        given: see ``read_preprocessing``; replaces their preprocessing. None if the user gave none.
        size: (height, width) that the graph takes; None for any size.
        metadata: of the graph, by key.
        progress: told which files are read, and which metadata is not.

    Raises:
        UsageError: no file defines the preprocessing, and the user gave none; or ``given`` is refused.
        CheckpointError: a file cannot be read or is wrong, or is for images of another size.
    """
    unused = named_by_metadata(metadata)
    if unused:
        progress.step(f"the metadata of {path} names preprocessing or labels, which is not used: {unused}")
    manifest = path.parent / MANIFEST
    if is_file(manifest):
        model = parse_manifest(_text(manifest), where=str(manifest)).model
        preprocessing = model.preprocessing if given is None else read_preprocessing(given, size)
        return Neighbours(manifest, preprocessing, model.labels, model.pretrained, activation=model.activation)
    config = _model_config(path)
    nearer = find_processor(path.parent)
    if config.layout == "timm" and (nearer is None or config.path.parent == path.parent):
        return _of_timm(config, given, size)
    return _of_transformers(path, config, given, size, unused, progress)


def named_by_metadata(metadata: Mapping[str, str]) -> str:
    """Return the keys of a graph's metadata that name preprocessing or labels; empty if there are none.

    Such as ``imgsz`` and ``names`` of Ultralytics, ``model_info labels`` of Model API, ``Image.BitmapPixelFormat`` of
    Windows ML.
    """
    found = [key for key in metadata if _DESCRIBING.search(_BETWEEN_WORDS.sub("_", key).lower())]
    rest = f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else ""
    return ", ".join(key[:NAME_CHARACTERS] for key in found[:NAMES_SHOWN]) + rest


@dataclass(frozen=True)
class _Config:
    """A ``config.json``, its content and its layout; empty if there is no such file."""

    path: Path
    content: Mapping[str, Any]
    layout: Layout | None


def _model_config(path: Path) -> _Config:
    """Return the ``config.json`` beside a graph, else the one a folder up if it is of timm or Transformers."""
    beside, above = (folder / CONFIG for folder in _folders(path))
    if is_file(beside):
        content = read_config(beside)
        return _Config(beside, content, layout_of(content, beside))
    if is_file(above):
        try:
            content = read_config(above)
        except CheckpointError:  # the file of any program
            return _Config(beside, {}, None)
        return _Config(above, content, layout_of(content, above))
    return _Config(beside, {}, None)


def _folders(path: Path) -> tuple[Path, Path]:
    folder = path.absolute().parent
    return path.parent, folder.parent


def _of_timm(config: _Config, given: str | None, size: tuple[int, int] | None) -> Neighbours:
    described, architecture = pretrained_cfg_of(config.content), config.content.get("architecture")
    wrapped = config.content.get("model_type") == TIMM_WRAPPER  # then Transformers turns images, and makes the scores
    if given is not None:
        preprocessing = read_preprocessing(given, size)
    else:
        sized = described if described.get("input_size") or size is None else {**described, "input_size": (3, *size)}
        whole = completed(sized, architecture=architecture, where=str(config.path))
        preprocessing = replace(preprocessing_from(whole), exif_orientation=wrapped)
        check_processor_agrees(config.path.parent, preprocessing)
    labels = configured_labels({**described, **config.content})
    if labels is None and wrapped:
        labels = _id_labels(config.content)
    model = config.content if wrapped else {}
    return Neighbours(config.path, preprocessing, labels, imagenet=isinstance(architecture, str), model=model)


def _of_transformers(
    path: Path, config: _Config, given: str | None, size: tuple[int, int] | None, unused: str, progress: Progress
) -> Neighbours:
    model = config.content if config.layout == "transformers" else {}
    labels = _labels(config)
    if labels is not None:
        progress.step(f"labels of {config.path}")
    processor = next(filter(None, map(find_processor, _folders(path))), None)
    if given is not None or processor is None:
        holder = (
            f"an ONNX graph does not, and there is no {CONFIG} of timm or {PROCESSOR_CONFIG} beside it or one folder up"
            + (f"; its metadata ({unused}) is not used" if unused else "")
        )
        preprocessing = require_preprocessing(given, size, name=str(path), holder=holder)
        return Neighbours(config.path, preprocessing, labels, model=model)
    progress.step(f"preprocessing of {processor}")
    preprocessing = read_processor(processor, model=model)
    if size is not None and preprocessing.input_size != size:
        raise CheckpointError(
            f"{processor} is for images of {_pixels(preprocessing.input_size)}, {path} takes {_pixels(size)}",
            expected="the configuration of the model that the graph was exported from",
            fix="put its own beside the graph, or give preprocessing=FILE",
        )
    return Neighbours(config.path, preprocessing, labels, model=model)


def _labels(config: _Config) -> tuple[str, ...] | None:
    """Return the labels of a configuration; None if it has none."""
    if config.layout != "transformers":
        return configured_labels({**pretrained_cfg_of(config.content), **config.content})
    return _id_labels(config.content)


def _id_labels(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return ``id2label``; numbers if it holds only Transformers' default labels."""
    named = configured_labels(content, key="id2label")
    if named is not None and named == tuple(f"LABEL_{index}" for index in range(len(named))):
        return numbered_labels(len(named))
    return named


def _text(manifest: Path) -> str:
    try:
        return read_text(manifest, limit=MANIFEST_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{manifest} cannot be read: {error}", expected="the manifest of a bundle") from error


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
