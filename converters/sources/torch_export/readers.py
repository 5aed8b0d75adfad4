"""Readers of the JSON in a ``.pt2``: each checks a value of one role, and returns a new value for PyTorch.

A name is an identifier, an expression follows a small grammar, and an operator belongs to fixed namespaces. ``schema``
combines the readers into objects.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable
from typing import Any

from vitedge.converters.sources.torch_export import expressions
from vitedge.safety.files import parse_json

Reader = Callable[[Any], Any]

NAME_CHARACTERS = 1_000
MAX_INTEGER = 1 << 63
TREE_DEPTH = 16

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
COMPONENT = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
DUNDER = re.compile(r"__.*__")
TEXT = re.compile(r"[A-Za-z0-9_ ,.>-]*", re.ASCII)
OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.(_?[A-Za-z0-9][A-Za-z0-9_]*|__(and|or|xor|lshift|rshift)__)\.[A-Za-z][A-Za-z0-9_]*"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|torch\.sym_(int|float|max|min|not|ite)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|math\.(trunc|ceil|floor)",
    re.ASCII,
)
REFUSED_OPERATOR = re.compile(
    r"torch\.ops\.aten\.(save|from_file|warn|_print|format|set_?|set_data|_?resize\w*)\.\w+", re.ASCII
)
"""Operators that read or write files, print, or change the memory of another tensor."""
DEVICES = ("cpu", "cuda", "xpu", "mps")
LAYOUT_STRIDED = 7
DIALECTS = ("", "ATEN", "TRAINING", "EDGE")
TREES = ("builtins.tuple", "builtins.list", "builtins.dict")


class MalformedError(ValueError):
    """A value that does not fit the schema."""


class UnsafeError(ValueError):
    """A text that PyTorch could execute; the message completes “the file …”."""


class StructureError(ValueError):
    """Inputs or outputs in containers other than tuple, list and dict; the message is the type."""


class UnknownOperatorError(ValueError):
    """An operator that no backend has; the message is its name."""


def parse(text: bytes) -> Any:
    """Parse JSON.

    Raises:
        MalformedError: the text is no strict JSON.
    """
    try:
        return parse_json(text)
    except ValueError as error:
        raise MalformedError(str(error)) from None


# Values


def read_dictionary(value: Any) -> dict[str, Any]:
    """Read an object."""
    if not isinstance(value, dict):
        raise MalformedError(f"{value!r:.60} is not an object")
    return value


def read_items(value: Any) -> list[Any]:
    """Read a list."""
    if not isinstance(value, list):
        raise MalformedError(f"{value!r:.60} is not a list")
    return value


def read_string(value: Any) -> str:
    """Read a text."""
    if not isinstance(value, str):
        raise MalformedError(f"{value!r:.60} is not a text")
    return value


def read_boolean(value: Any) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise MalformedError(f"{value!r:.60} is not true or false")
    return value


def read_integer(value: Any) -> int:
    """Read an integer of 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= MAX_INTEGER:
        raise MalformedError(f"{value!r:.60} is not an integer of 64 bits")
    return value


def read_real(value: Any) -> float | str:
    """Read a number, or the text of infinity or NaN."""
    if value in ("Infinity", "-Infinity", "NaN"):
        return str(value)
    return value if isinstance(value, float) else float(read_integer(value))


def read_raw(value: Any) -> bool:
    """Read ``use_pickle``, which must be false."""
    if value is not False:
        raise UnsafeError("holds a weight as a pickled object")
    return False


# Texts


def read_name(value: Any) -> str:
    """Read an identifier that is neither a keyword nor a dunder name."""
    text = read_string(value)
    if len(text) > NAME_CHARACTERS or not IDENTIFIER.fullmatch(text) or _is_reserved(text):
        raise UnsafeError(f"has the name {text!r:.60}, which is no identifier")
    return text


def _is_reserved(text: str) -> bool:
    return keyword.iskeyword(text) or DUNDER.fullmatch(text) is not None


def read_optional_name(value: Any) -> str:
    """Read an identifier or an empty text."""
    return "" if value == "" else read_name(value)


def read_dotted(value: Any) -> str:
    """Read a dotted path of attributes; elements of a list are numbers."""
    text = read_string(value)
    parts = text.split(".")
    if len(text) > NAME_CHARACTERS or not all(COMPONENT.fullmatch(each) and not _is_reserved(each) for each in parts):
        raise UnsafeError(f"has the name {text!r:.60}, which is no path of attributes")
    return text


def read_symbol(value: Any) -> str:
    """Read the name of a symbolic size."""
    return str(matching(expressions.SYMBOL, "the symbol")(value))


def read_expression(value: Any) -> str:
    """Read a symbolic expression of the grammar in ``expressions``, and rewrite it."""
    try:
        return expressions.canonical(read_string(value))
    except MalformedError:
        raise
    except ValueError:
        raise UnsafeError(f"holds the expression {value!r:.60}") from None


def read_operator(value: Any) -> str:
    """Read an operator that conversion knows and that changes nothing outside the program."""
    text = read_string(value)
    if not OPERATOR.fullmatch(text) or REFUSED_OPERATOR.fullmatch(text):
        raise UnknownOperatorError(f"{text:.200}")
    return text


def matching(pattern: re.Pattern[str], what: str) -> Reader:
    """Return a reader of a text that matches a pattern."""

    def read(value: Any) -> str:
        text = read_string(value)
        if len(text) > NAME_CHARACTERS or not pattern.fullmatch(text):
            raise UnsafeError(f"holds {what} {text!r:.60}")
        return text

    return read


def file_name(pattern: re.Pattern[str]) -> Reader:
    """Return a reader of the name of a file with raw numbers; other names mean a pickled object."""

    def read(value: Any) -> str:
        text = read_string(value)
        if not pattern.fullmatch(text):
            raise UnsafeError(f"holds {text!r:.60} as a pickled object")
        return text

    return read


def one_of(*values: Any) -> Reader:
    """Return a reader of one of some values."""

    def read(value: Any) -> Any:
        if isinstance(value, bool) or value not in values:
            raise MalformedError(f"{value!r:.60} is none of {values}")
        return value

    return read


# Structures


def left_out(given: Any) -> Reader:
    """Return a reader that ignores the value and returns an empty one."""
    return lambda _: given


def optional(reader: Reader) -> Reader:
    """Return a reader that also accepts null."""
    return lambda value: None if value is None else reader(value)


def many(reader: Reader) -> Reader:
    """Return a reader of a list."""
    return lambda value: [reader(each) for each in read_items(value)]


def mapping(key: Reader, reader: Reader) -> Reader:
    """Return a reader of an object with arbitrary keys."""
    return lambda value: {key(name): reader(each) for name, each in read_dictionary(value).items()}


def record(**fields: Reader) -> Reader:
    """Return a reader of an object with these fields; unknown fields must be empty, and are dropped."""

    def read(value: Any) -> dict[str, Any]:
        given = read_dictionary(value)
        for name, each in given.items():
            if name not in fields and each not in (None, False, "", [], {}):
                raise MalformedError(f"the field {name!r:.60} is not known")
        return {name: reader(given[name]) for name, reader in fields.items() if name in given}

    return read


def union(**kinds: Reader) -> Reader:
    """Return a reader of an object with one field, which is its kind."""

    def read(value: Any) -> dict[str, Any]:
        given = read_dictionary(value)
        if len(given) != 1 or not given.keys() <= kinds.keys():
            raise MalformedError(f"{', '.join(given)!r:.60} is none of {', '.join(kinds)}")
        return {name: kinds[name](each) for name, each in given.items()}

    return read


def read_tree(value: Any) -> str:
    """Read a tree of tuples, lists and dictionaries, as a text of JSON that PyTorch parses."""
    match parse(read_string(value).encode("utf-8", "replace")):
        case [1, tree]:
            return json.dumps([1, _branch(tree, TREE_DEPTH)])
    raise MalformedError(f"{value!r:.60} is not the structure of inputs or outputs")


def _branch(value: Any, depth: int) -> dict[str, Any]:
    kind, context, children = (read_dictionary(value).get(name) for name in ("type", "context", "children_spec"))
    if depth == 0 or len(value) != 3:
        raise MalformedError(f"{value!r:.60} is not a structure of inputs or outputs")
    if kind is None and context is None and children == []:
        return {"type": None, "context": None, "children_spec": []}
    if kind not in TREES:
        raise StructureError(f"{kind!s:.200}")
    branches = [_branch(each, depth - 1) for each in read_items(children)]
    return {"type": kind, "context": _context(kind, context, len(branches)), "children_spec": branches}


def _context(kind: str, context: Any, children: int) -> str:
    if kind != "builtins.dict":
        return str(one_of("null")(context))
    keys = many(read_name)(parse(read_string(context).encode("utf-8", "replace")))
    if len(keys) != children or len(set(keys)) != children:
        raise MalformedError(f"{context!r:.60} does not name each input or output")
    return json.dumps(keys)


def to_json(value: Any) -> bytes:
    """Write JSON as PyTorch does."""
    return json.dumps(value, allow_nan=False).encode("ascii")
