"""Dataclasses to JSON and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.errors import BundleSchemaError, UsageError
from vitedge.records import decode, encode, json_schema


@dataclass(frozen=True)
class Inner:
    count: int
    share: float


@dataclass(frozen=True)
class Outer:
    name: str
    flag: bool
    kind: Literal["a", "b"]
    size: tuple[int, int]
    labels: tuple[str, ...]
    inner: Inner
    extra: Inner | None
    files: dict[str, Inner]
    note: str = "none"


@dataclass(frozen=True)
class Positive:
    value: int

    def __post_init__(self) -> None:
        if self.value < 1:
            raise UsageError(f"value is {self.value}", expected="a positive number")


floats = st.floats(allow_nan=False)
inners = st.builds(Inner, count=st.integers(), share=floats)
outers = st.builds(
    Outer,
    name=st.text(),
    flag=st.booleans(),
    kind=st.sampled_from(["a", "b"]),
    size=st.tuples(st.integers(), st.integers()),
    labels=st.lists(st.text()).map(tuple),
    inner=inners,
    extra=st.none() | inners,
    files=st.dictionaries(st.text(), inners),
    note=st.text(),
)

EXAMPLE = Outer("x", True, "a", (1, 2), ("l",), Inner(1, 0.5), None, {"f": Inner(2, 1.0)})


@given(outers)
def test_what_is_encoded_decodes_to_itself(record: Outer) -> None:
    text = json.dumps(encode(record))
    assert decode(Outer, json.loads(text), where="it") == record


@given(outers)
def test_what_is_encoded_fits_the_schema(record: Outer) -> None:
    schema = json_schema(Outer)
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert list(validator.iter_errors(json.loads(json.dumps(encode(record))))) == []


def test_unknown_keys_are_ignored_and_defaults_fill_in() -> None:
    value = encode(EXAMPLE) | {"added_later": 1}
    del value["note"]
    assert decode(Outer, value, where="it") == EXAMPLE


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("name",), 3, "it.name"),
        (("flag",), 1, "it.flag"),
        (("flag",), None, "it.flag"),
        (("kind",), "c", "it.kind"),
        (("kind",), ["a"], "it.kind"),
        (("size",), [1], "it.size"),
        (("size",), [1, 2, 3], "it.size"),
        (("size",), [1, "2"], "it.size[1]"),
        (("size",), 12, "it.size"),
        (("labels",), "l", "it.labels"),
        (("labels",), ["l", None], "it.labels[1]"),
        (("inner",), None, "it.inner"),
        (("inner", "count"), True, "it.inner.count"),
        (("inner", "count"), 1.5, "it.inner.count"),
        (("inner", "count"), float("nan"), "it.inner.count"),
        (("inner", "share"), "0.5", "it.inner.share"),
        (("inner", "share"), False, "it.inner.share"),
        (("inner", "share"), 10**400, "it.inner.share"),
        (("extra",), [], "it.extra"),
        (("files",), [], "it.files"),
        (("files", "f"), 1, "it.files.f"),
        (("files", "f", "count"), "2", "it.files.f.count"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(path: tuple[str, ...], value: object, place: str) -> None:
    document = encode(EXAMPLE)
    _set(document, path, value)
    with pytest.raises(BundleSchemaError) as caught:
        decode(Outer, document, where="it")
    assert caught.value.problem.startswith(f"{place} is ")
    assert caught.value.expected


@pytest.mark.parametrize("path", [("name",), ("inner", "count"), ("files", "f", "share")])
def test_a_missing_key_is_named(path: tuple[str, ...]) -> None:
    document = encode(EXAMPLE)
    parent: Any = document
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    with pytest.raises(BundleSchemaError, match=f"has no '{path[-1]}'"):
        decode(Outer, document, where="it")


@pytest.mark.parametrize("value", [None, 1, "text", [], [EXAMPLE]])
def test_only_objects_are_records(value: object) -> None:
    with pytest.raises(BundleSchemaError, match=r"^it is "):
        decode(Outer, value, where="it")


def test_a_whole_float_is_an_integer_as_in_json_schema() -> None:
    decoded = decode(Inner, {"count": 2.0, "share": 1}, where="it")
    assert decoded == Inner(2, 1.0)
    assert (type(decoded.count), type(decoded.share)) == (int, float)


def test_what_a_record_itself_refuses_is_a_schema_error_that_names_the_place() -> None:
    with pytest.raises(BundleSchemaError, match=r"^it: value is 0\n  expected: a positive number"):
        decode(Positive, {"value": 0}, where="it")


def _set(document: Any, path: tuple[str, ...], value: object) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value
