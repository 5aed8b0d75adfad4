"""Which ``.pt2`` archives can be loaded without running code from them.

``torch.export.load`` falls back to unpickling what ``weights_only`` refuses, evaluates symbolic expressions as Python,
looks operators up by attribute, imports the modules of enumerations, and opens compiled kernels. None of these is
needed for a classifier: an archive that would use one is refused before PyTorch loads it.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader
from torch.export.pt2_archive.constants import (
    AOTINDUCTOR_DIR,
    CONSTANTS_CONFIG_FILENAME_FORMAT,
    CONSTANTS_DIR,
    MODELS_DIR,
    MODELS_FILENAME_FORMAT,
    SAMPLE_INPUTS_FILENAME_FORMAT,
    TENSOR_CONSTANT_FILENAME_PREFIX,
    WEIGHT_FILENAME_PREFIX,
    WEIGHTS_CONFIG_FILENAME_FORMAT,
    WEIGHTS_DIR,
)

from vitedge.errors import CheckpointError

MODEL = "model"
PAYLOADS = (
    (WEIGHTS_CONFIG_FILENAME_FORMAT.format(MODEL), WEIGHT_FILENAME_PREFIX),
    (CONSTANTS_CONFIG_FILENAME_FORMAT.format(MODEL), TENSOR_CONSTANT_FILENAME_PREFIX),
)
OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|torch\.sym_(int|float|max|min|not|ite)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|math\.(trunc|ceil|floor)"
)
SYMBOL = re.compile(r"[a-z]{1,4}\d+")
FUNCTION = re.compile(r"[A-Z][A-Za-z]+")
ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Call, ast.keyword, ast.Load,
    ast.operator, ast.unaryop, ast.cmpop, ast.boolop,
)  # fmt: skip


def check_archive(path: Path) -> None:
    """Refuse what PyTorch could not load without running code from the file.

    Raises:
        CheckpointError: cut off, no archive of ``torch.export.save``, or one that holds pickled objects, compiled code,
            operators outside ATen, or anything in an expression but arithmetic.
    """
    try:
        reader = PT2ArchiveReader(str(path))
        names = reader.get_file_names()
        payloads = [(json.loads(reader.read_string(name)), prefix) for name, prefix in PAYLOADS]
        program = reader.read_string(MODELS_FILENAME_FORMAT.format(MODEL))
        graph = json.loads(program)
        samples = reader.read_bytes(SAMPLE_INPUTS_FILENAME_FORMAT.format(MODEL))
    except Exception as error:  # PyTorch's reader and JSON each raise their own
        raise CheckpointError(
            f"{path} is cut off, or not a program of torch.export",
            expected="a file that torch.export.save of torch 2.9 or newer wrote",
            fix="save it again: torch.export.save(torch.export.export(model.eval(), (image,)), 'model.pt2')",
        ) from error
    _check_files(names, path)
    for config, prefix in payloads:
        _check_payload(config, prefix, path)
    _check_samples(samples, path)
    if "__enum__" in program:
        raise _refused(path, "names Python enumerations")
    _check_graph(graph, path)


def _check_files(names: list[str], path: Path) -> None:
    if len(set(names)) != len(names):
        raise _refused(path, "holds two files of one name")
    legacy = {f"{WEIGHTS_DIR}{MODEL}.pt", f"{CONSTANTS_DIR}{MODEL}.pt"} & set(names)
    models = [name for name in names if name.startswith(MODELS_DIR)]
    if legacy or models != [MODELS_FILENAME_FORMAT.format(MODEL)]:
        raise _refused(
            path, f"holds {', '.join([*legacy, *models])}, and not one program as torch 2.9 or newer saves it"
        )
    if any(name.startswith(AOTINDUCTOR_DIR) for name in names):
        raise _refused(path, "holds compiled code")


def _check_payload(config: Any, prefix: str, path: Path) -> None:
    for name, entry in config["config"].items():
        if entry["use_pickle"] or not str(entry["path_name"]).startswith(prefix):
            raise _refused(path, f"holds {name} as a pickled object")


def _check_samples(samples: bytes, path: Path) -> None:
    try:
        if samples:
            torch.load(io.BytesIO(samples), weights_only=True)
    except Exception as error:  # whatever the unpickler meets
        raise _refused(path, "holds example inputs that are not tensors") from error


def _check_graph(graph: Any, path: Path) -> None:
    for key, text in _texts(graph):
        if key in ("target", "as_operator") and not OPERATOR.fullmatch(text):
            raise CheckpointError(
                f"no backend has the operator {text} of {path}",
                expected="operators of ATen",
                fix="write that layer with PyTorch's own operators, and export again",
            )
        if key == "expr_str" and not _is_arithmetic(text):
            raise _refused(path, f"holds the expression {text!r:.60}")


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text within, with the key that it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, key)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _texts(each, name)


def _is_arithmetic(text: str) -> bool:
    """Whether an expression has numbers, symbols of sizes, operators and SymPy's functions of them, and no more."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError):
        return False
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return all(_is_plain(node, FUNCTION if id(node) in called else SYMBOL) for node in ast.walk(tree))


def _is_plain(node: ast.AST, names: re.Pattern[str]) -> bool:
    if isinstance(node, ast.Name):
        return names.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return SYMBOL.fullmatch(node.value) is not None
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float))
    return isinstance(node, ARITHMETIC)


def _refused(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {what}: PyTorch would run code from the file to load it; vitedge never does",
        expected="a graph of ATen operators and plain tensors",
        fix="save it again: torch.export.save(torch.export.export(model.eval(), (image,)), 'model.pt2')",
    )
