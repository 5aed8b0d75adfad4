"""Prints what a module of TensorRT offers as JSON; run as a script, so that each version has a process of its own.

    python tensorrt_api.py MODULE

``names``: every class with its members, and every other name of the module with none. A method maps to its overloads,
each a list of parameters ``[name, required]``; a property to ``get`` or ``set``, by what it allows; all else to None.
``api``: the row of ``vitedge.runtime.tensorrt.versions`` for it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import sys
from typing import Any

Parameter = tuple[str, bool]
Member = list[list[Parameter]] | str | None
SIGNATURE = re.compile(r"(?:^|^\d+\. )\w+\((self: .*?|self|)\) -> ", re.MULTILINE)


def names_of(module: Any) -> dict[str, dict[str, Member]]:
    return {name: members_of(getattr(module, name)) for name in dir(module)}


def members_of(value: Any) -> dict[str, Member]:
    if not isinstance(value, type):
        return {}
    return {name: member_of(inspect.getattr_static(value, name)) for name in dir(value)}


def member_of(value: Any) -> Member:
    """Signatures are in pybind11's docstrings: ``name(self: Type, first: Type, second: Type = 0) -> Type``."""
    if isinstance(value, property):
        return "get" if value.fset is None else "set"
    if not callable(value):
        return None
    return [parameters_of(text) for text in SIGNATURE.findall(value.__doc__ or "")] or None


def parameters_of(text: str) -> list[Parameter]:
    """Its parameters but ``self``; brackets of types may hold commas and equals signs."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(f"{text},"):
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [(part.partition(":")[0], " = " not in part) for part in parts if not part.startswith("self")]


def main() -> None:
    from vitedge.runtime.tensorrt.versions import api_of

    module = importlib.import_module(sys.argv[1])
    api = dataclasses.asdict(api_of(module))
    json.dump({"names": names_of(module), "api": {**api, "capture_flag": str(api["capture_flag"] or "")}}, sys.stdout)


if __name__ == "__main__":
    main()
