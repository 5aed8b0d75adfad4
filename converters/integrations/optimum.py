"""Export for optimum-intel: OpenVINO IR for ``OVModelForImageClassification``, and the configuration of Transformers.

The pipeline of Transformers preprocesses as ``preprocessor_config.json`` says, and takes the softmax of the logits, or
the sigmoid of a multi-label model. Logits are divided by the bundle's temperature, so it gives vitedge's scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from vitedge.bundle.bundle import MODEL_ONNX, OUTPUT_NAME, Bundle, Golden
from vitedge.bundle.manifest import Manifest
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.bundle.targets import target_named
from vitedge.converters.integrations.graphs import read_graph
from vitedge.converters.integrations.image_processor import PRETRAINED_CFG, differences, processor_config, rgb
from vitedge.converters.integrations.pixel_values import PIXEL_VALUES, with_pixel_values
from vitedge.converters.openvino.backend import number_nodes
from vitedge.converters.openvino.reading import read_model
from vitedge.converters.quiet import quiet
from vitedge.converters.sources.transformers.processors import PROCESSOR_CONFIG
from vitedge.errors import ConversionError, UsageError
from vitedge.metrics import sqnr_db
from vitedge.runtime.engines.openvino import DEVICE, configuration

MODEL_XML = "openvino_model.xml"
"""Name that optimum-intel looks for; the weights go beside it."""
CONFIG = "config.json"
PROBLEMS = {"softmax": "single_label_classification", "sigmoid": "multi_label_classification"}


def write_optimum(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    """Write the IR and the two configurations.

    Args:
        bundle: a bundle for the target ``cpu``.
        folder: an empty folder.

    Returns:
        Notes for the user, a sentence each.

    Raises:
        UsageError: the bundle is for a target of TensorRT, or Transformers cannot preprocess as it does.
        BundleIntegrityError: a file of the bundle was altered, or its graph cannot be read.
        ConversionError: the graph computes with bytes, or the IR fails the bundle's self-test.
    """
    manifest = bundle.manifest
    preprocessing = manifest.model.preprocessing
    if target_named(manifest.target).backend != "openvino":
        raise UsageError(
            f"optimum-intel runs OpenVINO, and {bundle.path} was made for {manifest.target}",
            expected="a bundle for the target cpu",
            fix="convert the model with target='cpu'",
        )
    processor = processor_config(preprocessing)
    _write_model(bundle, folder / MODEL_XML)
    _check_model(folder / MODEL_XML, manifest, bundle.golden())
    _write_json(folder / PROCESSOR_CONFIG, processor)
    _write_json(folder / CONFIG, {**model_config(manifest), **(processor if PRETRAINED_CFG in processor else {})})
    return (
        "load it: OVModelForImageClassification.from_pretrained, with this folder and dynamic_shapes=False",
        *_precision_notes(manifest),
        *differences(preprocessing),
        *_threshold_notes(manifest),
    )


def _write_model(bundle: Bundle, file: Path) -> None:
    manifest = bundle.manifest
    graph = read_graph(bundle, MODEL_ONNX)
    try:
        with quiet():
            model = with_pixel_values(read_model(graph), manifest.model.preprocessing, _temperature(manifest))
            number_nodes(model)
            openvino.save_model(model, file, compress_to_fp16=manifest.precision.asked == "fp16")
    except RuntimeError as error:
        raise ConversionError(f"OpenVINO cannot write the model for optimum: {error}") from error


def _temperature(manifest: Manifest) -> float:
    return 1.0 if manifest.confidence is None else manifest.confidence.temperature


def _check_model(file: Path, manifest: Manifest, golden: Golden) -> None:
    """Demand of the written model what every engine of the bundle must reach on the golden vectors.

    Raises:
        ConversionError: it does not reach it, or OpenVINO cannot compile it.
    """
    pixels = pixel_values(golden.frames, manifest.model.preprocessing)
    core = openvino.Core()
    try:
        with quiet():
            hints = configuration(core, manifest.precision.asked, "LATENCY", None)
            compiled = core.compile_model(file, DEVICE, hints)
            logits = np.concatenate([compiled({PIXEL_VALUES: each[None]})[OUTPUT_NAME] for each in pixels])
    except RuntimeError as error:
        raise ConversionError(f"OpenVINO cannot run the model for optimum: {error}") from error
    reached, demanded = sqnr_db(golden.logits, logits * np.float32(_temperature(manifest))), manifest.golden.min_sqnr_db
    if not reached >= demanded:
        raise ConversionError(
            f"the model for optimum reaches {reached:.1f} dB against the golden logits",
            expected=f"{demanded:.1f} dB or more, as the bundle demands of every engine",
        )


def pixel_values(frames: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Normalize ``(N,H,W,3)`` frames in the network's channel order to ``(N,3,H,W)`` RGB pixels."""
    ordered = frames if preprocessing.channel_order == "RGB" else frames[..., ::-1]
    mean, std = (np.array(rgb(preprocessing, each)) for each in (preprocessing.mean, preprocessing.std))
    normalized: NDArray[np.float32] = ((ordered / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    return normalized


def model_config(manifest: Manifest) -> Mapping[str, Any]:
    """Return ``config.json``.

    Transformers knows its own model types alone, so every network is called ``vit`` here. Nothing but the labels and
    the kind of problem is read where optimum runs the IR.
    """
    model = manifest.model
    height, width = model.preprocessing.input_size
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "image_size": height if height == width else [height, width],
        "num_channels": 3,
        "problem_type": PROBLEMS[model.activation],
        "id2label": {str(index): label for index, label in enumerate(model.labels)},
        "label2id": {label: index for index, label in enumerate(model.labels)},
    }


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _precision_notes(manifest: Manifest) -> tuple[str, ...]:
    if manifest.precision.asked != "fp32":
        return ()
    return (
        "some CPUs compute in 16 bits unless told otherwise: for fp32 give from_pretrained "
        "ov_config={'INFERENCE_PRECISION_HINT': 'f32'}",
    )


def _threshold_notes(manifest: Manifest) -> tuple[str, ...]:
    if manifest.model.is_multilabel:
        return ("the pipeline gives the score of every label, and applies no thresholds",)
    if manifest.confidence is not None and manifest.confidence.threshold > 0:
        return (f"the pipeline never abstains: compare its score with {manifest.confidence.threshold:.6g} yourself",)
    return ()
