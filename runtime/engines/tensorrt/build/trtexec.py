"""The command of NVIDIA's own tools that builds the engine of a graph, for those who build by hand."""

from __future__ import annotations

import shlex
from pathlib import Path

from vitedge.bundle.targets import Target

TRTEXEC = "trtexec"
JETPACK_TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
RTX_TOOL = "tensorrt_rtx"


def build_command(target: Target, graph: Path, plan: Path) -> str:
    """The command that builds ``plan`` from a strongly typed ``graph``.

    TensorRT 10 has to be told that the graph is strongly typed; TensorRT 11 takes the option and ignores it, and
    TensorRT for RTX knows no other kind. fp32 is not rounded to TF32, as in ``vitedge build``.

    Args:
        target: one of those that run on TensorRT.
        graph: ONNX file.
        plan: the file to write.
    """
    files = [f"--onnx={graph}", f"--saveEngine={plan}"]
    if target.tensorrt is not None and target.tensorrt.module == "tensorrt_rtx":
        return shlex.join([RTX_TOOL, *files])
    tool = JETPACK_TRTEXEC if target.name.startswith("jetson") else TRTEXEC
    return shlex.join([tool, *files, "--stronglyTyped", "--noTF32", "--skipInference"])
