"""What padding tokens do to latency: the graph with them against the same graph without, on one thread and on several.

The two take turns, in an order drawn anew for each round; the ratio is taken within each round. Weights are random.

    python benchmarks/padding_tokens.py [--model NAME ...] [--rounds 20] [--page docs/rewrites.md]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from common.pages import write_between
from common.timing import Call, compared, in_turns, turn_ms
from common.untrained import CALIBRATION_FRAMES, as_if_trained

from vitedge.calib.quantization.ptq import quantize
from vitedge.calib.quantization.search_budget import SearchBudget
from vitedge.converters.onnx_export import export
from vitedge.converters.openvino.backend import REWRITES as OPENVINO_REWRITES
from vitedge.converters.rewrites.apply import REWRITES, apply_rewrites
from vitedge.converters.verify import Frames, synthetic_frames
from vitedge.extras import require
from vitedge.runtime.engines.openvino import native_float
from vitedge.runtime.system.machine import machine_state, processor_name

MODELS = (
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_tiny_patch16_384",
    "vit_base_patch16_224",
    "beit_base_patch16_224",
    "crossvit_9_240",
    "tnt_s_patch16_224",
)
IN_INT8 = ("deit_tiny_patch16_224", "deit3_small_patch16_224")
ONE_IMAGE = SearchBudget(first=1, images=1)
"""Random weights have no accuracy to lose, and their int8 is as fast as any."""

WITH, WITHOUT = "with", "without"

Graphs = Mapping[str, onnx.ModelProto]


@dataclass(frozen=True)
class Way:
    """How a graph is run.

    Attributes:
        name: heading of its column.
        precision: OpenVINO's hint; empty for the CPU's own 16 bits.
        int8: whether the graph is quantized.
        threads: how many; 0 for one a CPU.
    """

    name: str
    precision: str
    int8: bool
    threads: int


WAYS = (
    Way("fp32", "f32", int8=False, threads=0),
    Way("16-bit", "", int8=False, threads=0),
    Way("int8", "", int8=True, threads=0),
    Way("16-bit, 1 thread", "", int8=False, threads=1),
    Way("int8, 1 thread", "", int8=True, threads=1),
)


def graphs_of(name: str) -> tuple[Graphs, Graphs, Frames]:
    """Build FP32 and, for some models, int8 graphs, with and without padding tokens; and frames to run them on."""
    model = as_if_trained(name)
    preprocessing = model.card.preprocessing
    exported, frames = export(model.module, preprocessing.input_size), synthetic_frames(preprocessing.input_size)
    full = {
        WITH: apply_rewrites(exported, frames, preprocessing, (*REWRITES, *OPENVINO_REWRITES)).graph,
        WITHOUT: apply_rewrites(exported, frames, preprocessing).graph,
    }
    some = frames[:CALIBRATION_FRAMES]
    int8 = (
        {key: quantize(graph, some, budget=ONE_IMAGE).graph for key, graph in full.items()} if name in IN_INT8 else {}
    )
    return full, int8, frames


def compiled(graph: onnx.ModelProto, way: Way, frames: Frames) -> Call:
    """Return a call that runs a graph as the runtime does."""
    openvino = require("openvino", extra="openvino", purpose="this benchmark")
    core = openvino.Core()
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": way.precision or native_float(core)}
    if way.threads:
        hints["INFERENCE_NUM_THREADS"] = way.threads
    request = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", hints).create_infer_request()
    request.get_input_tensor().data[...] = frames[:1]

    def run() -> None:
        request.start_async()
        request.wait()

    return run


def cells(name: str, rounds: int) -> Iterator[str]:
    """Yield the ratios of one model, with their spread; in bold where all of it lies below 1."""
    full, int8, frames = graphs_of(name)
    for way in WAYS:
        graphs = int8 if way.int8 else full
        if not graphs:
            yield "-"
            continue
        times = in_turns({key: compiled(graph, way, frames) for key, graph in graphs.items()}, turn_ms, rounds=rounds)
        _, ratio, low, high = compared(times[WITH], times[WITHOUT])
        text = f"{ratio:.3f} ({low:.3f}-{high:.3f})"
        yield f"**{text}**" if high < 1 else text


def main() -> int:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    lines = []
    for name in arguments.model:
        sys.stderr.write(f"{name}\n")
        lines.append(f"| {name} | {' | '.join(cells(name, arguments.rounds))} |")
    text = "\n".join(
        [
            f"{processor_name()}, {machine_state().cpus} CPUs, as many threads unless named; {arguments.rounds} rounds",
            "",
            f"| model | {' | '.join(way.name for way in WAYS)} |",
            f"|---|{'---|' * len(WAYS)}",
            *lines,
        ]
    )
    print(text)
    if arguments.page is not None:
        write_between(arguments.page, "padding tokens", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
