"""The schema of the JSON in a ``.pt2``: which values a field may hold, and which of them PyTorch gets.

PyTorch writes names of the file into Python source that it runs, evaluates symbolic expressions, looks operators up by
attribute, and imports the modules that tree structures name. Therefore every text has a role (``readers``). Stack
traces, guards, example inputs and the call graph of submodules are dropped, because no conversion needs them. The
fields are the fields of ``torch._export.serde.schema``.
"""

from __future__ import annotations

import re
from typing import Any

from vitedge.converters.sources.torch_export.readers import (
    DEVICES,
    DIALECTS,
    LAYOUT_STRIDED,
    TEXT,
    MalformedError,
    Reader,
    UnsafeError,
    file_name,
    left_out,
    many,
    mapping,
    matching,
    one_of,
    optional,
    parse,
    read_boolean,
    read_dictionary,
    read_dotted,
    read_expression,
    read_integer,
    read_items,
    read_name,
    read_operator,
    read_optional_name,
    read_raw,
    read_real,
    read_symbol,
    read_tree,
    record,
    union,
)


def read_program(text: bytes) -> dict[str, Any]:
    """Read ``models/model.json``.

    Returns:
        The same program, with only the fields that PyTorch needs to compute it.

    Raises:
        MalformedError: the text is no program.
        UnsafeError: a text in it could run code.
        StructureError: inputs or outputs are in containers other than tuple, list and dict.
        UnknownOperatorError: an operator is not in ATen.
    """
    return read_dictionary(_PROGRAM(parse(text)))


def read_payloads(text: bytes, path_name: re.Pattern[str]) -> dict[str, Any]:
    """Read a list of weights or constants, whose file names match a pattern; raise as ``read_program``."""
    payload = record(
        path_name=file_name(path_name),
        is_param=read_boolean,
        use_pickle=read_raw,
        tensor_meta=_FIXED_META,
    )
    return read_dictionary(record(config=mapping(read_dotted, payload))(parse(text)))


def _device(value: Any) -> dict[str, Any]:
    """Replace every device by the CPU, where the program is converted."""
    record(type=one_of(*DEVICES), index=optional(read_integer))(value)
    return {"type": "cpu", "index": None}


def _graph(value: Any) -> dict[str, Any]:
    return read_dictionary(_GRAPH(value))


def _nothing(value: Any) -> dict[str, Any]:
    if read_dictionary(value):
        raise UnsafeError("holds a custom object")
    return {}


def _root_alone(value: Any) -> list[Any]:
    """Read the call of the whole program; drop the calls of its submodules."""
    entries = [each for each in read_items(value) if read_dictionary(each).get("fqn") == ""]
    if len(entries) != 1:
        raise MalformedError("the program is not called once")
    return [_ROOT(entries[0])]


_HINT = union(as_int=read_integer, as_bool=read_boolean, as_float=read_real)
_SYMBOLIC = record(expr_str=read_expression, hint=optional(_HINT))
_SYM_INT = union(as_expr=_SYMBOLIC, as_int=read_integer)
_SYM_FLOAT = union(as_expr=_SYMBOLIC, as_float=read_real)
_SYM_BOOL = union(as_expr=_SYMBOLIC, as_bool=read_boolean)


def _meta(size: Reader) -> Reader:
    return record(
        dtype=read_integer,
        sizes=many(size),
        requires_grad=read_boolean,
        device=_device,
        strides=many(size),
        storage_offset=size,
        layout=one_of(LAYOUT_STRIDED),
    )


_FIXED_META = _meta(union(as_int=read_integer))

_TENSOR = record(name=read_name)
_SYM_INT_ARGUMENT = union(as_name=read_name, as_int=read_integer)
_SYM_FLOAT_ARGUMENT = union(as_name=read_name, as_float=read_real)
_SYM_BOOL_ARGUMENT = union(as_name=read_name, as_bool=read_boolean)
_OPTIONAL_TENSOR = union(as_tensor=_TENSOR, as_none=read_boolean)

_ARGUMENT = union(
    as_none=read_boolean,
    as_tensor=_TENSOR,
    as_tensors=many(_TENSOR),
    as_int=read_integer,
    as_ints=many(read_integer),
    as_float=read_real,
    as_floats=many(read_real),
    as_string=matching(TEXT, "the text"),
    as_strings=many(matching(TEXT, "the text")),
    as_sym_int=_SYM_INT_ARGUMENT,
    as_sym_ints=many(_SYM_INT_ARGUMENT),
    as_scalar_type=read_integer,
    as_memory_format=read_integer,
    as_layout=one_of(LAYOUT_STRIDED),
    as_device=_device,
    as_bool=read_boolean,
    as_bools=many(read_boolean),
    as_sym_bool=_SYM_BOOL_ARGUMENT,
    as_sym_bools=many(_SYM_BOOL_ARGUMENT),
    as_graph=record(name=read_name, graph=_graph),
    as_optional_tensors=many(_OPTIONAL_TENSOR),
    as_sym_float=_SYM_FLOAT_ARGUMENT,
    as_sym_floats=many(_SYM_FLOAT_ARGUMENT),
    as_optional_tensor=_OPTIONAL_TENSOR,
    as_complex=record(real=read_real, imag=read_real),
    as_nested_tensors=many(many(_TENSOR)),
    as_int_lists=many(many(read_integer)),
    as_float_lists=many(many(read_real)),
)

_NAMED_ARGUMENT = record(name=read_optional_name, arg=_ARGUMENT, kind=optional(one_of(0, 1, 2)))


def _input_of_node(value: Any) -> dict[str, Any]:
    """Read an argument with its name; replace the message of an assertion, which may be any text."""
    given = read_dictionary(value)
    said = {"arg": {"as_string": "it does not hold"}} if given.get("name") == "assert_msg" else {}
    return read_dictionary(_NAMED_ARGUMENT({**given, **said}))


_NODE = record(
    target=read_operator,
    inputs=many(_input_of_node),
    outputs=many(_ARGUMENT),
    metadata=left_out({}),
    is_hop_single_tensor_return=optional(read_boolean),
    name=optional(read_name),
)

_GRAPH = record(
    inputs=many(_ARGUMENT),
    outputs=many(_ARGUMENT),
    nodes=many(_NODE),
    tensor_values=mapping(read_name, _meta(_SYM_INT)),
    sym_int_values=mapping(read_name, _SYM_INT),
    sym_bool_values=mapping(read_name, _SYM_BOOL),
    is_single_tensor_return=read_boolean,
    custom_obj_values=_nothing,
    sym_float_values=mapping(read_name, _SYM_FLOAT),
)

_CONSTANT = union(
    as_none=read_boolean,
    as_int=read_integer,
    as_float=read_real,
    as_string=matching(TEXT, "the text"),
    as_bool=read_boolean,
)

_INPUT = union(
    user_input=record(arg=_ARGUMENT),
    parameter=record(arg=_TENSOR, parameter_name=read_dotted),
    buffer=record(arg=_TENSOR, buffer_name=read_dotted, persistent=read_boolean),
    tensor_constant=record(arg=_TENSOR, tensor_constant_name=read_dotted),
    constant_input=record(name=read_name, value=_CONSTANT),
)

_OUTPUT = union(
    user_output=record(arg=_ARGUMENT),
    loss_output=record(arg=_TENSOR),
    buffer_mutation=record(arg=_TENSOR, buffer_name=read_dotted),
    parameter_mutation=record(arg=_TENSOR, parameter_name=read_dotted),
    user_input_mutation=record(arg=_TENSOR, user_input_name=read_name),
)

_ROOT = record(
    fqn=one_of(""),
    signature=record(
        inputs=left_out([]),
        outputs=left_out([]),
        in_spec=read_tree,
        out_spec=read_tree,
        forward_arg_names=optional(many(read_name)),
    ),
)

_PROGRAM = record(
    graph_module=record(
        graph=_GRAPH,
        signature=record(input_specs=many(_INPUT), output_specs=many(_OUTPUT)),
        module_call_graph=_root_alone,
        metadata=left_out({}),
        treespec_namedtuple_fields=left_out({}),
    ),
    opset_version=mapping(read_name, read_integer),
    range_constraints=mapping(read_symbol, record(min_val=optional(read_integer), max_val=optional(read_integer))),
    schema_version=record(major=read_integer, minor=read_integer),
    verifiers=many(one_of(*DIALECTS)),
    torch_version=left_out(""),
    guards_code=left_out([]),
)
