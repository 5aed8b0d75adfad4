"""The flags of a verb and the parameters of the function that it calls: one list, and one language for errors."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_type_hints

Result = TypeVar("Result")

THREADS_HELP = "CPU threads (default: the engine decides)"
ENGINE_HELP = "what computes the model (default: the engine of the bundle's target)"
COMMANDS = {"evaluate": "eval", "new_key": "sign --new-key"}
"""Functions of ``vitedge`` whose command is not their name."""

_ARGUMENT = re.compile(
    r"(?<![\w./:=&?%-])([a-z][a-z0-9_]*)="  # not within a word, a path or an address
    r"(?:'([^']*)'|\((\w+), (\w+)\)|([^\s,;:()']*))"
)
_CALL = re.compile(r"\bvitedge\.([a-z_]+)\(([^()]*)\)")


@dataclass(frozen=True)
class Flag:
    """What the signature of a function does not tell about the flag of a parameter.

    Attributes:
        help: for ``--help``.
        metavar: name of the value; None for switches.
        names: names of the flag; by default ``--`` and the name of the parameter.
        parse: converts the text; by default the type in the signature does.
    """

    help: str
    metavar: str | None = None
    names: tuple[str, ...] = ()
    parse: Callable[[str], object] | None = None


def add_flags(parser: argparse.ArgumentParser, function: Callable[..., Any], flags: Mapping[str, Flag]) -> None:
    """Declare a positional argument or a flag for every parameter of a function but ``progress``.

    Args:
        parser: of the verb.
        function: what the verb calls.
        flags: help and metavar by name of the parameter.

    Raises:
        KeyError: a parameter has no entry in ``flags``.
    """
    types = get_type_hints(function)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name != "progress":
            _add_flag(parser, parameter, types[parameter.name], flags[parameter.name])


def _add_flag(parser: argparse.ArgumentParser, parameter: inspect.Parameter, kind: Any, flag: Flag) -> None:
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        parser.add_argument(parameter.name, metavar=flag.metavar, help=flag.help)
        return
    names = flag.names or (f"--{parameter.name.replace('_', '-')}",)
    if kind is bool:
        parser.add_argument(*names, dest=parameter.name, action="store_true", help=flag.help)
        return
    parser.add_argument(
        *names,
        dest=parameter.name,
        required=parameter.default is inspect.Parameter.empty,
        default=None if parameter.default is inspect.Parameter.empty else parameter.default,
        type=flag.parse or _number(kind) or str,
        metavar=flag.metavar,
        help=flag.help,
    )


def _number(kind: Any) -> type[int] | type[float] | None:
    """Return the number type of ``int | None`` or ``float | None``; None for any other annotation."""
    kinds = set(get_args(kind) or (kind,)) - {type(None)}
    return next((each for each in (int, float) if kinds == {each}), None)


def call(function: Callable[..., Result], arguments: argparse.Namespace, **others: object) -> Result:
    """Call a function with the arguments of its verb that are parameters of it, and with others."""
    parameters = inspect.signature(function).parameters
    return function(**{**{name: value for name, value in vars(arguments).items() if name in parameters}, **others})


class Vocabulary:
    """Translates the text of an error from the parameters of functions to the flags of verbs.

    The library writes ``calib=IMAGES``, ``precision='fp16'`` and ``vitedge.build(bundle, overwrite=True)``; whoever
    typed a command reads ``--calib IMAGES``, ``--precision fp16`` and ``vitedge build BUNDLE --overwrite``.

    Args:
        parsers: by verb.
    """

    def __init__(self, parsers: Mapping[str, argparse.ArgumentParser]) -> None:
        self._flags = {verb: _flags_of(parser) for verb, parser in parsers.items()}

    def translate(self, text: str, verb: str = "") -> str:
        """Translate a text for the user of a verb. The flags of that verb go before flags of other verbs."""
        known = {name: flag for flags in self._flags.values() for name, flag in flags.items()}
        known.update(self._flags.get(verb, {}))
        words, rest = list[str](), 0
        for found in _CALL.finditer(text):
            words += [_with_flags(text[rest : found.start()], known), self._as_command(found)]
            rest = found.end()
        return "".join([*words, _with_flags(text[rest:], known)])

    def _as_command(self, match: re.Match[str]) -> str:
        command = COMMANDS.get(match[1], match[1])
        flags = self._flags.get(command.split()[0])
        if flags is None:
            return match[0]
        words = [_with_flags(word, flags) for word in match[2].split(", ")]
        if any("=" in word for word in words):  # an argument that the command line does not have
            return match[0]
        typed = [word if word.startswith("-") else word.upper() for word in words if word]
        return " ".join(["vitedge", command, *typed])


def _flags_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    return {action.dest: max(action.option_strings, key=len) for action in parser._actions if action.option_strings}


def _with_flags(text: str, flags: Mapping[str, str]) -> str:
    return _ARGUMENT.sub(lambda match: _as_flag(match, flags), text)


def _as_flag(match: re.Match[str], flags: Mapping[str, str]) -> str:
    name, quoted, height, width, plain = match.groups()
    if name not in flags:
        return match[0]
    value = _size(height, width) if height else plain if quoted is None else quoted
    return flags[name] if value in ("", "True") else f"{flags[name]} {value}"


def _size(height: str, width: str) -> str:
    return f"{height}x{width}" if height.isdecimal() else "HxW"
