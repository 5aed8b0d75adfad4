"""The JSON of a ``.pt2``, read by roles: what each field may hold, and what of it PyTorch is given.

PyTorch writes names of the file into Python source that it runs, evaluates symbolic expressions, looks operators up by
attribute, and imports the modules that tree structures name. So every text has a role here, and every reader returns a
value that was made anew: names that are identifiers, expressions of a small grammar, operators of fixed namespaces.
Stack traces, guards, example inputs and the call graph of submodules, which no conversion needs, are left out. The
fields are those of ``torch._export.serde.schema``.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable
from typing import Any

from vitedge.converters.sources.torch_export import expressions as program_expressions
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
"""They read and write files, print, or change the memory of another tensor."""
DEVICES = ("cpu", "cuda", "xpu", "mps")
LAYOUT_STRIDED = 7
DIALECTS = ("", "ATEN", "TRAINING", "EDGE")
TREES = ("builtins.tuple", "builtins.list", "builtins.dict")


class MalformedError(ValueError):
    """A value that the schema does not have in its place."""


class UnsafeError(ValueError):
    """A text that PyTorch could run; the message completes “the file …”."""


class StructureError(ValueError):
    """Inputs or outputs that are grouped by other types than Python's; the message is the type."""


class UnknownOperatorError(ValueError):
    """An operator that no backend has; the message is its name."""


def read_program(text: bytes) -> dict[str, Any]:
    """Read ``models/model.json``.

    Returns:
        The same program, with only what PyTorch needs to compute it.

    Raises:
        MalformedError: it is no program.
        UnsafeError: a text of it could run code.
        StructureError: its inputs or outputs are grouped by other types than Python's.
        UnknownOperatorError: an operator is not one of ATen.
    """
    return _dictionary(_PROGRAM(_parsed(text)))


def read_payloads(text: bytes, path_name: re.Pattern[str]) -> dict[str, Any]:
    """Read a list of weights or constants, whose files have names of this pattern; errors as ``read_program``."""
    payload = _record(
        path_name=_file(path_name),
        is_param=_boolean,
        use_pickle=_raw,
        tensor_meta=_FIXED_META,
    )
    return _dictionary(_record(config=_mapping(_dotted, payload))(_parsed(text)))


def dumped(value: Any) -> bytes:
    """JSON as PyTorch writes it."""
    return json.dumps(value, allow_nan=False).encode("ascii")


def _parsed(text: bytes) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise MalformedError(str(error)) from None


# Values


def _dictionary(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"{value!r:.60} is not an object")
    return value


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedError(f"{value!r:.60} is not a list")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise MalformedError(f"{value!r:.60} is not a text")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise MalformedError(f"{value!r:.60} is not true or false")
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= MAX_INTEGER:
        raise MalformedError(f"{value!r:.60} is not an integer of 64 bits")
    return value


def _real(value: Any) -> float | str:
    if value in ("Infinity", "-Infinity", "NaN"):
        return str(value)
    return value if isinstance(value, float) else float(_integer(value))


def _raw(value: Any) -> bool:
    if value is not False:
        raise UnsafeError("holds a weight as a pickled object")
    return False


# Texts


def _name(value: Any) -> str:
    """An identifier that is no keyword and none of Python's own names."""
    text = _string(value)
    if len(text) > NAME_CHARACTERS or not IDENTIFIER.fullmatch(text) or _is_reserved(text):
        raise UnsafeError(f"has the name {text!r:.60}, which is no identifier")
    return text


def _is_reserved(text: str) -> bool:
    return keyword.iskeyword(text) or DUNDER.fullmatch(text) is not None


def _optional_name(value: Any) -> str:
    return "" if value == "" else _name(value)


def _dotted(value: Any) -> str:
    """Names of attributes within each other; those of a list are numbers."""
    text = _string(value)
    parts = text.split(".")
    if len(text) > NAME_CHARACTERS or not all(COMPONENT.fullmatch(each) and not _is_reserved(each) for each in parts):
        raise UnsafeError(f"has the name {text!r:.60}, which is no path of attributes")
    return text


def _symbol(value: Any) -> str:
    return str(_matching(program_expressions.SYMBOL, "the symbol")(value))


def _expression(value: Any) -> str:
    try:
        return program_expressions.canonical(_string(value))
    except MalformedError:
        raise
    except ValueError:
        raise UnsafeError(f"holds the expression {value!r:.60}") from None


def _operator(value: Any) -> str:
    text = _string(value)
    if not OPERATOR.fullmatch(text) or REFUSED_OPERATOR.fullmatch(text):
        raise UnknownOperatorError(f"{text:.200}")
    return text


def _matching(pattern: re.Pattern[str], what: str) -> Reader:
    def read(value: Any) -> str:
        text = _string(value)
        if len(text) > NAME_CHARACTERS or not pattern.fullmatch(text):
            raise UnsafeError(f"holds {what} {text!r:.60}")
        return text

    return read


def _file(pattern: re.Pattern[str]) -> Reader:
    """A file of plain numbers, which its name tells from one of a pickled object."""

    def read(value: Any) -> str:
        text = _string(value)
        if not pattern.fullmatch(text):
            raise UnsafeError(f"holds {text!r:.60} as a pickled object")
        return text

    return read


def _one_of(*values: Any) -> Reader:
    def read(value: Any) -> Any:
        if isinstance(value, bool) or value not in values:
            raise MalformedError(f"{value!r:.60} is none of {values}")
        return value

    return read


# Structures


def _left_out(given: Any) -> Reader:
    """A field that PyTorch is given empty, whatever the file says."""
    return lambda _: given


def _optional(reader: Reader) -> Reader:
    return lambda value: None if value is None else reader(value)


def _many(reader: Reader) -> Reader:
    return lambda value: [reader(each) for each in _items(value)]


def _mapping(key: Reader, reader: Reader) -> Reader:
    return lambda value: {key(name): reader(each) for name, each in _dictionary(value).items()}


def _record(**fields: Reader) -> Reader:
    """An object with these fields; those of a newer PyTorch are left out where they say nothing."""

    def read(value: Any) -> dict[str, Any]:
        given = _dictionary(value)
        for name, each in given.items():
            if name not in fields and each not in (None, False, "", [], {}):
                raise MalformedError(f"the field {name!r:.60} is not known")
        return {name: reader(given[name]) for name, reader in fields.items() if name in given}

    return read


def _union(**kinds: Reader) -> Reader:
    """An object with one field, which says its kind."""

    def read(value: Any) -> dict[str, Any]:
        given = _dictionary(value)
        if len(given) != 1 or not given.keys() <= kinds.keys():
            raise MalformedError(f"{', '.join(given)!r:.60} is none of {', '.join(kinds)}")
        return {name: kinds[name](each) for name, each in given.items()}

    return read


def _tree(value: Any) -> str:
    """A tree of tuples, lists and dictionaries, as text of JSON that PyTorch parses by itself."""
    match _parsed(_string(value).encode("utf-8", "replace")):
        case [1, tree]:
            return json.dumps([1, _branch(tree, TREE_DEPTH)])
    raise MalformedError(f"{value!r:.60} is not the structure of inputs or outputs")


def _branch(value: Any, depth: int) -> dict[str, Any]:
    kind, context, children = (_dictionary(value).get(name) for name in ("type", "context", "children_spec"))
    if depth == 0 or len(value) != 3:
        raise MalformedError(f"{value!r:.60} is not a structure of inputs or outputs")
    if kind is None and context is None and children == []:
        return {"type": None, "context": None, "children_spec": []}
    if kind not in TREES:
        raise StructureError(f"{kind!s:.200}")
    branches = [_branch(each, depth - 1) for each in _items(children)]
    return {"type": kind, "context": _context(kind, context, len(branches)), "children_spec": branches}


def _context(kind: str, context: Any, children: int) -> str:
    if kind != "builtins.dict":
        return str(_one_of("null")(context))
    keys = _many(_name)(_parsed(_string(context).encode("utf-8", "replace")))
    if len(keys) != children or len(set(keys)) != children:
        raise MalformedError(f"{context!r:.60} does not name each input or output")
    return json.dumps(keys)


def _device(value: Any) -> dict[str, Any]:
    """Every device becomes the CPU, where the program is converted."""
    _record(type=_one_of(*DEVICES), index=_optional(_integer))(value)
    return {"type": "cpu", "index": None}


def _graph(value: Any) -> dict[str, Any]:
    return _dictionary(_GRAPH(value))


def _nothing(value: Any) -> dict[str, Any]:
    if _dictionary(value):
        raise UnsafeError("holds a custom object")
    return {}


def _root_alone(value: Any) -> list[Any]:
    """The call of the whole program; those of its submodules are left out."""
    entries = [each for each in _items(value) if _dictionary(each).get("fqn") == ""]
    if len(entries) != 1:
        raise MalformedError("the program is not called once")
    return [_ROOT(entries[0])]


_HINT = _union(as_int=_integer, as_bool=_boolean, as_float=_real)
_SYMBOLIC = _record(expr_str=_expression, hint=_optional(_HINT))
_SYM_INT = _union(as_expr=_SYMBOLIC, as_int=_integer)
_SYM_FLOAT = _union(as_expr=_SYMBOLIC, as_float=_real)
_SYM_BOOL = _union(as_expr=_SYMBOLIC, as_bool=_boolean)


def _meta(size: Reader) -> Reader:
    return _record(
        dtype=_integer,
        sizes=_many(size),
        requires_grad=_boolean,
        device=_device,
        strides=_many(size),
        storage_offset=size,
        layout=_one_of(LAYOUT_STRIDED),
    )


_FIXED_META = _meta(_union(as_int=_integer))

_TENSOR = _record(name=_name)
_SYM_INT_ARGUMENT = _union(as_name=_name, as_int=_integer)
_SYM_FLOAT_ARGUMENT = _union(as_name=_name, as_float=_real)
_SYM_BOOL_ARGUMENT = _union(as_name=_name, as_bool=_boolean)
_OPTIONAL_TENSOR = _union(as_tensor=_TENSOR, as_none=_boolean)

_ARGUMENT = _union(
    as_none=_boolean,
    as_tensor=_TENSOR,
    as_tensors=_many(_TENSOR),
    as_int=_integer,
    as_ints=_many(_integer),
    as_float=_real,
    as_floats=_many(_real),
    as_string=_matching(TEXT, "the text"),
    as_strings=_many(_matching(TEXT, "the text")),
    as_sym_int=_SYM_INT_ARGUMENT,
    as_sym_ints=_many(_SYM_INT_ARGUMENT),
    as_scalar_type=_integer,
    as_memory_format=_integer,
    as_layout=_one_of(LAYOUT_STRIDED),
    as_device=_device,
    as_bool=_boolean,
    as_bools=_many(_boolean),
    as_sym_bool=_SYM_BOOL_ARGUMENT,
    as_sym_bools=_many(_SYM_BOOL_ARGUMENT),
    as_graph=_record(name=_name, graph=_graph),
    as_optional_tensors=_many(_OPTIONAL_TENSOR),
    as_sym_float=_SYM_FLOAT_ARGUMENT,
    as_sym_floats=_many(_SYM_FLOAT_ARGUMENT),
    as_optional_tensor=_OPTIONAL_TENSOR,
    as_complex=_record(real=_real, imag=_real),
    as_nested_tensors=_many(_many(_TENSOR)),
    as_int_lists=_many(_many(_integer)),
    as_float_lists=_many(_many(_real)),
)

_NAMED_ARGUMENT = _record(name=_optional_name, arg=_ARGUMENT, kind=_optional(_one_of(0, 1, 2)))


def _input_of_node(value: Any) -> dict[str, Any]:
    """An argument by its name; what an assertion says is any text, and left out."""
    given = _dictionary(value)
    said = {"arg": {"as_string": "it does not hold"}} if given.get("name") == "assert_msg" else {}
    return _dictionary(_NAMED_ARGUMENT({**given, **said}))


_NODE = _record(
    target=_operator,
    inputs=_many(_input_of_node),
    outputs=_many(_ARGUMENT),
    metadata=_left_out({}),
    is_hop_single_tensor_return=_optional(_boolean),
    name=_optional(_name),
)

_GRAPH = _record(
    inputs=_many(_ARGUMENT),
    outputs=_many(_ARGUMENT),
    nodes=_many(_NODE),
    tensor_values=_mapping(_name, _meta(_SYM_INT)),
    sym_int_values=_mapping(_name, _SYM_INT),
    sym_bool_values=_mapping(_name, _SYM_BOOL),
    is_single_tensor_return=_boolean,
    custom_obj_values=_nothing,
    sym_float_values=_mapping(_name, _SYM_FLOAT),
)

_CONSTANT = _union(
    as_none=_boolean, as_int=_integer, as_float=_real, as_string=_matching(TEXT, "the text"), as_bool=_boolean
)

_INPUT = _union(
    user_input=_record(arg=_ARGUMENT),
    parameter=_record(arg=_TENSOR, parameter_name=_dotted),
    buffer=_record(arg=_TENSOR, buffer_name=_dotted, persistent=_boolean),
    tensor_constant=_record(arg=_TENSOR, tensor_constant_name=_dotted),
    constant_input=_record(name=_name, value=_CONSTANT),
)

_OUTPUT = _union(
    user_output=_record(arg=_ARGUMENT),
    loss_output=_record(arg=_TENSOR),
    buffer_mutation=_record(arg=_TENSOR, buffer_name=_dotted),
    parameter_mutation=_record(arg=_TENSOR, parameter_name=_dotted),
    user_input_mutation=_record(arg=_TENSOR, user_input_name=_name),
)

_ROOT = _record(
    fqn=_one_of(""),
    signature=_record(
        inputs=_left_out([]),
        outputs=_left_out([]),
        in_spec=_tree,
        out_spec=_tree,
        forward_arg_names=_optional(_many(_name)),
    ),
)

_PROGRAM = _record(
    graph_module=_record(
        graph=_GRAPH,
        signature=_record(input_specs=_many(_INPUT), output_specs=_many(_OUTPUT)),
        module_call_graph=_root_alone,
        metadata=_left_out({}),
        treespec_namedtuple_fields=_left_out({}),
    ),
    opset_version=_mapping(_name, _integer),
    range_constraints=_mapping(_symbol, _record(min_val=_optional(_integer), max_val=_optional(_integer))),
    schema_version=_record(major=_integer, minor=_integer),
    verifiers=_many(_one_of(*DIALECTS)),
    torch_version=_left_out(""),
    guards_code=_left_out([]),
)
