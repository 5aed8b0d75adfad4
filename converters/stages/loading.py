"""Load the model of a source, whatever its kind."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from vitedge.converters.request import ModelOptions
from vitedge.converters.sources.cswin_pvt.models import load_variant
from vitedge.converters.sources.factory import load_factory
from vitedge.converters.sources.hub import download_snapshot
from vitedge.converters.sources.onnx.models import OnnxModel, load_onnx
from vitedge.converters.sources.parse import (
    CswinPvtName,
    ExportedProgramFile,
    Factory,
    HubFolder,
    HubRepo,
    OnnxFile,
    Source,
    TimmName,
)
from vitedge.converters.sources.timm.models import load_timm, load_timm_folder
from vitedge.converters.sources.torch_export.programs import ExportedProgramModel, load_program
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.sources.transformers.models import is_transformers_folder, load_transformers
from vitedge.progress import Progress

Model: TypeAlias = TorchModel | ExportedProgramModel | OnnxModel


def load_model(source: Source, options: ModelOptions, progress: Progress) -> Model:
    """Load the source with the loader of its kind.

    Raises:
        CheckpointError: weights, configuration or labels are missing or do not fit together.
        UsageError: an option does not fit the model.
    """
    labels, preprocessing = options.labels, options.preprocessing
    match source:
        case TimmName() | CswinPvtName():
            return _load_name(source, options, progress)
        case HubFolder():
            return _load_folder(source, options)
        case HubRepo():
            return _load_repo(source, options, progress)
        case OnnxFile():
            return load_onnx(source, labels=labels, preprocessing=preprocessing, progress=progress)
        case ExportedProgramFile():
            return load_program(source, labels=labels, preprocessing=preprocessing)
        case Factory():
            return load_factory(
                source,
                weights=options.weights,
                labels=labels,
                preprocessing=preprocessing,
                input_size=options.input_size,
            )


def _load_name(source: TimmName | CswinPvtName, options: ModelOptions, progress: Progress) -> TorchModel:
    if isinstance(source, TimmName):
        return load_timm(source, **vars(options), progress=progress)
    return load_variant(source, **vars(options))


def _load_folder(source: HubFolder, options: ModelOptions) -> TorchModel:
    load = load_transformers if is_transformers_folder(source.path) else load_timm_folder
    return load(source, labels=options.labels, preprocessing=options.preprocessing, input_size=options.input_size)


def _load_repo(source: HubRepo, options: ModelOptions, progress: Progress) -> TorchModel:
    snapshot = download_snapshot(source, progress)
    model = _load_folder(HubFolder(snapshot.folder), options)
    return replace(model, card=replace(model.card, name=source.name, source=str(source), revision=snapshot.revision))
