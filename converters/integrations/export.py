"""``export``: a bundle for another tool, or slim for its device, as a folder that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from vitedge.bundle.bundle import Bundle, open_bundle
from vitedge.converters.publish import check_output, put_in_place, staged
from vitedge.errors import UsageError, did_you_mean
from vitedge.extras import require
from vitedge.progress import Progress, Silent, reporting
from vitedge.safety.files import expanded

Tool = Literal["device", "deepstream", "triton", "optimum", "model-api"]
Writer = Callable[[Bundle, Path], tuple[str, ...]]


@dataclass(frozen=True)
class Export:
    """An exported bundle.

    Attributes:
        path: its folder.
        notes: notes for the user, a sentence each.
    """

    path: Path
    notes: tuple[str, ...]


def _write_device(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    from vitedge.converters.integrations.device import write_device

    return write_device(bundle, folder)


def _write_deepstream(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    for package in ("onnx", "onnxruntime"):
        require(package, extra="convert", purpose="the export for DeepStream")
    from vitedge.converters.integrations.deepstream import write_deepstream

    return write_deepstream(bundle, folder)


def _write_triton(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    from vitedge.converters.integrations.triton import write_triton

    return write_triton(bundle, folder)


def _write_optimum(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    for package in ("onnx", "openvino", "timm"):
        require(package, extra="convert", purpose="the export for optimum")
    from vitedge.converters.integrations.optimum import write_optimum

    return write_optimum(bundle, folder)


def _write_model_api(
    bundle: Bundle,
    folder: Path,
    data: Path | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> tuple[str, ...]:
    require("openvino", extra="convert", purpose="the export for Model API")
    from vitedge.converters.integrations.model_api import write_model_api

    return write_model_api(bundle, folder, data, progress)


WRITERS: Mapping[Tool, Writer] = {
    "device": _write_device,
    "deepstream": _write_deepstream,
    "triton": _write_triton,
    "optimum": _write_optimum,
    "model-api": _write_model_api,
}


SUFFIXES: Mapping[str, str] = {"device": ".bundle"}
"""What the default names of folders end in."""


def export(
    bundle: Bundle | str | Path,
    *,
    tool: Tool,
    data: str | Path | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = Silent(),  # noqa: B008
) -> Export:
    """Write a bundle in the format of another tool, or a slim bundle for its device.

    Args:
        bundle: a bundle, or the path of one.
        tool: ``deepstream``, ``triton``, ``optimum`` or ``model-api``; or ``device`` for a slim bundle, which holds the
            network once.
        data: for ``model-api``, photos on which its answers are compared with the bundle's: a folder, a list or a
            video.
        output: the new folder; by default ``BUNDLE-TOOL`` in the current folder, for a slim bundle
            ``BUNDLE-device.bundle``.
        overwrite: replace a folder that an earlier export wrote; it must hold nothing else.
        progress: receives the photos that are compared.

    Raises:
        UsageError: the tool is unknown, the folder exists and is not to be replaced, or the tool cannot run this
            bundle.
        BundleError: the bundle cannot be read, or a file of it was altered.
        CalibrationError: no photo of ``data`` can be read.
        ConversionError: the graph cannot be brought into the format of the tool.
        EngineError: a slim bundle, or the bundle that is compared, does not pass its self-test on this machine.
        MissingExtraError: an optional package is not installed.
    """
    if tool not in WRITERS:
        raise UsageError(
            f"vitedge exports nothing for {tool!r}",
            expected=f"one of {', '.join(WRITERS)}",
            fix=did_you_mean(tool, WRITERS),
        )
    writer: Writer = WRITERS[tool]
    if tool == "model-api":
        writer = partial(_write_model_api, data=None if data is None else expanded(data), progress=progress)
    elif data is not None:
        raise UsageError(f"data= is for model-api; the export for {tool} compares no answers", fix="leave data= out")
    opened = open_bundle(bundle)
    path = (
        Path(output).expanduser() if output is not None else Path(f"{opened.path.stem}-{tool}{SUFFIXES.get(tool, '')}")
    )
    with reporting(progress), staged(path, overwrite=overwrite) as folder:
        notes = writer(opened, folder)
        check_output(path, overwrite=overwrite, names={each.name for each in folder.iterdir()})
        put_in_place(folder, path)
    return Export(path, notes)
