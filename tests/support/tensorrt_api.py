"""Prints what a module of TensorRT offers as JSON; run as a script, so that each version has a process of its own.

    python tensorrt_api.py MODULE

``names``: every class with its members, one in another as ``Outer.Inner``, and every other name of the module with
none. A method maps to its overloads, each a list of parameters ``[name, required]``; a property to ``get`` or ``set``,
by what it allows; all else to None.
``returns``: the class that a method gives, by ``Class.method``.
``api``: the row of ``vitedge.runtime.engines.tensorrt.versions`` for it.
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
SIGNATURE = re.compile(r"(?:^|^\d+\. )\w+\((self: .*?|self|)\) -> (.*)$", re.MULTILINE)


def classes_of(module: Any) -> dict[str, Any]:
    """The names of a module, and of the classes in its classes."""
    outer = {name: getattr(module, name) for name in dir(module)}
    inner = {
        f"{name}.{each}": getattr(value, each)
        for name, value in outer.items()
        if isinstance(value, type)
        for each in dir(value)
        if isinstance(getattr(value, each, None), type) and each != "__class__"
    }
    return {**outer, **inner}


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
    return [parameters_of(text) for text, _ in SIGNATURE.findall(value.__doc__ or "")] or None


def parameters_of(text: str) -> list[Parameter]:
    """Its parameters but ``self``; brackets of types may hold commas and equals signs."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(f"{text},"):
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [(part.partition(":")[0], " = " not in part) for part in parts if not part.startswith("self")]


def returns_of(classes: dict[str, Any]) -> dict[str, str]:
    found = {}
    for owner, value in classes.items():
        for name in dir(value) if isinstance(value, type) else ():
            given = [class_named(text, classes) for _, text in SIGNATURE.findall(getattr(value, name).__doc__ or "")]
            found.update({f"{owner}.{name}": each for each in given if each})
    return found


def class_named(text: str, classes: dict[str, Any]) -> str:
    """``ITimingCache`` of ``tensorrt.ITimingCache``, ``ParserError`` of ``nvonnxparser::IParserError``; else empty."""
    name = re.split(r"\.|::", text)[-1]
    return next((each for each in (name, name[1:]) if each[:1].isupper() and each in classes), "")


def main() -> None:
    from vitedge.runtime.engines.tensorrt.versions import api_of

    module = importlib.import_module(sys.argv[1])
    classes, api = classes_of(module), dataclasses.asdict(api_of(module))
    description = {
        "names": {name: members_of(value) for name, value in classes.items()},
        "returns": returns_of(classes),
        "api": {**api, "capture_flag": str(api["capture_flag"] or "")},
    }
    json.dump(description, sys.stdout)


if __name__ == "__main__":
    main()
