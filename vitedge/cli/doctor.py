"""``vitedge doctor``: the state of this machine, and the precision to begin with."""

from __future__ import annotations

import argparse
from typing import Any

from vitedge.cli.reports import add_json_flag, write_result
from vitedge.records import encode
from vitedge.runtime.sources.gstreamer.process import INSTALL
from vitedge.runtime.system.cameras import Camera
from vitedge.runtime.system.capabilities import Recommendation
from vitedge.runtime.system.machine import UNAVAILABLE, Memory
from vitedge.safety import escape
from vitedge.verbs.doctor import Diagnosis, Nvidia, OpenVino, Package, Processor, PyAv, doctor

EPILOG = """\
examples:
  vitedge doctor
  vitedge doctor --json | jq .recommendation.precision
"""

MEBIBYTE = 1 << 20


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="what this machine has, and which precision to begin with",
        description="Show packages, processor, memory and cameras of this machine, with 'unavailable' for the unknown.",
        epilog=EPILOG,
    )
    add_json_flag(parser, "everything")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Diagnose and print."""
    diagnosis = doctor()
    write_result(arguments.json, lambda: as_json(diagnosis), lambda: as_text(diagnosis))
    return 0


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Render the diagnosis for JSON; keys are added, never renamed."""
    return {"version": 1, **encode(diagnosis)}


def as_text(diagnosis: Diagnosis) -> str:
    """Render the diagnosis as text."""
    lines = [
        *_section("vitedge", _about(diagnosis)),
        *_section("packages", [(each.name, _package_text(each)) for each in diagnosis.packages]),
        *_section("processor", _processor_lines(diagnosis)),
        *_section("NVIDIA", _nvidia_lines(diagnosis.nvidia)),
        *_section("cameras", _camera_lines(diagnosis)),
        *_section("begin with", [_recommendation_line(diagnosis.recommendation)]),
    ]
    return escape.terminal_lines(lines)


def _section(title: str, rows: list[tuple[str, str]]) -> list[str]:
    width = max(14, *(len(name) for name, _ in rows))
    return [title, *(f"  {name:<{width}} {text}" for name, text in rows), ""]


def _about(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [
        ("vitedge", diagnosis.vitedge),
        ("Python", diagnosis.python),
        ("numpy", diagnosis.numpy),
        ("system", diagnosis.system),
    ]


def _package_text(package: Package) -> str:
    return package.version or f"not installed: {package.install}"


def _processor_lines(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    processor = diagnosis.processor
    return [
        ("CPU", f"{processor.name} ({processor.machine})"),
        ("cores", _cores_text(processor)),
        ("instructions", _instructions(processor.features)),
        ("governor", processor.governors),
        ("load", _load_text(processor.load_average)),
        ("memory", _memory_text(diagnosis.memory)),
        ("OpenVINO", _openvino_text(diagnosis.openvino)),
    ]


def _cores_text(processor: Processor) -> str:
    quota = "" if processor.quota is None else f"; the control group's quota is {processor.quota:g}"
    return f"{processor.usable_cpus} usable of {processor.cpus or UNAVAILABLE}{quota}"


def _load_text(load: float | str) -> str:
    return load if isinstance(load, str) else f"{load:.2f}"


def _instructions(features: tuple[str, ...] | None) -> str:
    if features is None:
        return UNAVAILABLE
    return ", ".join(features) or "none that matter here"


def _memory_text(memory: Memory) -> str:
    if memory.total is None or memory.available is None:
        return UNAVAILABLE
    limit = "" if memory.limit is None else f"; the control group's limit is {memory.limit // MEBIBYTE} MiB"
    return f"{memory.available // MEBIBYTE} MiB available of {memory.total // MEBIBYTE} MiB{limit}"


def _openvino_text(openvino: OpenVino) -> str:
    if openvino.problem:
        return f"{UNAVAILABLE}: {openvino.problem}"
    return f"devices {', '.join(openvino.devices)}; CPU computes {', '.join(openvino.capabilities)}"


def _nvidia_lines(nvidia: Nvidia) -> list[tuple[str, str]]:
    return [
        ("TensorRT", ", ".join(nvidia.libraries) or UNAVAILABLE),
        ("GPU", nvidia.gpu or UNAVAILABLE),
        ("driver", f"for CUDA {nvidia.driver}" if nvidia.driver else UNAVAILABLE),
        ("Jetson Linux", nvidia.l4t or "this is no Jetson"),
        *(("problem", problem) for problem in nvidia.problems),
    ]


def _camera_lines(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    cameras = [(each.path, _camera_text(each)) for each in diagnosis.cameras]
    opencv = diagnosis.opencv
    built = "none: this OpenCV was built without them" if opencv.gui == "NONE" else f"OpenCV with {opencv.gui}"
    return [
        ("PyAV", _pyav_text(diagnosis.pyav)),
        ("GStreamer", diagnosis.gstreamer or f"not installed, for csi:// and gst: {INSTALL}"),
        ("windows", opencv.problem or built),
        *(cameras or [("V4L2", "no /dev/video*")]),
    ]


def _pyav_text(pyav: PyAv) -> str:
    if pyav.problem:
        return f"{UNAVAILABLE}: {pyav.problem}"
    encoder = f"writes H.264 with {pyav.h264_encoder}" if pyav.h264_encoder else "has no H.264 encoder"
    return f"{pyav.version}, FFmpeg {pyav.ffmpeg}, {encoder}"


def _camera_text(camera: Camera) -> str:
    state = "opens" if camera.usable else camera.problem
    return f"{camera.name}: {state}" if camera.name else state


def _recommendation_line(recommendation: Recommendation | None) -> tuple[str, str]:
    if recommendation is None:
        return ("precision", f"{UNAVAILABLE}: the processor's instructions cannot be read")
    return (f"--precision {recommendation.precision}", recommendation.reason)
