"""The command line of NVIDIA's own tools that builds an engine by hand."""

from __future__ import annotations

import shlex
from pathlib import Path

from vitedge.bundle.targets import Target

TRTEXEC = "trtexec"
JETPACK_TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
RTX_TOOL = "tensorrt_rtx"


def build_command(target: Target, graph: Path, plan: Path) -> str:
    """Return the command that builds ``plan`` from a strongly typed ``graph``.

    TensorRT 10 needs the option for strongly typed graphs, TensorRT 11 ignores it, and TensorRT for RTX builds every
    graph strongly typed. As in ``vitedge.build``, fp32 is not rounded to TF32.

    Args:
        target: a target that runs on TensorRT.
        graph: path of the ONNX file.
        plan: path of the plan to write.
    """
    files = [f"--onnx={graph}", f"--saveEngine={plan}"]
    if target.tensorrt is not None and target.tensorrt.module == "tensorrt_rtx":
        return shlex.join([RTX_TOOL, *files])
    tool = JETPACK_TRTEXEC if target.name.startswith("jetson") else TRTEXEC
    return shlex.join([tool, *files, "--stronglyTyped", "--noTF32", "--skipInference"])
