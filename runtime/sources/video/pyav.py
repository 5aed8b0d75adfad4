"""``open_container``: opens what FFmpeg reads, by PyAV of any version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitedge.safety.limits import IMAGE_PIXELS

SAFE_FOR_DECODERS = 17
"""First version whose options for decoders do no harm: before, they crash with formats that name their tracks late."""


def open_container(
    av: Any, name: str, options: Mapping[str, str], *, timeout: tuple[float, float] | None = None
) -> Any:
    """Open a file or an address for reading; the caller closes it.

    The decoders that find out what a container holds are limited to ``IMAGE_PIXELS``.

    Args:
        av: the module PyAV.
        name: path or address.
        options: options of the format and of the protocol.
        timeout: seconds to open it, and for each read; None for a file.

    Raises:
        Exception: one of ``vitedge.runtime.sources.video.causes.errors_of_pyav``.
    """
    for_decoders = {"max_pixels": str(IMAGE_PIXELS)} if _major(av) >= SAFE_FOR_DECODERS else {}
    return av.open(
        name,
        options=for_decoders,
        container_options=dict(options),
        timeout=timeout,
        metadata_errors="replace",
    )


def _major(av: Any) -> int:
    major = str(av.__version__).partition(".")[0]
    return int(major) if major.isdecimal() else 0
