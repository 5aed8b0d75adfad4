"""Export for DeepStream: a configuration of its ``nvinfer`` element, a graph that ``nvinfer`` can feed, and labels.

``nvinfer`` feeds ``net-scale-factor · (pixel − offset)`` in float32, never bytes: its sources write through ``float *``
(``NvDsInferConvert_C3ToL3Float`` and its kin). Its classifier reads probabilities. So the graph takes float32 frames of
0…255 here and ends in a softmax; scale 1 and no offsets leave the normalization where it is, in the graph. ``nvinfer``
builds no strongly typed engine, so the configuration names a plan, which ``trtexec`` builds, and no graph to fall back
on.
"""

from __future__ import annotations

from pathlib import Path

from vitedge.bundle.bundle import MODEL_ONNX, Bundle
from vitedge.bundle.manifest import Manifest
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.bundle.targets import TARGETS, Target, target_named
from vitedge.converters.integrations.built import built_plan
from vitedge.converters.integrations.float_frames import PROBABILITIES, check_same, with_float_frames
from vitedge.converters.integrations.graphs import read_graph
from vitedge.converters.integrations.label_text import label_text
from vitedge.errors import UsageError
from vitedge.graph.files import write_graph
from vitedge.runtime.engines.tensorrt.build.trtexec import build_command
from vitedge.safety.escape import ini

CONFIGURATION = "nvinfer.txt"
GRAPH = "model.onnx"
PLAN = "model.plan"
LABELS = "labels.txt"

EXAMPLE_FRAME = (1080, 1920)
SEPARATOR = ";"

MODEL_COLOR_FORMATS = {"RGB": 0, "BGR": 1}
SCALING_FILTERS = {"nearest": 0, "bilinear": 1, "hamming": 1, "bicubic": 2, "box": 3, "lanczos": 4}
"""``scaling-filter``, by the numbers of ``NvBufSurfTransform_Inter``: Nearest, Bilinear, Cubic, Super, Lanczos."""


def write_deepstream(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    """Write the configuration, the graph and the labels.

    The graph is the faster one on the device if the device has built the bundle, else the graph of the bundle's
    precision.

    Args:
        bundle: a bundle for a target of TensorRT.
        folder: an empty folder.

    Returns:
        Notes for the user, a sentence each.

    Raises:
        UsageError: the bundle is for a target that DeepStream cannot run, or a label has a semicolon or is no line of
            text.
        BundleIntegrityError: a file of the bundle was altered, or its graph cannot be read.
        ConversionError: the graph does not take floating-point frames.
    """
    manifest, target = bundle.manifest, _target(bundle)
    if manifest.model.is_multilabel:
        raise UsageError(
            f"nvinfer's classifier names the best class of a frame, and {bundle.path} gives any number of labels",
            expected="a bundle of one class an image",
            fix="run it with vitedge, or export it for Triton",
        )
    labels = label_text(manifest.model.labels, separator=SEPARATOR, tool="DeepStream")  # on one line: one output layer
    temperature = 1.0 if manifest.confidence is None else manifest.confidence.temperature
    plan = built_plan(bundle)
    name = MODEL_ONNX if plan is None else plan.record.kept
    graph = read_graph(bundle, name)
    changed = with_float_frames(graph, temperature)
    check_same(graph, changed, bundle.golden().frames, temperature)
    write_graph(folder / GRAPH, changed)
    (folder / LABELS).write_text(labels, encoding="utf-8")
    command = build_command(target, Path(GRAPH), Path(PLAN))
    (folder / CONFIGURATION).write_text(configuration(manifest, name, command), encoding="utf-8")
    return (
        f"build the engine on the device, in this folder: {command}",
        f"then: nvinfer config-file-path={CONFIGURATION}",
    )


def _target(bundle: Bundle) -> Target:
    target = target_named(bundle.manifest.target)
    if target.tensorrt is None or target.tensorrt.module != "tensorrt":
        names = [
            each.name for each in TARGETS if each.tensorrt and each.tensorrt.module == "tensorrt" and not each.refusal
        ]
        raise UsageError(
            f"DeepStream runs TensorRT, and {bundle.path} was made for {target.name}",
            expected=f"a bundle for one of {', '.join(names)}",
            fix="convert the model with target='jetson-orin-nano', or the name of your device",
        )
    return target


def configuration(manifest: Manifest, graph: str, command: str) -> str:
    """Write the text of ``nvinfer.txt``.

    Args:
        manifest: manifest of the bundle.
        graph: name of the exported graph.
        command: command that builds the engine.
    """
    preprocessing = manifest.model.preprocessing
    threshold = 0.0 if manifest.confidence is None else manifest.confidence.threshold
    keeps_ratio = int(preprocessing.resize_mode == "border")
    return f"""\
# {ini(_title(manifest, graph))}
# Build the engine on the device first, in this folder, as nvinfer would not build it strongly typed:
#   {ini(command)}
{_view(preprocessing)}

[property]
gpu-id=0
gie-unique-id=1
model-engine-file={PLAN}
labelfile-path={LABELS}
batch-size=1
# 1: classifier
network-type=1
# 1: whole frames; 2: the objects that a detector before it found
process-mode=1
# 1: NHWC
network-input-order=1
# 0: RGB, 1: BGR
model-color-format={MODEL_COLOR_FORMATS[preprocessing.channel_order]}
# the graph normalizes
net-scale-factor=1.0
maintain-aspect-ratio={keeps_ratio}
symmetric-padding={keeps_ratio}
scaling-filter={SCALING_FILTERS[preprocessing.interpolation]}
output-blob-names={PROBABILITIES}
classifier-threshold={threshold:.6g}
"""


def _title(manifest: Manifest, graph: str) -> str:
    precision = manifest.precision.asked
    return f"{manifest.model.name} ({precision}, {graph}) for DeepStream, by vitedge {manifest.vitedge_version}."


def _view(preprocessing: Preprocessing) -> str:
    """Describe in comments the part of a frame that ``nvinfer`` sees, and the part that vitedge sees."""
    height, width = preprocessing.input_size
    if preprocessing.resize_mode == "border":
        return (
            f"# nvinfer fits the whole frame into {width}x{height} and pads with black; vitedge pads with "
            f"{preprocessing.padding}."
        )
    left, top, crop_width, crop_height = window(preprocessing, *EXAMPLE_FRAME)
    if (left, top) == (0, 0):
        return f"# nvinfer resizes the whole frame to {width}x{height}, as vitedge does, with another filter."
    frame = f"{EXAMPLE_FRAME[1]}x{EXAMPLE_FRAME[0]}"
    return (
        f"# nvinfer resizes the whole frame to {width}x{height}; vitedge looks at the middle of it. For the same view\n"
        f"# of {frame} frames: nvvideoconvert src-crop={left}:{top}:{crop_width}:{crop_height} before nvstreammux."
    )


def window(preprocessing: Preprocessing, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the part of a frame that the network sees: (left, top, width, height), even numbers as in NV12."""
    geometry = preprocessing.geometry(height, width)
    rows, columns = height / geometry.resized[0], width / geometry.resized[1]
    top, left = max(0, geometry.offset[0]), max(0, geometry.offset[1])
    seen_rows = min(preprocessing.input_size[0], geometry.resized[0])
    seen_columns = min(preprocessing.input_size[1], geometry.resized[1])
    return (_even(left * columns), _even(top * rows), _even(seen_columns * columns), _even(seen_rows * rows))


def _even(pixels: float) -> int:
    return 2 * round(pixels / 2)
