"""Convert frozen dataclasses to JSON and back, with checks, and write their JSON schema."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vitedge.errors import BundleSchemaError, UsageError

Record = TypeVar("Record")

_JSON_TYPES: dict[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def encode(record: object) -> Any:
    """Convert a dataclass to JSON values: dicts, lists, strings, numbers, booleans, None."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: encode(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, dict):
        return {key: encode(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [encode(value) for value in record]
    return record


def decode(kind: type[Record], value: object, *, where: str) -> Record:
    """Build a dataclass from JSON values; ignore unknown keys, so that newer writers may add keys.

    Args:
        kind: a dataclass of str, int, float, bool, None, Literal, tuple, dict[str, …] and such dataclasses.
        value: a JSON value.
        where: name of the document, for errors.

    Raises:
        BundleSchemaError: a key is missing or a value has the wrong type; the message names the key.
    """
    return _decode(kind, value, where)  # type: ignore[no-any-return]


def _decode(kind: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_optional(kind, value, where)
    if origin is Literal:
        return _expect(value in get_args(kind), value, where, f"one of {', '.join(map(str, get_args(kind)))}")
    if origin is tuple:
        return _decode_tuple(get_args(kind), value, where)
    if origin is dict:
        _expect(isinstance(value, dict), value, where, "an object")
        return {key: _decode(get_args(kind)[1], each, f"{where}.{key}") for key, each in value.items()}  # type: ignore[attr-defined]
    if kind in (int, float):
        return _decode_number(kind, value, where)
    return _expect(isinstance(value, kind), value, where, f"a {_JSON_TYPES[kind]}")


def _decode_number(kind: type[int] | type[float], value: Any, where: str) -> Any:
    """Decode a number as JSON Schema defines it: ``1.0`` is an integer, and a boolean is no number."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    number = not isinstance(value, bool) and (whole if kind is int else isinstance(value, (int, float)))
    _expect(number, value, where, "an integer" if kind is int else "a number")
    try:
        return kind(value)
    except OverflowError:
        return _expect(False, value, where, "a number that fits a double")


def _decode_dataclass(kind: Any, value: object, where: str) -> Any:
    if not isinstance(value, dict):
        return _expect(False, value, where, "an object")
    hints = get_type_hints(kind)
    arguments = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            arguments[field.name] = _decode(hints[field.name], value[field.name], f"{where}.{field.name}")
        elif _required(field):
            raise BundleSchemaError(
                f"{where} has no {field.name!r}",
                expected="every key of the manifest schema",
                fix="convert the model again",
            )
    try:
        return kind(**arguments)
    except UsageError as error:
        raise BundleSchemaError(
            f"{where}: {error.problem}", expected=error.expected, fix="convert the model again"
        ) from error


def _decode_optional(kind: Any, value: object, where: str) -> Any:
    if value is None:
        return None
    (inner,) = (each for each in get_args(kind) if each is not type(None))
    return _decode(inner, value, where)


def _decode_tuple(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    _expect(isinstance(value, list), value, where, "an array")
    items: list[object] = value  # type: ignore[assignment]
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_decode(kinds[0], each, f"{where}[{index}]") for index, each in enumerate(items))
    _expect(len(items) == len(kinds), value, where, f"{len(kinds)} values")
    pairs = zip(kinds, items, strict=True)
    return tuple(_decode(inner, each, f"{where}[{index}]") for index, (inner, each) in enumerate(pairs))


def _expect(condition: bool, value: object, where: str, expected: str) -> Any:
    if not condition:
        raise BundleSchemaError(f"{where} is {value!r:.80}", expected=expected, fix="convert the model again")
    return value


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def json_schema(kind: Any) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a dataclass."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        fields = dataclasses.fields(kind)
        return {
            "type": "object",
            "properties": {field.name: json_schema(hints[field.name]) for field in fields},
            "required": [field.name for field in fields if _required(field)],
        }
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [json_schema(each) for each in inner if each is not type(None)] + [{"type": "null"}]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple:
        return _tuple_schema(inner)
    if origin is dict:
        return {"type": "object", "additionalProperties": json_schema(inner[1])}
    return {"type": _JSON_TYPES[kind]}


def _tuple_schema(inner: tuple[Any, ...]) -> dict[str, Any]:
    if len(inner) == 2 and inner[1] is Ellipsis:
        return {"type": "array", "items": json_schema(inner[0])}
    items = [json_schema(each) for each in inner]
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
