"""Graphs for TensorRT on the trained models: accuracy in ONNX Runtime, quantizers and changes of precision.

vitedge's graphs against those that NNCF and, where its Python is given, NVIDIA's Model Optimizer write from the same
FP32 graph and the same photos. All run in ONNX Runtime, every value rounded to the type that the graph gives it, on
photos that calibration has not seen. The table goes into docs/tensorrt.md.

    python benchmarks/tensorrt_accuracy.py [--data ../shared/data] [--json benchmarks/tensorrt_accuracy.json]
        [--modelopt-python VENV/bin/python]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common.pages import TENSORRT_PAGE, write_between
from numpy.typing import NDArray

import vitedge
from vitedge.bundle.bundle import INPUT_NAME, MODEL_FP16_ONNX, MODEL_ONNX, Bundle
from vitedge.calib.data.dataset import CALIBRATION_IMAGES
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.converters.reference import graph_logits
from vitedge.converters.tensorrt.casts import Counts, counts
from vitedge.converters.tensorrt.emulation import rounded
from vitedge.extras import require
from vitedge.files import write_atomic
from vitedge.metrics import Parity, parity, wilson_interval
from vitedge.runtime.system.machine import processor_name

MODELS = (
    "vit_flowers",
    "mobilevit_xxs_flowers",
    "deit_tiny_imagenet",
    "swin_flowers",
    "mobilevitv2_050_flowers",
    "efficientvit_b0_flowers",
)
TARGETS = {"fp32": "jetson-orin-nano", "int8": "jetson-orin-nano", "fp8": "jetson-thor"}
FULL, HALF, EIGHTH, FLOAT8 = "vitedge fp32", "vitedge fp16", "vitedge int8", "vitedge fp8"
NNCF, MODELOPT = "NNCF int8", "Model Optimizer int8"
MOST_DROP: Mapping[str, float] = {HALF: 0.1, EIGHTH: 0.3, FLOAT8: 0.3}

Frames = NDArray[np.uint8]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class AccuracyRow:
    """How one graph did.

    Attributes:
        name: whose it is, and its precision.
        top1: percent; None where the photos' classes are not the model's.
        against_fp32: agreement and SQNR.
        counts: quantizers and changes of precision.
    """

    name: str
    top1: float | None
    against_fp32: Parity
    counts: Counts

    def line(self) -> str:
        """Format a line of the table."""
        found, made = self.against_fp32, self.counts
        interval = wilson_interval(round(found.agreement * found.images / 100), found.images)
        cells = [
            self.name,
            "" if self.top1 is None else f"{self.top1:.2f}",
            f"{found.agreement:.2f} [{interval.low:.1f}, {interval.high:.1f}]",
            "" if self.name == FULL else f"{found.sqnr_db:.1f}",
            str(made.quantizers),
            f"{made.per_block(made.quantizers):.1f}",
            str(made.casts),
            f"{made.per_block(made.casts):.1f}",
        ]
        return f"| {' | '.join(cells)} |"


def graphs(source: Path, data: Path, folder: Path) -> tuple[dict[str, onnx.ModelProto], Bundle]:
    """Convert a model; return vitedge's graphs of it, and the bundle of the FP32 graph."""
    bundles = {
        precision: vitedge.convert(
            source,
            target=target,
            precision=precision,
            calib=data / "flowers/calib",
            output=folder / precision,
        )
        for precision, target in TARGETS.items()
    }
    files = {
        FULL: ("fp32", MODEL_ONNX),
        HALF: ("int8", MODEL_FP16_ONNX),
        EIGHTH: ("int8", MODEL_ONNX),
        FLOAT8: ("fp8", MODEL_ONNX),
    }
    return {name: onnx.load(bundles[which].file(file)) for name, (which, file) in files.items()}, bundles["fp32"]


def nncf_graph(graph: onnx.ModelProto, frames: Frames) -> onnx.ModelProto:
    """Quantize as NNCF's ONNX backend does for a transformer, with its defaults."""
    nncf = require("nncf", extra="convert", purpose="this benchmark")
    with redirect_stdout(sys.stderr):
        quantized: onnx.ModelProto = nncf.quantize(
            graph,
            nncf.Dataset([{INPUT_NAME: frame[np.newaxis]} for frame in frames]),
            subset_size=len(frames),
            model_type=nncf.ModelType.TRANSFORMER,
        )
    return quantized


def modelopt_graph(python: str, graph: onnx.ModelProto, frames: Frames, folder: Path) -> onnx.ModelProto:
    """Quantize with NVIDIA's Model Optimizer to int8, the rest in fp16; it runs in an environment of its own."""
    onnx.save(graph, folder / "full.onnx")
    np.savez(folder / "frames.npz", **{INPUT_NAME: frames})
    options = {
        "onnx_path": folder / "full.onnx",
        "quantize_mode": "int8",
        "calibration_data_path": folder / "frames.npz",
        "calibration_eps": "cpu",
        "high_precision_dtype": "fp16",
        "output_path": folder / "modelopt.onnx",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    subprocess.run([python, "-m", "modelopt.onnx.quantization", *flags], check=True, stdout=sys.stderr)
    return onnx.load(folder / "modelopt.onnx")


def rows(source: Path, data: Path, folder: Path, python: str | None) -> list[AccuracyRow]:
    """Measure how every graph of a model does."""
    made, bundle = graphs(source, data, folder)
    model = bundle.manifest.model
    calibration = ImageFolder.open(data / "flowers/calib", limit=CALIBRATION_IMAGES).load(model.preprocessing)
    made[NNCF] = nncf_graph(made[FULL], calibration.frames)
    if python is not None:
        made[MODELOPT] = modelopt_graph(python, made[FULL], calibration.frames, folder)
    validation = ImageFolder.open(data / "flowers/val")
    photos = validation.load(model.preprocessing)
    truth = None
    if validation.is_labelled(model.labels):
        targets = validation.class_to_idx(model.labels)
        truth = np.array([targets[file.class_name] for file in photos.files])
    logits = {name: graph_logits(rounded(each), photos.frames, model.preprocessing) for name, each in made.items()}
    return [row(name, logits[name], logits[FULL], truth, counts(each)) for name, each in made.items()]


def row(name: str, logits: Logits, reference: Logits, truth: NDArray[np.int64] | None, found: Counts) -> AccuracyRow:
    """Measure the accuracy of one graph."""
    top1 = None if truth is None else 100.0 * float(np.mean(logits.argmax(axis=1) == truth))
    return AccuracyRow(name, top1, parity(reference, logits), found)


def missed(found: Sequence[AccuracyRow]) -> Iterator[str]:
    """Yield the targets that a model misses."""
    by_name = {each.name: each for each in found}
    full = by_name[FULL].top1
    for name, most in MOST_DROP.items():
        top1 = by_name[name].top1 if name in by_name else None  # older reports have no fp8
        if full is not None and top1 is not None and full - top1 > most:
            yield f"{name}: top-1 falls by {full - top1:.2f} points, more than {most}"
    if FLOAT8 in by_name and by_name[FLOAT8].against_fp32.sqnr_db < by_name[EIGHTH].against_fp32.sqnr_db:
        behind = by_name[EIGHTH].against_fp32.sqnr_db - by_name[FLOAT8].against_fp32.sqnr_db
        yield f"{FLOAT8}: SQNR is {behind:.1f} dB below int8's"


def page_text(report: Mapping[str, Any]) -> str:
    """Format the tables."""
    columns = (
        "",
        "top-1 %",
        "agreement with fp32 % [95 %]",
        "SQNR dB",
        "Q/DQ",
        "Q/DQ a block",
        "casts",
        "casts a block",
    )
    head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
    tables = [
        f"### {model}\n\n{head}\n" + "\n".join(row_from(each).line() for each in found)
        for model, found in report["models"].items()
    ]
    versions = ", ".join(f"{name} {each}" for name, each in report["tools"].items())
    intro = (
        f"Taken {report['date']} on {report['processor']}; calibrated on {report['calibration']} photos of "
        f"flowers/calib, measured on flowers/val. {versions}."
    )
    waiting = [model for model in MODELS if model not in report["models"]]
    closing = "\n".join(f"- Target missed: {note}" for note in report["missed"]) or (
        "Targets met: top-1 falls by at most 0.1 points in fp16, 0.3 in int8 and fp8."
    )
    closing += f" Not run yet: {', '.join(waiting)}." if waiting else ""
    return "\n\n".join([intro, *tables, closing])


def row_from(value: Mapping[str, Any]) -> AccuracyRow:
    """Read a row as JSON holds it."""
    return AccuracyRow(value["name"], value["top1"], Parity(**value["against_fp32"]), Counts(**value["counts"]))


def tools(python: str | None) -> dict[str, str]:
    """Return the versions of the other quantizers."""
    nncf = require("nncf", extra="convert", purpose="this benchmark")
    found = {"NNCF": str(nncf.__version__)}
    if python is not None:
        script = "import importlib.metadata as m; print(m.version('nvidia-modelopt'))"
        found["Model Optimizer"] = subprocess.check_output([python, "-c", script], text=True).strip()
    return found


def read_models(path: Path) -> dict[str, list[AccuracyRow]]:
    """Read what earlier runs measured, by model."""
    found = json.loads(path.read_text(encoding="utf-8"))["models"] if path.is_file() else {}
    return {model: [row_from(each) for each in listed] for model, listed in found.items()}


def write_report(path: Path, results: Mapping[str, Sequence[AccuracyRow]], python: str | None) -> None:
    """Write all measurements, as JSON, in the order of ``MODELS``."""
    ordered = {model: results[model] for model in MODELS if model in results}
    report = {
        "version": 1,
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "processor": processor_name(),
        "calibration": CALIBRATION_IMAGES,
        "tools": tools(python),
        "models": {model: [asdict(each) for each in found] for model, found in ordered.items()},
        "missed": [f"{model}: {note}" for model, found in ordered.items() for note in missed(found)],
    }
    write_atomic(path, json.dumps(report, indent=1) + "\n")


def main() -> int:
    """Measure and write; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", nargs="*", default=MODELS)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/tensorrt_accuracy.json"))
    parser.add_argument("--modelopt-python", help="of an environment that has nvidia-modelopt[onnx]")
    parser.add_argument("--page", action="store_true", help="only write the page")
    arguments = parser.parse_args()
    results = read_models(arguments.json)
    for model in [] if arguments.page else arguments.model:
        sys.stderr.write(f"{model}\n")
        with tempfile.TemporaryDirectory() as folder:
            source = arguments.data / "models" / model
            results[model] = rows(source, arguments.data, Path(folder), arguments.modelopt_python)
        write_report(arguments.json, results, arguments.modelopt_python)
    report = json.loads(arguments.json.read_text(encoding="utf-8"))
    write_between(TENSORRT_PAGE, "accuracy", page_text(report))
    return int(bool(report["missed"]))


if __name__ == "__main__":
    sys.exit(main())
