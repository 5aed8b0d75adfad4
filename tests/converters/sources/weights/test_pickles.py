"""Pickles are read as data: nothing that they name is called, and none takes longer than its length says."""

from __future__ import annotations

import argparse
import collections
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from vitedge.converters.sources.weights.pickles import Call, DisallowedGlobalError, Global, read_pickle
from vitedge.safety.limits import PICKLE_OPERATIONS

pytestmark = pytest.mark.timeout(60)

PROTOCOL = b"\x80\x02"


def written(value: object, protocol: int = 2) -> bytes:
    return pickle.dumps(value, protocol=protocol)


@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_values(protocol: int) -> None:
    value = {"a": [1, -2, 70_000, 1 << 40, 0.5, None, True], "b": {"c": (), "d": ("x", ("é", 3, 4, 5))}, 3: False}
    pickled = read_pickle(b"--" + written(value, protocol) + b"rest", 2)
    assert pickled.value == value
    assert pickled.end == 2 + len(written(value, protocol))


def test_shared_values_stay_shared() -> None:
    inner = [1]
    first, second = read_pickle(written([inner, inner])).value
    assert first is second


def test_ordered_dictionaries_are_dictionaries() -> None:
    value = collections.OrderedDict(a=1, b=2)
    value.version = 7  # type: ignore[attr-defined]
    assert read_pickle(written(value)).value == {"a": 1, "b": 2}


def test_objects_of_training_scripts_are_left_as_calls() -> None:
    value = read_pickle(written({"args": argparse.Namespace(lr=0.1), "seen": collections.Counter("aab")})).value
    assert isinstance(value["args"], Call)
    assert value["seen"].function == "collections.Counter"


class Runs:
    """What a pickle wants called, and with what."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("function", [eval, exec, getattr, __import__, print, pickle.loads])
def test_names_that_no_state_dict_needs_are_refused(function: Callable[..., Any]) -> None:
    for protocol in (2, 4):
        with pytest.raises(DisallowedGlobalError, match=function.__name__):
            read_pickle(written({"a": Runs(function, "x")}, protocol))


@pytest.mark.parametrize("name", ["os system", "torch.hub load", "torch._utils\n_x", "torch.nn.modules.linear Linear"])
def test_other_names_are_refused(name: str) -> None:
    module, _, attribute = name.replace("\n", " ").partition(" ")
    with pytest.raises(DisallowedGlobalError):
        read_pickle(PROTOCOL + f"c{module}\n{attribute}\n.".encode())


def test_calls_are_not_made() -> None:
    """Five gigabytes, if somebody did."""
    value = read_pickle(written([Runs(bytearray, 5_000_000_000)])).value
    assert value[0].arguments == (5_000_000_000,)


def test_deep_keys_are_not_hashed() -> None:
    """Every level has the one below it twice; hashing it visits two to the power of 60 tuples."""
    levels = b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(60))
    assert read_pickle(PROTOCOL + b"}(K\x01" + levels + b"K\x02u.").value == {}


def test_tuples_without_end_are_freed() -> None:
    value = read_pickle(PROTOCOL + b")" + b"\x85" * 200_000 + b".").value
    assert isinstance(value, tuple)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        PROTOCOL + b"N",  # no end
        PROTOCOL + b".",  # nothing on the stack
        PROTOCOL + b"h\x05.",  # an unknown place in the memo
        PROTOCOL + b"u.",  # no mark
        PROTOCOL + b"(((.",  # nothing but marks
        PROTOCOL + b"}(K\x01u.",  # a key without a value
        PROTOCOL + b"(\x86.",  # a tuple across a mark
        PROTOCOL + b"X\xff\xff\xff\x7fa.",  # a text longer than the file
        PROTOCOL + b"X\x02\x00\x00\x00\xff\xff.",  # no text
        PROTOCOL + b"cos\n",
        PROTOCOL + b"I" + b"9" * 50_000 + b"\n.",
        PROTOCOL + b"I1\n.",  # not written by torch.save
        b"\x80\xff",
    ],
)
def test_what_is_no_pickle_of_torch(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_pickle(content)


def test_the_number_of_operations_is_bounded() -> None:
    with pytest.raises(ValueError, match=f"more than {PICKLE_OPERATIONS} operations"):
        read_pickle(PROTOCOL + b"N" * (PICKLE_OPERATIONS + 2) + b".")


def test_indices_of_the_memo_cost_nothing() -> None:
    """Python's own unpickler allocates up to the index."""
    assert read_pickle(PROTOCOL + b"Nr\xff\xff\xff\xff.").value is None


def test_names_are_kept() -> None:
    assert read_pickle(PROTOCOL + b"ctorch\nFloatStorage\n.").value == Global("torch.FloatStorage")
