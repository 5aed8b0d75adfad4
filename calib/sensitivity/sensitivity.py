"""Sensitivity: the error of each int8 layer's output, and of the logits when it alone, or all but it, is int8.

    FP32 graph ──▶ layer by layer: its result from the int8 part ──▶ rest of the FP32 graph ──▶ logits: only it
    Q/DQ graph ──▶ layer by layer: its result from the FP32 part ──▶ rest of the Q/DQ graph ──▶ logits: all but it

Both walks carry the values that some images have so far, so that each layer costs the rest of the network behind it:
half a network for each layer and image, on average. Q/DQ is computed as it is written, in floating point; the engine's
own result is measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import MODEL_ONNX, Bundle
from vitedge.bundle.model_card import Activation
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.dataset import DatasetDigest, ImageDataset
from vitedge.calib.quantization.graph_parts import Values
from vitedge.calib.quantization.layerwise import LayerwiseRun, logits_of
from vitedge.calib.quantization.parallel import parallel_map
from vitedge.calib.sensitivity.paired_graphs import PairedGraphs, Part, pair_graphs
from vitedge.calib.sensitivity.result import Effect, LayerNoise, LayerSensitivity, Sensitivity, relative_noise
from vitedge.counts import counted
from vitedge.errors import ConversionError, UsageError
from vitedge.graph.files import bundle_graph
from vitedge.graph.session import open_part
from vitedge.metrics import SQNR_CAP_DB, binary_kl_divergence, kl_divergence, sqnr_db
from vitedge.progress import Progress, Silent
from vitedge.runtime.preprocess.preprocessor import Preprocessor

if TYPE_CHECKING:
    import onnx_ir as ir

Floats = NDArray[np.float32]

LAYER_IMAGES = 16
"""Enough for the order of the layers; what a bundle loses as a whole is measured on many more."""

EXCHANGED = "exchanged result"


def measure_sensitivity(
    pair: PairedGraphs,
    frames: NDArray[np.uint8],
    progress: Progress = Silent(),  # noqa: B008
    *,
    activation: Activation = "softmax",
    temperature: float = 1.0,
) -> Sensitivity:
    """Measure the sensitivity of every quantized layer, by exchanging one layer at a time.

    Args:
        pair: uint8 ``frame`` ``(1,H,W,3)`` in, ``logits`` ``(1,classes)`` out.
        frames: ``(N,H,W,3)`` uint8, preprocessed.
        progress: told of every layer, twice.
        activation: of the model; decides what a flip is, and which scores the divergence is of.
        temperature: of the quantized bundle; the divergence is of scores with it, in both graphs.

    Raises:
        ConversionError: ONNX Runtime cannot run a graph on these frames.
        MissingExtraError: ONNX or ONNX Runtime is not installed.
    """
    full, quantized = pair.full_model, pair.quantized_model
    exchanges = chain(
        _quantized_alone(pair, frames),
        _exchanges(quantized, full, {each.result: each.full for each in pair.layers}, frames),
    )
    count = len(pair.layers)
    done = list(progress.track(exchanges, total=2 * count, unit="layers"))
    only, all_but = ({each.result: each for each in half} for half in (done[:count], done[count:]))
    reference, whole = logits_of(full, frames), logits_of(quantized, frames)
    effect = partial(_effect, reference, activation=activation, temperature=temperature)
    layers = tuple(
        LayerSensitivity(
            name=layer.name,
            operator=layer.operator,
            multiplications=layer.fan_in * only[layer.result].size,
            output_sqnr_db=only[layer.result].output_sqnr_db,
            only=effect(only[layer.result].logits),
            all_but=effect(all_but[layer.result].logits),
        )
        for layer in pair.layers
    )
    return Sensitivity(len(frames), effect(whole), layers)


def measure_noise(
    pair: PairedGraphs,
    frames: NDArray[np.uint8],
    progress: Progress = Silent(),  # noqa: B008
) -> tuple[LayerNoise, ...]:
    """Measure the noise of every quantized layer alone, which takes half the time of ``measure_sensitivity``.

    Args:
        pair: uint8 ``frame`` ``(1,H,W,3)`` in, ``logits`` ``(1,classes)`` out.
        frames: ``(N,H,W,3)`` uint8, preprocessed.
        progress: told of every layer.

    Returns:
        The layers, in the order of the graph.

    Raises:
        ConversionError: ONNX Runtime cannot run a graph on these frames.
    """
    reference, layers = logits_of(pair.full_model, frames), {layer.result: layer for layer in pair.layers}
    return tuple(
        LayerNoise(
            name=layers[each.result].name,
            multiplications=layers[each.result].fan_in * each.size,
            noise=relative_noise(sqnr_db(reference, each.logits)),
        )
        for each in progress.track(_quantized_alone(pair, frames), total=len(layers), unit="layers")
    )


def bundle_sensitivity(bundle: Bundle, against: Bundle, images: ImageDataset, progress: Progress) -> Sensitivity:
    """Measure the sensitivity of an int8 bundle's layers.

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
                fix="against=BUNDLE, converted with precision='fp32' from the same source",
            )
    try:
        pair = pair_graphs(bundle_graph(against, MODEL_ONNX), bundle_graph(bundle, MODEL_ONNX))
    except ConversionError as error:
        raise UsageError(f"{bundle.path}, {against.path}: {error.problem}", expected=error.expected) from error
    frames = layer_frames(images, bundle.manifest.model.preprocessing)
    progress.step(
        f"measuring what each of {counted(len(pair.layers), 'layer')} costs, on {counted(len(frames), 'image')}"
    )
    activation, confidence = bundle.manifest.model.activation, bundle.manifest.confidence
    temperature = 1.0 if confidence is None else confidence.temperature
    return measure_sensitivity(pair, frames, progress, activation=activation, temperature=temperature)


def layer_frames(images: ImageDataset, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Read some of the images, spread evenly over them, as network inputs ``(N,H,W,3)`` uint8.

    Raises:
        CalibrationError: none of them can be read.
        MissingExtraError: Pillow is not installed.
    """
    places = np.linspace(0, len(images) - 1, min(LAYER_IMAGES, len(images))).round().astype(int)
    digest, preprocess = DatasetDigest(), Preprocessor(preprocessing)
    with closing(images.subset([images.files[place] for place in places]).decode()) as pictures:
        return np.stack([preprocess(pixels, order="RGB") for _, pixels in digest.readable(pictures, preprocessing)])


@dataclass(frozen=True)
class _Exchange:
    """A layer that was computed as in the other graph.

    Attributes:
        result: its name.
        size: numbers in it.
        output_sqnr_db: of the exchanged result, against this graph's result.
        logits: ``(N, classes)``.
    """

    result: str
    size: int
    output_sqnr_db: float
    logits: Floats


def _quantized_alone(pair: PairedGraphs, frames: NDArray[np.uint8]) -> Iterator[_Exchange]:
    """Quantize one layer after the other, each alone."""
    parts = {each.result: each.quantized for each in pair.layers}
    return _exchanges(pair.full_model, pair.quantized_model, parts, frames)


def _exchanges(
    model: ir.Model, other: ir.Model, parts: Mapping[str, Part], frames: NDArray[np.uint8]
) -> Iterator[_Exchange]:
    """Exchange one layer after the other, in the graph's order.

    Args:
        model: is run.
        other: gives the layers, one at a time.
        parts: of ``other``, by the results of the layers.
        frames: ``(N,H,W,3)`` uint8.
    """
    run = LayerwiseRun(model, frames)
    producers = {str(value.name): node for node in model.graph for value in node.outputs if value.name in parts}
    for index, (result, node) in enumerate(producers.items()):
        needed = {name for each in list(producers)[index:] for name in parts[each].inputs}
        run.pass_node(node, keep={result, *needed})
        yield _exchange(run, model, _part_function(other, parts[result], result, run.values[0]), result)


def _exchange(run: LayerwiseRun, model: ir.Model, part: Callable[[Values], Floats], result: str) -> _Exchange:
    own = np.stack([values[result] for values in run.values])
    for values, found in zip(run.values, parallel_map(part, run.values), strict=True):
        values[EXCHANGED] = found
    exchanged = np.stack([values[EXCHANGED] for values in run.values])
    if result in [output.name for output in model.graph.outputs]:
        logits = exchanged.reshape(len(exchanged), -1)
    else:
        rest = run.rest(EXCHANGED, result)
        images = range(len(run.values))
        logits = np.stack(list(parallel_map(lambda image: rest.finish(rest.begin(_unchanged, image)), images)))
    alike = np.array_equal(own, exchanged)  # a layer that gives nothing but zeros in both
    return _Exchange(result, own[0].size, SQNR_CAP_DB if alike else sqnr_db(own, exchanged), logits)


def _part_function(model: ir.Model, part: Part, result: str, example: Values) -> Callable[[Values], Floats]:
    inputs = {name: example[name] for name in part.inputs}
    session = open_part(model, part.nodes, inputs, [result], threads=1)

    def run(values: Values) -> Floats:
        return np.asarray(session.run([result], {name: values[name] for name in inputs})[0])

    return run


def _effect(reference: Floats, logits: Floats, activation: Activation, temperature: float) -> Effect:
    """Compare logits; an image of a multi-label model flips where a score crosses 0.5."""
    if activation == "sigmoid":
        flips = int(((logits >= 0) != (reference >= 0)).any(axis=1).sum())
        divergence = binary_kl_divergence(reference / temperature, logits / temperature)
    else:
        flips = int((logits.argmax(axis=1) != reference.argmax(axis=1)).sum())
        divergence = kl_divergence(reference / temperature, logits / temperature)
    return Effect(sqnr_db(reference, logits), flips, float(divergence.mean()))


def _unchanged(values: Floats) -> Floats:
    return values
