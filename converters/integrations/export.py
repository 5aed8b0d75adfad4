"""``export``: a bundle for another tool, or slim for its device, as a folder that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitedge.bundle.bundle import Bundle, open_bundle
from vitedge.converters.publish import check_output, put_in_place, staged
from vitedge.errors import UsageError, did_you_mean
from vitedge.extras import require

Tool = Literal["device", "deepstream", "triton", "optimum"]
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


WRITERS: Mapping[Tool, Writer] = {
    "device": _write_device,
    "deepstream": _write_deepstream,
    "triton": _write_triton,
    "optimum": _write_optimum,
}


SUFFIXES: Mapping[str, str] = {"device": ".bundle"}
"""What the default names of folders end in."""


def export(
    bundle: Bundle | str | Path, *, tool: Tool, output: str | Path | None = None, overwrite: bool = False
) -> Export:
    """Write a bundle in the format of another tool, or a slim bundle for its device.

    Args:
        bundle: a bundle, or the path of one.
        tool: ``deepstream``, ``triton`` or ``optimum``; or ``device`` for a slim bundle, which holds the network once.
        output: the new folder; by default ``BUNDLE-TOOL`` in the current folder, for a slim bundle
            ``BUNDLE-device.bundle``.
        overwrite: replace a folder that an earlier export wrote; it must hold nothing else.

    Raises:
        UsageError: the tool is unknown, the folder exists and is not to be replaced, or the tool cannot run this
            bundle.
        BundleError: the bundle cannot be read, or a file of it was altered.
        ConversionError: the graph cannot be brought into the format of the tool.
        EngineError: a slim bundle does not pass its self-test on this machine.
        MissingExtraError: an optional package is not installed.
    """
    if tool not in WRITERS:
        raise UsageError(
            f"vitedge exports nothing for {tool!r}",
            expected=f"one of {', '.join(WRITERS)}",
            fix=did_you_mean(tool, WRITERS),
        )
    opened = open_bundle(bundle)
    path = (
        Path(output).expanduser() if output is not None else Path(f"{opened.path.stem}-{tool}{SUFFIXES.get(tool, '')}")
    )
    with staged(path, overwrite=overwrite) as partial:
        notes = WRITERS[tool](opened, partial)
        check_output(path, overwrite=overwrite, names={each.name for each in partial.iterdir()})
        put_in_place(partial, path)
    return Export(path, notes)
