"""Accuracy of int8 on trained models: vitedge's bundle against NNCF's own recipes on OpenVINO's IR, and bf16 or f16.

All are calibrated on the same photos, run on the same CPU with the same hints, and compared with the fp32 bundle on
photos that calibration has not seen. Agreement is the share of equal top-1; SQNR is that of the logits.

    python benchmarks/int8_accuracy.py [--data ../shared/data] [--images 300] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vitedge
from vitedge.bundle import MODEL_ONNX, Bundle
from vitedge.calib.images import ImageSet, Photos
from vitedge.extras import require
from vitedge.files import write_whole
from vitedge.metrics import Parity, parity, wilson_interval
from vitedge.runtime.engines import open_engine
from vitedge.runtime.engines.openvino import native_float
from vitedge.runtime.machine import machine_state, processor_name
from vitedge.version import VERSION

MODELS = ("vit_flowers", "mobilevit_xxs_flowers", "deit_tiny_imagenet")
ALPHAS: Mapping[str, float | None] = {
    "NNCF default": None,
    "NNCF, SmoothQuant off": -1.0,
    "NNCF, SmoothQuant 0.15": 0.15,
    "NNCF, SmoothQuant 0.5": 0.5,
}
LEAST_AGREEMENT = 97.0
MOST_DROP = 1.0

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One way to run one model.

    Attributes:
        name: the way.
        top1: percent; None where the photos' classes are not the model's.
        against_fp32: agreement and SQNR.
    """

    name: str
    top1: float | None
    against_fp32: Parity

    def line(self) -> str:
        """A line of the table."""
        found = self.against_fp32
        interval = wilson_interval(round(found.agreement * found.images / 100), found.images)
        top1 = "" if self.top1 is None else f"{self.top1:.2f}"
        agreement = f"{found.agreement:.2f} [{interval.low:.1f}, {interval.high:.1f}]"
        return f"| {self.name} | {top1} | {agreement} | {found.sqnr_db:.1f} |"


def bundle_logits(bundle: Bundle, frames: NDArray[np.uint8]) -> Logits:
    """Of every frame, on the bundle's engine."""
    engine = open_engine(bundle)

    def answers() -> Iterator[Logits]:
        for frame in frames:
            engine.frame[...] = frame
            yield engine.run()

    logits = np.stack(list(answers()))
    engine.close()
    return logits


def nncf_logits(full: Bundle, alpha: float | None, calibration: Photos, frames: NDArray[np.uint8]) -> Logits:
    """Of every frame, on the FP32 graph as NNCF quantizes it in OpenVINO's representation."""
    openvino = require("openvino", extra="openvino", purpose="this benchmark")
    nncf = require("nncf", extra="convert", purpose="this benchmark")
    core = openvino.Core()
    options: dict[str, Any] = {}
    if alpha is not None:
        smooth = nncf.AdvancedSmoothQuantParameters(matmul=alpha)
        options["advanced_parameters"] = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smooth)
    quantized = nncf.quantize(
        core.read_model(full.path / MODEL_ONNX),
        nncf.Dataset([frame[np.newaxis] for frame in calibration.frames]),
        subset_size=len(calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        **options,
    )
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": native_float(core)}
    compiled = core.compile_model(quantized, "CPU", hints)
    return np.concatenate([np.array(compiled(frame[np.newaxis])[0]) for frame in frames])


def rows(source: Path, data: Path, images: int, folder: Path) -> list[Row]:
    """Every way to run one model; fp32 first, then vitedge's."""
    calib = ImageSet.from_folder(data / "flowers/calib", limit=images)
    bundles = {
        precision: vitedge.convert(
            source,
            target="cpu",
            precision=precision,
            calib=data / "flowers/calib",
            output=folder / f"{source.name}-{precision}.bundle",
        )
        for precision in ("fp32", "int8", "fp16")
    }
    model = bundles["fp32"].manifest.model
    calibration = calib.load(model.preprocessing)
    validation = ImageSet.from_folder(data / "flowers/val")
    photos = validation.load(model.preprocessing)
    targets = validation.targets(model.labels) if validation.is_labelled(model.labels) else None
    reference = bundle_logits(bundles["fp32"], photos.frames)

    def row(name: str, logits: Logits) -> Row:
        top1 = None
        if targets is not None:
            truth = np.array([targets[file.class_name] for file in photos.files])
            top1 = 100.0 * float(np.mean(logits.argmax(axis=1) == truth))
        return Row(name, top1, parity(reference, logits))

    return [
        row("vitedge fp32", reference),
        row("vitedge int8", bundle_logits(bundles["int8"], photos.frames)),
        *(row(name, nncf_logits(bundles["fp32"], alpha, calibration, photos.frames)) for name, alpha in ALPHAS.items()),
        row("vitedge fp16", bundle_logits(bundles["fp16"], photos.frames)),
    ]


def missed(name: str, found: list[Row]) -> str:
    """Which target a model misses, if it does."""
    full, ours, *others = found
    best = max((each for each in others if each.name in ALPHAS), key=lambda each: each.against_fp32.agreement)
    if full.top1 is None or ours.top1 is None:
        behind = ours.against_fp32.agreement < best.against_fp32.agreement
        return f"{name}: agreement below that of {best.name}" if behind else ""
    if ours.against_fp32.agreement < LEAST_AGREEMENT or full.top1 - ours.top1 > MOST_DROP:
        return f"{name}: top-1 falls by more than {MOST_DROP} or agreement is below {LEAST_AGREEMENT} %"
    return ""


def main() -> int:
    """Measure, print, and write JSON where asked; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=300, help="that NNCF's recipes are calibrated on; ours take 300")
    parser.add_argument("--model", nargs="*", default=MODELS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    for model in arguments.model:
        sys.stderr.write(f"{model}\n")
        with tempfile.TemporaryDirectory() as folder:
            source = arguments.data / "models" / model
            results[model] = rows(source, arguments.data, arguments.images, Path(folder))
    print(f"{processor_name()}; calibrated on {arguments.images} photos of flowers/calib, measured on flowers/val\n")
    for model, found in results.items():
        print(f"### {model}\n\n| | top-1 % | agreement with fp32 % [95 %] | logit SQNR dB |\n|---|---|---|---|")
        print("\n".join(each.line() for each in found) + "\n")
    notes = [note for note in (missed(model, found) for model, found in results.items()) if note]
    print("\n".join(f"Target missed: {note}" for note in notes) or "All targets met.")
    if arguments.json is not None:
        report = {
            "version": 1,
            "vitedge": VERSION,
            "machine": asdict(machine_state()),
            "models": {model: [asdict(each) for each in found] for model, found in results.items()},
        }
        write_whole(arguments.json, json.dumps(report, indent=2) + "\n")
    return 1 if notes else 0


if __name__ == "__main__":
    sys.exit(main())
