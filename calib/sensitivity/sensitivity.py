"""What each int8 layer costs: in its own output, in the logits when it alone is int8, and when all but it are.

    FP32 graph ──▶ layer by layer: its result from the int8 region ──▶ rest of the FP32 graph ──▶ logits: only it
    Q/DQ graph ──▶ layer by layer: its result from the FP32 region ──▶ rest of the Q/DQ graph ──▶ logits: all but it

Both walks carry what some images have become so far, so that each layer costs the part of the network behind it: half
a network for each layer and image, on average. Q/DQ is computed as it is written, in floating point; what the engine
makes of the graph is measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import MODEL_ONNX, Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.dataset import DatasetDigest, ImageDataset
from vitedge.calib.quantization.layerwise import Stream
from vitedge.calib.quantization.working_graph import Values, WorkingGraph, runner
from vitedge.calib.sensitivity.paired_graphs import Region, Twins, find_twins
from vitedge.errors import BundleError, ConversionError, UsageError
from vitedge.extras import require
from vitedge.metrics import SQNR_CAP_DB, kl_divergence, sqnr_db
from vitedge.progress import Progress, Silent
from vitedge.runtime.preprocess.preprocessor import Preprocessor

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float32]

LAYER_IMAGES = 16
"""Enough for the order of the layers; what a bundle loses as a whole is measured on many more."""

EXCHANGED = "exchanged result"


@dataclass(frozen=True)
class Effect:
    """What becomes of the logits.

    Attributes:
        sqnr_db: against those of the FP32 graph.
        flips: images with another best class.
        kl: mean Kullback-Leibler divergence of the softmax from that of the FP32 graph, in nats.
    """

    sqnr_db: float
    flips: int
    kl: float


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer does.

    Attributes:
        name: of the layer.
        operator: ``Conv``, ``Gemm`` or ``MatMul``.
        multiplications: that it takes for an image.
        output_sqnr_db: of its result, where it alone is int8.
        only: where it alone is int8.
        all_but: where all others are.
    """

    name: str
    operator: str
    multiplications: int
    output_sqnr_db: float
    only: Effect
    all_but: Effect


@dataclass(frozen=True)
class Sensitivity:
    """What all of them do.

    Attributes:
        images: how many it was measured on.
        whole: where all are int8.
        layers: in the order of the graph.
    """

    images: int
    whole: Effect
    layers: tuple[LayerSensitivity, ...]

    def worst_first(self) -> tuple[LayerSensitivity, ...]:
        """The layers by what they do to the logits alone."""
        return tuple(sorted(self.layers, key=lambda each: each.only.sqnr_db))


def measure_sensitivity(
    twins: Twins,
    frames: NDArray[np.uint8],
    progress: Progress = Silent(),  # noqa: B008
) -> Sensitivity:
    """Exchange every quantized layer, one at a time.

    Args:
        twins: uint8 ``frame`` ``(1,H,W,3)`` in, ``logits`` ``(1,classes)`` out.
        frames: ``(N,H,W,3)`` uint8, preprocessed.
        progress: told of every layer, twice.

    Raises:
        ConversionError: ONNX Runtime cannot run a graph on these frames.
        MissingExtraError: ONNX or ONNX Runtime is not installed.
    """
    full, quantized = WorkingGraph.as_it_is(twins.full), WorkingGraph.as_it_is(twins.quantized)
    exchanges = chain(
        _exchanges(full, quantized, {each.result: each.quantized for each in twins.layers}, frames),
        _exchanges(quantized, full, {each.result: each.full for each in twins.layers}, frames),
    )
    count = len(twins.layers)
    done = list(progress.track(exchanges, total=2 * count, unit="layers"))
    only, all_but = ({each.result: each for each in half} for half in (done[:count], done[count:]))
    reference, whole = _logits(full, frames), _logits(quantized, frames)
    layers = tuple(
        LayerSensitivity(
            name=layer.name,
            operator=layer.operator,
            multiplications=layer.fan_in * only[layer.result].size,
            output_sqnr_db=only[layer.result].output_sqnr_db,
            only=_effect(reference, only[layer.result].logits),
            all_but=_effect(reference, all_but[layer.result].logits),
        )
        for layer in twins.layers
    )
    return Sensitivity(len(frames), _effect(reference, whole), layers)


def bundle_sensitivity(bundle: Bundle, against: Bundle, images: ImageDataset, progress: Progress) -> Sensitivity:
    """That of an int8 bundle's layers.

    Args:
        bundle: int8.
        against: the same model in fp32.
        images: some of them are used, spread evenly.
        progress: told of every layer, twice.

    Raises:
        UsageError: they are not an int8 and an fp32 bundle, or not of one model.
        CalibrationError: none of the images can be read.
        MissingExtraError: ONNX, ONNX Runtime or Pillow is not installed.
    """
    wanted = ((bundle, "int8"), (against, "fp32"))
    for each, precision in wanted:
        if each.manifest.precision.asked != precision:
            raise UsageError(
                f"{each.path} is {each.manifest.precision.asked}",
                expected="an int8 bundle, against the fp32 bundle of the same model",
                fix="--against BUNDLE, converted with --precision fp32 from the same source",
            )
    try:
        twins = find_twins(_graph(against), _graph(bundle))
    except ConversionError as error:
        raise UsageError(f"{bundle.path}, {against.path}: {error.problem}", expected=error.expected) from error
    frames = layer_frames(images, bundle.manifest.model.preprocessing)
    progress.step(f"measuring what each of {len(twins.layers)} layers costs, on {len(frames)} images")
    return measure_sensitivity(twins, frames, progress)


def _graph(bundle: Bundle) -> onnx.ModelProto:
    """The bundle's graph.

    Raises:
        BundleError: it cannot be read, or is none.
    """
    load = require("onnx", extra="convert", purpose="measuring the layers").load_model_from_string
    content = bundle.read_graph(MODEL_ONNX)
    try:
        graph: onnx.ModelProto = load(content)
    except Exception as error:  # protobuf's have no other base
        raise BundleError(f"{bundle.file(MODEL_ONNX)} is no ONNX graph: {error}", fix="convert again") from error
    return graph


def layer_frames(images: ImageDataset, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Some of the images as network inputs, spread evenly over them: ``(N,H,W,3)`` uint8.

    Raises:
        CalibrationError: none of them can be read.
        MissingExtraError: Pillow is not installed.
    """
    places = np.linspace(0, len(images) - 1, min(LAYER_IMAGES, len(images))).round().astype(int)
    digest, preprocess = DatasetDigest(), Preprocessor(preprocessing)
    with closing(images.subset([images.files[place] for place in places]).decode()) as pictures:
        return np.stack([preprocess(pixels, order="RGB") for _, pixels in digest.readable(pictures)])


@dataclass(frozen=True)
class _Exchange:
    """A layer that was computed as in the other graph.

    Attributes:
        result: its name.
        size: numbers in it.
        output_sqnr_db: of the exchanged result, against that of this graph.
        logits: ``(N, classes)``.
    """

    result: str
    size: int
    output_sqnr_db: float
    logits: Floats


def _exchanges(
    graph: WorkingGraph, other: WorkingGraph, regions: Mapping[str, Region], frames: NDArray[np.uint8]
) -> Iterator[_Exchange]:
    """Exchange one layer after the other, in the graph's order.

    Args:
        graph: that is run.
        other: that the layers are taken from, one at a time.
        regions: of ``other``, by the results of the layers.
        frames: ``(N,H,W,3)`` uint8.
    """
    makers = {name: position for position, node in enumerate(graph.nodes) for name in node.output}
    order, stream = sorted(regions, key=lambda result: makers[result]), Stream(graph, frames)
    for index, result in enumerate(order):
        needed = {name for each in order[index:] for name in regions[each].inputs}
        stream.advance(makers[result] + 1, keep={result, *needed})
        yield _exchange(stream, graph, _region_runner(other, regions[result], result, stream.values[0]), result)


def _exchange(stream: Stream, graph: WorkingGraph, run: Callable[[Values], Floats], result: str) -> _Exchange:
    own = np.stack([values[result] for values in stream.values])
    for values in stream.values:
        values[EXCHANGED] = run(values)
    exchanged = np.stack([values[EXCHANGED] for values in stream.values])
    if result in [output.name for output in graph.model.graph.output]:
        logits = exchanged.reshape(len(exchanged), -1)
    else:
        logits = stream.finisher(EXCHANGED, result)(_as_it_is, range(len(stream.values)))
    alike = np.array_equal(own, exchanged)  # a layer that gives nothing but zeros in both
    return _Exchange(result, own[0].size, SQNR_CAP_DB if alike else sqnr_db(own, exchanged), logits)


def _region_runner(graph: WorkingGraph, region: Region, result: str, example: Values) -> Callable[[Values], Floats]:
    inputs = {name: example[name] for name in region.inputs}
    session = runner(graph.assembled([graph.nodes[each] for each in region.nodes], inputs, [result]))

    def run(values: Values) -> Floats:
        return np.asarray(session.run([result], {name: values[name] for name in inputs})[0])

    return run


def _logits(graph: WorkingGraph, frames: NDArray[np.uint8]) -> Floats:
    stream = Stream(graph, frames)
    stream.advance(len(graph.nodes), keep=())
    (output,) = graph.model.graph.output
    return np.stack([values[output.name].ravel() for values in stream.values])


def _effect(reference: Floats, logits: Floats) -> Effect:
    flips = int((logits.argmax(axis=1) != reference.argmax(axis=1)).sum())
    return Effect(sqnr_db(reference, logits), flips, float(kl_divergence(reference, logits).mean()))


def _as_it_is(values: Floats) -> Floats:
    return values
