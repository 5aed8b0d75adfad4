"""The fingerprint of a build: a plan runs only where its fingerprint matches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vitedge.runtime.engines.tensorrt.build.builder import flags_of
from vitedge.runtime.engines.tensorrt.cuda import Gpu
from vitedge.runtime.engines.tensorrt.versions import api_of

L4T_RELEASE = Path("/etc/nv_tegra_release")
SHOWN_DIGITS = 12

_L4T = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")


@dataclass(frozen=True)
class Fingerprint:
    """Everything that a plan depends on.

    Attributes:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        version: version of that module.
        gpu: name of the GPU.
        compute_capability: compute capability of the GPU, such as ``8.7``.
        system: ``L4T 36.4.3`` on a Jetson, else ``driver for CUDA 12.6``.
        graphs: SHA-256 of each graph that was built, by its name in the bundle.
        flags: builder flags.
    """

    module: str
    version: str
    gpu: str
    compute_capability: str
    system: str
    graphs: dict[str, str]
    flags: tuple[str, ...]

    @property
    def described(self) -> str:
        """Describe the fingerprint for people, on one line."""
        return f"{self.module} {self.version}, {self.gpu} (compute capability {self.compute_capability}), {self.system}"


def fingerprint_of(module: Any, gpu: Gpu, graphs: dict[str, str]) -> Fingerprint:
    """Return the fingerprint of a plan that is built on this device now.

    Args:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        gpu: the GPU that the plan is built on.
        graphs: SHA-256 of each graph, by its name in the bundle.

    Raises:
        EngineError: this TensorRT is too old.
    """
    api = api_of(module)
    l4t = read_l4t()
    return Fingerprint(
        module=module.__name__,
        version=str(module.__version__),
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        system=f"driver for CUDA {gpu.driver}" if l4t is None else f"L4T {l4t}",
        graphs=dict(graphs),
        flags=flags_of(api),
    )


def read_l4t(path: Path = L4T_RELEASE) -> str | None:
    """Read the version of Jetson Linux, such as ``36.4.3``; None on any other machine."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = _L4T.search(text)
    return f"{found[1]}.{found[2]}" if found else None


def difference(built: Fingerprint, here: Fingerprint) -> str:
    """Describe what changed since a plan was built, as ``name old → new, …``; empty if nothing changed."""
    return ", ".join(_changes(built, here))


def _changes(built: Fingerprint, here: Fingerprint) -> Iterator[str]:
    for name in (field.name for field in fields(Fingerprint) if field.name != "graphs"):
        old, new = getattr(built, name), getattr(here, name)
        if old != new:
            yield f"{name.replace('_', ' ')} {_shown(old)} → {_shown(new)}"
    for name in sorted({*built.graphs, *here.graphs}):
        before, after = built.graphs.get(name, "none"), here.graphs.get(name, "none")
        if before != after:
            yield f"{name} {before[:SHOWN_DIGITS]} → {after[:SHOWN_DIGITS]}"


def _shown(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else " + ".join(value)
