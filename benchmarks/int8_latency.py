"""Latency of int8 on the network alone: vitedge's bundle against what else could run the same model.

The contenders take turns on one preprocessed frame, in an order drawn anew for each round; the ratio to vitedge is
taken within each round. NNCF's default, `nncf.quantize(model_type=TRANSFORMER)`, runs on OpenVINO's own IR of the model
(`openvino.convert_model` of the PyTorch module) three times: from the uint8 frame that vitedge takes, made with
OpenVINO's `PrePostProcessor` after the quantization; from a float32 image, where somebody else pays for the conversion;
and on vitedge's rewritten graph, which shows what the rewrites give and what the recipe costs. All are compiled with
the same hints. Weights are random, which does not change the latency.

    python benchmarks/int8_latency.py [--data ../shared/data] [--rounds 30] [--calls 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common.baselines import compiled_call, from_frame, nncf_quantized, own_ir
from common.timing import Call, in_turns, median_ms
from numpy.typing import NDArray

import vitedge
from vitedge.bundle.bundle import MODEL_ONNX, Bundle
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.converters.reference import normalized
from vitedge.extras import require
from vitedge.files import write_atomic
from vitedge.runtime.engines.open import open_engine
from vitedge.runtime.system.machine import machine_state, processor_name
from vitedge.version import VERSION

MODELS = ("deit_tiny_patch16_224", "mobilevit_s")
OURS, NNCF_DEFAULT = "vitedge int8", "NNCF default int8, OpenVINO's own IR, uint8 frame"
NNCF_FLOATS = "NNCF default int8, OpenVINO's own IR, float32 image ready-made"
NNCF_REWRITTEN = "NNCF default int8, vitedge's rewritten graph"
CALIBRATION_IMAGES = 100


@dataclass(frozen=True)
class Times:
    """Median milliseconds of one contender in each round."""

    name: str
    rounds: tuple[float, ...]

    def ratios(self, ours: Times) -> list[float]:
        """Return its time over ours, of each round."""
        return [theirs / mine for theirs, mine in zip(self.rounds, ours.rounds, strict=True)]


def engine_call(bundle: Bundle, opened: ExitStack, name: str) -> Call:
    """Return a call that runs the bundle on a golden frame."""
    engine = open_engine(bundle, name)
    opened.callback(engine.close)
    engine.frame[...] = bundle.golden().frames[0]
    return engine.run


def nncf_calls(name: str, full: Bundle, frames: NDArray[np.uint8]) -> dict[str, Call]:
    """Apply NNCF's default recipe to OpenVINO's own IR of the model, and to the graph of the bundle."""
    import timm

    openvino = require("openvino", extra="openvino", purpose="this benchmark")
    preprocessing = full.manifest.model.preprocessing
    pixels = normalized(frames, preprocessing)
    quantized = nncf_quantized(own_ir(timm.create_model(name), preprocessing), pixels)
    rewritten = openvino.Core().read_model(full.path / MODEL_ONNX)
    return {
        NNCF_DEFAULT: compiled_call(from_frame(quantized.clone(), preprocessing), frames),
        NNCF_FLOATS: compiled_call(quantized, pixels),
        NNCF_REWRITTEN: compiled_call(nncf_quantized(rewritten, frames), frames),
    }


def torch_calls(name: str) -> dict[str, Call]:
    """Prepare eager PyTorch, and `torch.compile`, on a float32 input."""
    import timm
    import torch

    network = timm.create_model(name).eval()
    pixels = torch.zeros(1, *network.pretrained_cfg["input_size"])
    compiled = torch.compile(network)

    def with_no_grad(call: Any) -> Call:
        def run() -> None:
            with torch.inference_mode():
                call(pixels)

        return run

    return {"torch.compile": with_no_grad(compiled), "torch eager": with_no_grad(network)}


def contenders(name: str, calib: Path, folder: Path, opened: ExitStack) -> dict[str, Call]:
    """Prepare every contender for one model, by name."""
    bundles = {
        precision: vitedge.convert(
            name,
            target="cpu",
            precision=precision,
            random_weights=True,
            calib=calib,
            output=folder / f"{name}-{precision}.bundle",
        )
        for precision in ("int8", "fp16", "fp32")
    }
    images = ImageFolder.open(calib, limit=CALIBRATION_IMAGES)
    frames = images.load(bundles["fp32"].manifest.model.preprocessing).frames
    return {
        OURS: engine_call(bundles["int8"], opened, "openvino"),
        **nncf_calls(name, bundles["fp32"], frames),
        "vitedge fp16": engine_call(bundles["fp16"], opened, "openvino"),
        "vitedge fp32": engine_call(bundles["fp32"], opened, "openvino"),
        "ONNX Runtime fp32": engine_call(bundles["fp32"], opened, "onnxruntime"),
        **torch_calls(name),
    }


def measure(calls: dict[str, Call], rounds: int, calls_a_round: int) -> list[Times]:
    """Measure all in turns."""
    found = in_turns(calls, partial(median_ms, calls=calls_a_round), rounds=rounds)
    return [Times(name, tuple(each)) for name, each in found.items()]


def table(model: str, times: list[Times]) -> str:
    """Format the rounds' medians and ratios as Markdown."""
    ours = next(each for each in times if each.name == OURS)
    lines = [f"### {model}", "", "| | p50 ms, median of rounds (range) | times vitedge int8 (range) |", "|---|---|---|"]
    for each in times:
        ratios = each.ratios(ours)
        lines.append(
            f"| {each.name} | {statistics.median(each.rounds):.2f} ({min(each.rounds):.2f}-{max(each.rounds):.2f}) "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and write JSON where asked; 1 where NNCF's default is faster."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--model", nargs="*", default=MODELS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    for model in arguments.model:
        sys.stderr.write(f"{model}\n")
        with ExitStack() as opened:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
            calls = contenders(model, arguments.data / "flowers/calib", folder, opened)
            results[model] = measure(calls, arguments.rounds, arguments.calls)
    print(
        f"{processor_name()}, {machine_state().cpus} CPUs; {arguments.rounds} rounds of {arguments.calls} calls each\n"
    )
    print("\n\n".join(table(model, times) for model, times in results.items()))
    if arguments.json is not None:
        report = {
            "version": 1,
            "vitedge": VERSION,
            "machine": asdict(machine_state()),
            "p50_ms": {model: {each.name: each.rounds for each in times} for model, times in results.items()},
        }
        write_atomic(arguments.json, json.dumps(report, indent=2) + "\n")
    slower = [model for model, (ours, default, *_) in results.items() if statistics.median(default.ratios(ours)) < 1]
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
