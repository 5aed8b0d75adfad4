"""What each exact rewrite does to latency: the graph with all rewrites against the same graph without one of them.

The weights are random, and so are the scales, shifts and biases that a fresh network has as ones and zeros: the
rewrites remove those of trained networks. The graphs of a model take turns, in an order drawn anew for each round; the
ratio is taken within each round. A second copy of the graph with all rewrites tells how far equal graphs differ. What
no other load disturbs is counted beside it: the operators that are left once an engine has optimized the graph.

    python benchmarks/rewrites.py [--model NAME ...] [--rounds 20] [--work DIR] [--output docs/rewrites.md]

Graphs and results are kept in the work folder, a model at a time; `--rounds 0` only makes the graphs. The page's
section `Measured` is written anew from all results there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common.timing import Call, compared, in_turns, turn_ms
from common.untrained import CALIBRATION_FRAMES, as_if_trained

from vitedge.calib.quantization.ptq import quantize
from vitedge.calib.quantization.search_budget import SearchBudget
from vitedge.converters.onnx_export import export
from vitedge.converters.openvino.rewrites import REWRITES as OPENVINO_REWRITES
from vitedge.converters.rewrites.apply import REWRITES as COMMON_REWRITES
from vitedge.converters.rewrites.apply import Rewrite, Rewritten, apply_rewrites
from vitedge.converters.verify import synthetic_frames
from vitedge.extras import require
from vitedge.files import write_atomic
from vitedge.runtime.engines.openvino import native_float
from vitedge.runtime.system.machine import machine_state, processor_name
from vitedge.version import VERSION

MODELS = (
    "deit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mobilevit_s",
    "levit_128",
    "pvt_v2_b0",
    "mobilevitv2_050",
    "edgenext_small",
)
IN_INT8 = (
    "deit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mobilevit_s",
    "pvt_v2_b0",
    "mobilevitv2_050",
    "edgenext_small",
)
MEASURED_ALONE = "padding tokens"
"""Has a benchmark of its own, ``padding_tokens.py``."""
REWRITES = (*COMMON_REWRITES, *(each for each in OPENVINO_REWRITES if each.name != MEASURED_ALONE))
INT8 = "OpenVINO int8"
ENGINES = ("OpenVINO fp32", "OpenVINO 16-bit", INT8, "ONNX Runtime fp32")
NEEDED = ("tidy", "fold normalization", "prepend normalization")
ALL, AGAIN = "all", "all, again"
HEADING = "## Measured"
ONE_IMAGE = SearchBudget(first=1, images=1)
"""Random weights have no accuracy to lose, and their int8 is as fast as any."""


@dataclass(frozen=True)
class Effect:
    """A rewrite on one model in one engine.

    Attributes:
        rewrite: its name; ``AGAIN`` for the copy.
        places: how many it changed.
        engine: one of ``ENGINES``.
        all_ms: median of the rounds, with all rewrites.
        ratio: with it over without it, median of the rounds.
        low: tenth percentile of that ratio.
        high: ninetieth percentile.
        nodes: operators that the engine runs, with all rewrites.
        nodes_without: the same without it.
    """

    rewrite: str
    places: int
    engine: str
    all_ms: float
    ratio: float
    low: float
    high: float
    nodes: int
    nodes_without: int


def make_graphs(name: str, folder: Path) -> None:
    """Write the graph with all rewrites that apply, and without each of them, some models in int8 too; and the places.

    A rewrite that another one stands in for, so that the graph is the same without it, is left out.
    """
    model = as_if_trained(name)
    preprocessing = model.card.preprocessing
    exported, frames = export(model.module, preprocessing.input_size), synthetic_frames(preprocessing.input_size)

    def made(rewrites: list[Rewrite]) -> Rewritten:
        return apply_rewrites(exported, frames, preprocessing, rewrites)

    def write(graph: onnx.ModelProto, file: str) -> None:
        onnx.save(graph, folder / f"{file}.onnx")
        if name in IN_INT8:
            int8 = quantize(graph, frames[:CALIBRATION_FRAMES], budget=ONE_IMAGE).graph
            onnx.save(int8, folder / f"{file}.int8.onnx")

    folder.mkdir(parents=True, exist_ok=True)
    whole = made(list(REWRITES))
    write(whole.graph, ALL)
    alone = {}
    for left_out, places in whole.applied.items():
        others = [rewrite for rewrite in REWRITES if rewrite.name in whole.applied and rewrite.name != left_out]
        without = whole.graph if left_out in NEEDED else made(others).graph
        if without != whole.graph:
            write(without, left_out)
            alone[left_out] = places.changed
    write_atomic(folder / "places.json", json.dumps(alone))


@dataclass(frozen=True)
class Compiled:
    """A graph in an engine.

    Attributes:
        run: once, on noise.
        nodes: operators that the engine runs.
    """

    run: Call
    nodes: int


def compiled(graph: Path, engine: str) -> Compiled:
    """Load a graph as the runtime does."""
    shape = [dim.dim_value for dim in onnx.load(graph).graph.input[0].type.tensor_type.shape.dim]
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if engine.startswith("ONNX Runtime"):
        onnxruntime = require("onnxruntime", extra="onnxruntime", purpose="this benchmark")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # that the optimized graph fits this machine alone
        options.optimized_model_filepath = str(graph.with_suffix(".optimized"))
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        feeds = {session.get_inputs()[0].name: frame}
        return Compiled(
            lambda: session.run(None, feeds), len(onnx.load(options.optimized_model_filepath, "protobuf").graph.node)
        )
    openvino = require("openvino", extra="openvino", purpose="this benchmark")
    core = openvino.Core()
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32" if engine == "OpenVINO fp32" else native_float(core),
    }
    request = core.compile_model(graph, "CPU", hints).create_infer_request()
    request.get_input_tensor().data[...] = frame

    def run() -> None:
        request.start_async()
        request.wait()

    profiled = core.compile_model(graph, "CPU", {**hints, "PERF_COUNT": True}).create_infer_request()
    profiled.infer({0: frame})
    executed = [node for node in profiled.profiling_info if node.status == node.Status.EXECUTED]
    return Compiled(run, len(executed))


def measured(folder: Path, engine: str, rounds: int) -> list[Effect]:
    """Measure every rewrite that applies, and the copy."""
    places: dict[str, int] = json.loads((folder / "places.json").read_text())
    suffix = ".int8.onnx" if engine == INT8 else ".onnx"
    files = {ALL: ALL, AGAIN: ALL, **{each: each for each in places}}
    loaded = {name: compiled(folder / f"{file}{suffix}", engine) for name, file in files.items()}
    times = in_turns({name: each.run for name, each in loaded.items()}, turn_ms, rounds=rounds)
    with_all = times.pop(ALL)
    nodes = loaded[ALL].nodes
    return [
        Effect(name, places.get(name, 0), engine, *compared(with_all, without), nodes, loaded[name].nodes)
        for name, without in times.items()
    ]


def table(results: Mapping[str, Any]) -> str:
    """Format the table: rewrites and models down, engines across."""
    lines = [
        f"| rewrite | model | places | {' | '.join(ENGINES)} |",
        f"|---|---|---|{'---|' * len(ENGINES)}",
    ]
    names = [*(rewrite.name for rewrite in REWRITES), AGAIN]
    for name in names:
        for model, result in results.items():
            found = {each["engine"]: Effect(**each) for each in result["effects"] if each["rewrite"] == name}
            if found:
                places = next(iter(found.values())).places or "-"
                cells = [cell(found[engine]) if engine in found else "-" for engine in ENGINES]
                label = "*the same graph twice*" if name == AGAIN else name
                lines.append(f"| {label} | {model} | {places} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(found: Effect) -> str:
    """Format a ratio with its spread, in bold where the spread ends below 1; operators fewer or more."""
    text = f"{found.ratio:.3f} ({found.low:.3f}-{found.high:.3f})"
    fewer = f", {found.nodes - found.nodes_without:+d}" if found.nodes != found.nodes_without else ""
    return f"**{text}**{fewer}" if found.high < 1 else f"{text}{fewer}"


def section(results: Mapping[str, Any]) -> str:
    """Format the page's section from the results of every model."""
    machine = next(iter(results.values()))["machine_name"]
    return (
        f"{HEADING}\n\n"
        "Written by `benchmarks/rewrites.py`: latency with all rewrites over latency with all but this one, median of "
        "the rounds (tenth to ninetieth percentile); below 1 the rewrite makes the model faster, in bold where the "
        "whole spread does. Where the row of the same graph twice spreads as far, the ratio tells nothing. After the "
        "comma, how many operators fewer or more the engine runs with the rewrite. Random weights.\n\n"
        f"{machine}\n\n{table(results)}\n"
    )


def write_page(work: Path, page: Path) -> None:
    """Replace the section, which is the last of the page."""
    files = {model: work / model / "effects.json" for model in MODELS}
    results = {model: json.loads(file.read_text()) for model, file in files.items() if file.is_file()}
    if results:
        before, *_ = page.read_text(encoding="utf-8").partition(HEADING)
        write_atomic(page, before + section(results))


def main() -> int:
    """Make what graphs are missing, measure, and write the page after each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path("build/rewrites"))
    parser.add_argument("--output", type=Path, default=Path("docs/rewrites.md"))
    arguments = parser.parse_args()
    for model in arguments.model:
        sys.stderr.write(f"{model}\n")
        folder = arguments.work / model
        if not (folder / "places.json").is_file():
            make_graphs(model, folder)
        if arguments.rounds:
            engines = [engine for engine in ENGINES if engine != INT8 or model in IN_INT8]
            effects = [each for engine in engines for each in measured(folder, engine, arguments.rounds)]
            report = {
                "version": 1,
                "vitedge": VERSION,
                "machine": asdict(machine_state()),
                "machine_name": f"{processor_name()}, {machine_state().cpus} CPUs",
                "effects": [asdict(each) for each in effects],
            }
            write_atomic(folder / "effects.json", json.dumps(report, indent=2) + "\n")
            write_page(arguments.work, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
