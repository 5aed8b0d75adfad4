"""Read pickles of checkpoints as data, without importing, calling or creating anything that they name.

Python's unpickler calls everything that a pickle names. PyTorch's ``weights_only`` calls the names on its list with any
arguments: ``bytearray(5_000_000_000)`` fills the memory, and hashing a key of nested tuples takes forever. Here a call
stays a ``Call``, and a key is a number or a text, so that time and memory grow only with the pickle's length.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vitedge.safety.limits import PICKLE_OPERATIONS

ALLOWED_GLOBALS = re.compile(
    r"torch\.(cuda\.)?\w+"
    r"|torch\.(_utils|_tensor)\._rebuild_\w+"
    r"|torch\.(storage|nn\.parameter)\.\w+"
    r"|torch\.serialization\._get_layout"
    r"|collections\.(OrderedDict|Counter|defaultdict)"
    r"|argparse\.Namespace"
    r"|_codecs\.encode"
    r"|(builtins|__builtin__)\.(bytearray|bytes|complex|dict|float|int|list|set|frozenset|str|tuple)"
)
"""Names in the state dicts of training scripts. Other names are refused, because they would run code."""


class DisallowedGlobalError(ValueError):
    """A pickle names a class or function that no state dict needs."""


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names."""

    text: str


@dataclass(frozen=True, eq=False)
class Call:
    """A call in a pickle, which is not executed.

    Attributes:
        function: name of the function or class; empty if it is no name.
        arguments: its arguments.
    """

    function: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Persistent:
    """A reference to an object outside the pickle, such as a storage.

    Attributes:
        identity: the pickle's identifier of the object.
    """

    identity: object


@dataclass(frozen=True)
class Pickle:
    """A pickle that was read.

    Attributes:
        value: its object: dictionaries, lists, tuples, numbers, texts, and types of this module.
        persistent: all references to objects outside, in the order of the pickle.
        end: position after the pickle.
    """

    value: Any
    persistent: tuple[Persistent, ...]
    end: int


def read_pickle(content: bytes, start: int = 0) -> Pickle:
    """Read a pickle as data.

    Args:
        content: bytes that hold the pickle.
        start: position of the pickle.

    Raises:
        DisallowedGlobalError: the pickle names a class or function that no state dict needs.
        ValueError: the pickle is cut off, has more than ``PICKLE_OPERATIONS``, or ``torch.save`` did not write it.
    """
    stream = io.BytesIO(content)
    stream.seek(start)
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > PICKLE_OPERATIONS:
                raise ValueError(f"it has more than {PICKLE_OPERATIONS} operations")
            machine.step(opcode.name, argument)
        return Pickle(machine.result(), tuple(machine.persistent), stream.tell())
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError) as error:
        raise ValueError(f"it is no pickle: {type(error).__name__}") from error


class _Machine:
    """The stack machine that executes the operations of a pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self.persistent: list[Persistent] = []

    def step(self, opcode: str, argument: Any) -> None:
        """Execute one operation."""
        if opcode in _CONSTANTS:
            self._stack.append(argument)
        elif opcode in _OPERATIONS:
            _OPERATIONS[opcode](self, argument)
        elif opcode not in _NOTHING:
            raise ValueError(f"it has the operation {opcode}, which torch.save does not write")

    def result(self) -> Any:
        """Return the object that is left on the stack."""
        return self._pop()

    def _pop(self) -> Any:
        if not self._stack or (self._marks and len(self._stack) <= self._marks[-1]):
            raise ValueError("it takes more from its stack than it put there")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _top(self) -> Any:
        return self._stack[-1]

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def put(self, index: int) -> None:
        self._memo[index] = self._top()

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def constant(self, value: Any) -> None:
        self._stack.append(value)

    def empty_list(self, _: Any) -> None:
        self._stack.append([])

    def empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def tuple_to_mark(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def append(self, _: Any) -> None:
        self._extend([self._pop()])

    def appends(self, _: Any) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self._top(), list):
            self._top().extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def set_items(self, _: Any) -> None:
        self._update(self._pop_to_mark())

    def _update(self, items: list[Any]) -> None:
        """Set items of a dictionary; ignore keys that are no number or text, because no state dict has them."""
        if isinstance(self._top(), dict):
            pairs = zip(items[::2], items[1::2], strict=True)
            self._top().update({key: value for key, value in pairs if isinstance(key, (str, int))})

    def name(self, text: str) -> None:
        self._name(*text.split(" ", 1))

    def stack_name(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._name(str(module)[:_NAME], str(name)[:_NAME])

    def _name(self, module: str, name: str) -> None:
        text = f"{module}.{name}"
        if not ALLOWED_GLOBALS.fullmatch(text):
            raise DisallowedGlobalError(f"it names {text:.80}")
        self._stack.append(Global(text))

    def call(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        text = function.text if isinstance(function, Global) else ""
        made = Call(text, arguments if isinstance(arguments, tuple) else ())
        self._stack.append({} if text == "collections.OrderedDict" else made)

    def build(self, _: Any) -> None:
        self._pop()

    def persist(self, _: Any) -> None:
        self.persistent.append(Persistent(self._pop()))
        self._stack.append(self.persistent[-1])


_NAME = 200
_CONSTANTS = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING")
)
_NOTHING = frozenset(("PROTO", "FRAME", "STOP"))
_OPERATIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "NONE": lambda machine, _: machine.constant(None),
    "NEWTRUE": lambda machine, _: machine.constant(True),
    "NEWFALSE": lambda machine, _: machine.constant(False),
    "MARK": _Machine.mark,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "EMPTY_LIST": _Machine.empty_list,
    "EMPTY_DICT": _Machine.empty_dict,
    "EMPTY_TUPLE": lambda machine, _: machine.tuple_of(0),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": _Machine.tuple_to_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persist,
}
