"""Export for OpenVINO Model API: an IR that takes a BGR image of any size, and preprocesses it as the bundle does.

Model API's own preprocessing has no antialiased filter and no share to crop. An image of a dynamic size goes to the
graph as it is, so the graph resizes and crops. Logits are divided by the bundle's temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.manifest import Manifest
from vitedge.bundle.model_card import LABEL_THRESHOLD
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.bundle.targets import target_named
from vitedge.calib.data.dataset import ImageDataset
from vitedge.calib.data.open import open_dataset
from vitedge.converters.integrations.frame_graph import EXACT, frame_of
from vitedge.converters.integrations.pixel_values import over_temperature
from vitedge.converters.openvino.backend import model_info, number_nodes
from vitedge.converters.quiet import quiet
from vitedge.counts import counted
from vitedge.errors import CalibrationError, ConversionError, UsageError
from vitedge.metrics import wilson_interval
from vitedge.progress import Progress
from vitedge.runtime.engines.openvino import DEVICE, configuration, read_model
from vitedge.runtime.load import load

MODEL_XML = "model.xml"
IMAGE = "image"
NOT_EMBEDDED = ("resize_type", "interpolation_mode", "pad_value")
"""Keys of ``model_info`` for preprocessing that the graph does here."""
LEAST_SIDE = 1


@dataclass(frozen=True)
class Agreement:
    """How often the exported model and the bundle have the same best class.

    Attributes:
        same: number of images with the same best class.
        images: number of images.
        score_difference: greatest difference of a score, 0…1.
    """

    same: int
    images: int
    score_difference: float

    @property
    def summary(self) -> str:
        """Describe the agreement in a phrase."""
        interval = wilson_interval(self.same, self.images)
        percent = f"{100 * self.same / self.images:.1f} %, 95 % interval {interval.low:.1f} to {interval.high:.1f} %"
        return (
            f"the same best class as the bundle on {self.same} of {counted(self.images, 'image')} ({percent}); the "
            f"largest difference of a best score is {self.score_difference:.3f}"
        )


def write_model_api(bundle: Bundle, folder: Path, data: Path | None, progress: Progress) -> tuple[str, ...]:
    """Write the IR, and compare its answers with the bundle's.

    Args:
        bundle: a bundle for the target ``cpu``, full or slim.
        folder: an empty folder.
        data: images to compare on, as for ``vitedge.evaluate``; None compares nothing.
        progress: receives every image.

    Returns:
        Notes for the user, a sentence each.

    Raises:
        UsageError: the bundle is for a target of TensorRT.
        BundleError: a file of the bundle was altered.
        CalibrationError: no image of ``data`` can be read.
        ConversionError: OpenVINO cannot write the model.
        EngineError: the bundle does not pass its self-test here.
    """
    manifest = bundle.manifest
    if target_named(manifest.target).backend != "openvino":
        raise UsageError(
            f"Model API runs OpenVINO here, and {bundle.path} was made for {manifest.target}",
            expected="a bundle for the target cpu",
            fix="convert the model with target='cpu'",
        )
    _write_model(bundle, folder / MODEL_XML)
    agreement = (
        "its agreement with the bundle was not measured: give photos with data="
        if data is None
        else agreement_with(bundle, folder / MODEL_XML, open_dataset(data), progress).summary
    )
    return (
        f"load it: model_api.models.Model.create_model, with {MODEL_XML} of this folder; images are BGR, of any size",
        agreement,
        *_differences(manifest),
    )


def _write_model(bundle: Bundle, file: Path) -> None:
    manifest = bundle.manifest
    try:
        with quiet():
            model = with_images(
                read_model(openvino, openvino.Core(), bundle), manifest.model.preprocessing, _temperature(manifest)
            )
            number_nodes(model)
            for key, value in embedded_info(manifest).items():
                model.set_rt_info(value, ["model_info", key])
            openvino.save_model(model, file, compress_to_fp16=False)
    except RuntimeError as error:
        raise ConversionError(f"OpenVINO cannot write the model for Model API: {error}") from error


def with_images(model: openvino.Model, preprocessing: Preprocessing, temperature: float = 1.0) -> openvino.Model:
    """Make a model that takes ``image``, uint8 ``(1,height,width,3)`` BGR of any size, instead of ``frame``.

    Args:
        model: uint8 ``frame`` (1,H,W,3) in, float32 ``logits`` (1,classes) out; its operators are used again.
        preprocessing: preprocessing of the bundle.
        temperature: ``logits`` are divided by it.
    """
    sides = openvino.Dimension(LEAST_SIDE, -1)
    image = openvino.op.Parameter(openvino.Type.u8, openvino.PartialShape([1, sides, sides, 3]))
    image.set_friendly_name(IMAGE)
    image.output(0).get_tensor().set_names({IMAGE})
    image.set_layout(openvino.Layout("NHWC"))
    frame = frame_of(image.output(0), preprocessing)
    model.input(0).get_node().output(0).replace(frame)
    return openvino.Model([over_temperature(model, temperature)], [image], model.get_friendly_name())


def embedded_info(manifest: Manifest) -> Mapping[str, str]:
    """Describe the model for Model API: labels and scores, and that the graph preprocesses."""
    info = {key: value for key, value in model_info(manifest.model).items() if key not in NOT_EMBEDDED}
    info |= {"embedded_processing": "True", "reverse_input_channels": "NO"}
    if manifest.model.is_multilabel:
        info["confidence_threshold"] = str(_threshold(manifest))
    return info


def _threshold(manifest: Manifest) -> float:
    """Return the threshold that all labels share; 0.5 if they have several."""
    thresholds = set(manifest.label_thresholds or ())
    return thresholds.pop() if len(thresholds) == 1 else LABEL_THRESHOLD


def _temperature(manifest: Manifest) -> float:
    return 1.0 if manifest.confidence is None else manifest.confidence.temperature


def agreement_with(bundle: Bundle, file: Path, images: ImageDataset, progress: Progress) -> Agreement:
    """Classify images with the exported model and with the bundle.

    Raises:
        CalibrationError: no image can be read.
        EngineError: the bundle does not pass its self-test here.
    """
    progress.step(f"comparing with the bundle on {counted(len(images), 'image')} of {images.path}")
    core = openvino.Core()
    compiled = core.compile_model(file, DEVICE, configuration(core, bundle.manifest.precision.asked, "LATENCY", None))
    same, count, difference, temperature = 0, 0, 0.0, _temperature(bundle.manifest)
    with load(bundle) as classifier, closing(images.decode()) as decoded:
        for image in progress.track(decoded, total=len(images), unit="images"):
            if image.pixels is None:
                continue
            pixels = classifier.oriented(image.pixels, image.orientation)
            ours = classifier.logits(pixels, order="RGB")
            theirs = compiled([np.ascontiguousarray(pixels[..., ::-1])[None]])[0][0] * np.float32(temperature)
            count += 1
            same += int(ours.argmax() == theirs.argmax())
            (first, *_), (second, *_) = classifier.rank(ours, 1), classifier.rank(theirs, 1)
            difference = max(difference, abs(first.score - second.score))
    if not count:
        raise CalibrationError(f"no image of {images.path} can be read", expected="photos")
    return Agreement(same, count, difference)


def _differences(manifest: Manifest) -> tuple[str, ...]:
    """Tell what the exported model cannot match."""
    preprocessing, confidence, notes = manifest.model.preprocessing, manifest.confidence, list[str]()
    if preprocessing.interpolation not in EXACT:
        notes.append(
            f"OpenVINO has no {preprocessing.interpolation} filter: the nearest one that it has takes its place"
        )
    turned = "upright" if preprocessing.exif_orientation else "as they are stored (cv2.IMREAD_IGNORE_ORIENTATION)"
    notes.append(f"Model API turns no image: read photos {turned}, as the bundle does")
    if any(" " in label for label in manifest.model.labels):
        notes.append("spaces in labels are underscores, because Model API separates labels by spaces")
    if confidence is not None and confidence.threshold > 0:
        notes.append(f"Model API never abstains: compare its score with {confidence.threshold:.6g} yourself")
    if len(set(manifest.label_thresholds or ())) > 1:
        notes.append("Model API has one threshold for all labels, 0.5, and the bundle one for each label")
    return tuple(notes)
