"""The sources of ``vitedge run``: one, or several with names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vitedge.errors import UsageError
from vitedge.runtime.sources.stream_list import check_name, is_stream_list, read_streams, split_name
from vitedge.safety.redact import redact_address


def named_sources(given: Sequence[str]) -> dict[str, str] | None:
    """Return several sources by their names, in their order; None for a single source without a name.

    Args:
        given: each ``URI``, ``NAME=URI``, or the path of a ``.streams`` list. A name has no spaces, as pipelines of
            GStreamer have before their first ``=``. A path that exists has no name.

    Raises:
        UsageError: a name is empty or refused by ``check_name``, or two sources have the same.
        FrameSourceError: a list cannot be read.
    """
    split = [_split(each) for each in given]
    if len(split) == 1 and split[0][0] is None and not is_stream_list(Path(split[0][1])):
        return None
    named: dict[str, str] = {}
    for name, address in split:
        for each, source in _listed(name, address, position=len(named) + 1).items():
            if each in named:
                raise UsageError(
                    f"two sources have the name {each!r}",
                    expected="a name for each: --source NAME=URI --source NAME=URI",
                )
            named[each] = source
    return named


def _split(text: str) -> tuple[str | None, str]:
    name, address = split_name(text)
    if name is None or len(name.split()) > 1 or os.path.lexists(text):
        return None, text
    if not name:
        raise UsageError(f"the source {redact_address(text)} has no name before its =", expected="NAME=URI, or URI")
    check_name(name)
    return name, address


def _listed(name: str | None, address: str, *, position: int) -> dict[str, str]:
    if not is_stream_list(Path(address)):
        return {name or str(position): address}
    if name is not None:
        raise UsageError(f"the list {address} cannot have the name {name!r}", expected="names in the list")
    return read_streams(address)
