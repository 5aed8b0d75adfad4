"""vitedge takes Vision Transformers from a checkpoint to a measured, self-checking engine on an edge device.

    bundle = vitedge.convert("timm:deit_tiny_patch16_224", target="cpu", precision="int8", calib="images/")
    with vitedge.load(bundle) as classifier:
        classifier.classify(frame)

The public API is ``__all__``. Each name is imported when it is first used, and brings no library but numpy: functions
import what they need when they are called. Modules of ``vitedge`` whose names are not in ``__all__`` are internal.
"""

from vitedge.safety import search_path as _search_path  # noqa: F401  # first: see there

# isort: split
import importlib as _importlib
from typing import TYPE_CHECKING

from vitedge import _hints
from vitedge.safety import telemetry as _telemetry
from vitedge.version import VERSION

__version__ = VERSION

_hints.check_installed(str(__path__[0]).rpartition("/")[0])
_telemetry.disable()  # before any library is imported

if TYPE_CHECKING:
    from vitedge import errors, testing
    from vitedge.bundle.bundle import Bundle
    from vitedge.bundle.preprocessing import Preprocessing
    from vitedge.bundle.signatures import PublicKey
    from vitedge.bundle.signing import new_key, sign
    from vitedge.bundle.targets import Target
    from vitedge.converters.convert import convert
    from vitedge.converters.integrations.export import Export, export
    from vitedge.errors import (
        BrokenExtraError,
        BundleError,
        BundleIntegrityError,
        BundleSchemaError,
        BundleSignatureError,
        CalibrationError,
        CheckpointError,
        ConversionError,
        EngineError,
        FrameSourceError,
        MissingExtraError,
        OutputError,
        UsageError,
        VitedgeError,
    )
    from vitedge.prediction import ClassScore, Prediction, StageTimes
    from vitedge.progress import Progress, Silent, Terminal
    from vitedge.report.evaluation_text import EvaluationReport
    from vitedge.runtime import outputs
    from vitedge.runtime.bench.measure import BenchReport, bench
    from vitedge.runtime.classifier import Classifier
    from vitedge.runtime.engines.tensorrt.build.build import build
    from vitedge.runtime.engines.tensorrt.build_record import BuildRecord
    from vitedge.runtime.load import load
    from vitedge.runtime.preprocess.planes import YuvPlanes
    from vitedge.runtime.sources.base import Frame, FrameSource
    from vitedge.runtime.sources.iterables import FrameIterable
    from vitedge.runtime.sources.open import open_source
    from vitedge.runtime.sources.options import CameraOptions, NetworkOptions, PictureOptions, SourceOptions
    from vitedge.runtime.sources.stream_list import read_streams
    from vitedge.runtime.sources.test_picture import read_frame_number
    from vitedge.runtime.stream.cameras.streams import Streams, StreamsStats
    from vitedge.runtime.stream.reconnect import Reconnect
    from vitedge.runtime.stream.states import StateChange
    from vitedge.runtime.stream.stats import StreamStats
    from vitedge.runtime.stream.stream import Stream
    from vitedge.verbs.doctor import Diagnosis, doctor
    from vitedge.verbs.evaluate import evaluate
    from vitedge.verbs.inspect import GraphInspection, Inspection, inspect, inspect_graph
    from vitedge.verbs.models import KnownModel, ModelPeer, models
    from vitedge.verbs.targets import targets

__all__ = [
    "BenchReport",
    "BrokenExtraError",
    "BuildRecord",
    "Bundle",
    "BundleError",
    "BundleIntegrityError",
    "BundleSchemaError",
    "BundleSignatureError",
    "CalibrationError",
    "CameraOptions",
    "CheckpointError",
    "ClassScore",
    "Classifier",
    "ConversionError",
    "Diagnosis",
    "EngineError",
    "EvaluationReport",
    "Export",
    "Frame",
    "FrameIterable",
    "FrameSource",
    "FrameSourceError",
    "GraphInspection",
    "Inspection",
    "KnownModel",
    "MissingExtraError",
    "ModelPeer",
    "NetworkOptions",
    "OutputError",
    "PictureOptions",
    "Prediction",
    "Preprocessing",
    "Progress",
    "PublicKey",
    "Reconnect",
    "Silent",
    "SourceOptions",
    "StageTimes",
    "StateChange",
    "Stream",
    "StreamStats",
    "Streams",
    "StreamsStats",
    "Target",
    "Terminal",
    "UsageError",
    "VitedgeError",
    "YuvPlanes",
    "__version__",
    "bench",
    "build",
    "convert",
    "doctor",
    "errors",
    "evaluate",
    "export",
    "inspect",
    "inspect_graph",
    "load",
    "models",
    "new_key",
    "open_source",
    "outputs",
    "read_frame_number",
    "read_streams",
    "sign",
    "targets",
    "testing",
]

_WHERE = {
    "BenchReport": "vitedge.runtime.bench.measure",
    "BrokenExtraError": "vitedge.errors",
    "BuildRecord": "vitedge.runtime.engines.tensorrt.build_record",
    "Bundle": "vitedge.bundle.bundle",
    "BundleError": "vitedge.errors",
    "BundleIntegrityError": "vitedge.errors",
    "BundleSchemaError": "vitedge.errors",
    "BundleSignatureError": "vitedge.errors",
    "CalibrationError": "vitedge.errors",
    "CameraOptions": "vitedge.runtime.sources.options",
    "CheckpointError": "vitedge.errors",
    "ClassScore": "vitedge.prediction",
    "Classifier": "vitedge.runtime.classifier",
    "ConversionError": "vitedge.errors",
    "Diagnosis": "vitedge.verbs.doctor",
    "EngineError": "vitedge.errors",
    "EvaluationReport": "vitedge.report.evaluation_text",
    "Export": "vitedge.converters.integrations.export",
    "Frame": "vitedge.runtime.sources.base",
    "FrameIterable": "vitedge.runtime.sources.iterables",
    "FrameSource": "vitedge.runtime.sources.base",
    "FrameSourceError": "vitedge.errors",
    "GraphInspection": "vitedge.verbs.inspect",
    "Inspection": "vitedge.verbs.inspect",
    "KnownModel": "vitedge.verbs.models",
    "MissingExtraError": "vitedge.errors",
    "ModelPeer": "vitedge.verbs.models",
    "NetworkOptions": "vitedge.runtime.sources.options",
    "OutputError": "vitedge.errors",
    "PictureOptions": "vitedge.runtime.sources.options",
    "Prediction": "vitedge.prediction",
    "Preprocessing": "vitedge.bundle.preprocessing",
    "Progress": "vitedge.progress",
    "PublicKey": "vitedge.bundle.signatures",
    "Reconnect": "vitedge.runtime.stream.reconnect",
    "Silent": "vitedge.progress",
    "SourceOptions": "vitedge.runtime.sources.options",
    "StageTimes": "vitedge.prediction",
    "StateChange": "vitedge.runtime.stream.states",
    "Stream": "vitedge.runtime.stream.stream",
    "StreamStats": "vitedge.runtime.stream.stats",
    "Streams": "vitedge.runtime.stream.cameras.streams",
    "StreamsStats": "vitedge.runtime.stream.cameras.streams",
    "Target": "vitedge.bundle.targets",
    "Terminal": "vitedge.progress",
    "UsageError": "vitedge.errors",
    "VitedgeError": "vitedge.errors",
    "YuvPlanes": "vitedge.runtime.preprocess.planes",
    "bench": "vitedge.runtime.bench.measure",
    "build": "vitedge.runtime.engines.tensorrt.build.build",
    "convert": "vitedge.converters.convert",
    "doctor": "vitedge.verbs.doctor",
    "errors": "vitedge.errors:",
    "evaluate": "vitedge.verbs.evaluate",
    "export": "vitedge.converters.integrations.export",
    "inspect": "vitedge.verbs.inspect",
    "inspect_graph": "vitedge.verbs.inspect",
    "load": "vitedge.runtime.load",
    "models": "vitedge.verbs.models",
    "new_key": "vitedge.bundle.signing",
    "open_source": "vitedge.runtime.sources.open",
    "outputs": "vitedge.runtime.outputs:",
    "read_frame_number": "vitedge.runtime.sources.test_picture",
    "read_streams": "vitedge.runtime.sources.stream_list",
    "sign": "vitedge.bundle.signing",
    "targets": "vitedge.verbs.targets",
    "testing": "vitedge.testing:",
}
"""The module of each public name; after a colon, its name there if that differs, or nothing for the module itself."""


if not TYPE_CHECKING:  # a type checker that saw it would take any name

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used."""
        if name not in _WHERE:
            raise AttributeError(f"module 'vitedge' has no attribute {name!r}; {_hints.unknown_name(name, __all__)}")
        module, colon, attribute = _WHERE[name].partition(":")
        imported = _importlib.import_module(module)
        value: object = imported if colon and not attribute else getattr(imported, attribute or name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return list(__all__)


_hints.NearestModule(__all__).install()
