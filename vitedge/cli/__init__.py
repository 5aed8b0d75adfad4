"""The command line: one module a verb, a thin shell over the function of ``vitedge`` of that name.

Each module has ``add_parser`` and ``run``; heavy imports happen inside ``run``. Start with ``flags``.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from vitedge.cli import output
from vitedge.cli.flags import Vocabulary
from vitedge.cli.help_format import HelpFormatter
from vitedge.cli.verbosity import add_verbosity_flags, timed, verbosity
from vitedge.errors import UsageError, VitedgeError, did_you_mean
from vitedge.runtime.system.owned import join_daemons
from vitedge.safety.escape import terminal
from vitedge.safety.redact import redact_exception
from vitedge.version import VERSION

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

VERBS: tuple[str, ...] = (
    "convert",
    "build",
    "eval",
    "run",
    "bench",
    "inspect",
    "sign",
    "export",
    "doctor",
    "targets",
    "models",
    "demo",
    "completion",
)

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

DESCRIPTION = """\
Turn a checkpoint of a Vision Transformer into a bundle, a folder with all that an edge device needs to run and to check
the model; stream cameras through the bundle, and measure it.
"""
EPILOG = """\
vitedge help VERB explains a verb and its options.

examples:
  vitedge demo
  vitedge convert timm:deit_tiny_patch16_224 --target cpu --precision int8 --calib images/ -o deit.bundle
  vitedge run deit.bundle --source 0 --show
  vitedge bench deit.bundle --against deit-fp32.bundle
"""


UNRECOGNIZED = "unrecognized arguments: "
MISSING = "the following arguments are required: "
"""How two messages of argparse begin."""
_INVALID_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")
_CHOICE = re.compile(r"[\w-]+")


class Parser(argparse.ArgumentParser):
    """An argument parser that never abbreviates, and suggests the option that was meant."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, and take a name that begins with a dash as the value of the option before it."""
        self._given = list(self._joined(sys.argv[1:] if args is None else args))
        return super().parse_known_args(self._given, namespace)

    def _joined(self, arguments: Sequence[str]) -> Iterator[str]:
        """Yield the arguments; an option and a name with a dash become one argument, such as ``--source=-a.mp4``."""
        waiting = ""
        for argument in arguments:
            if waiting and self._is_dashed_value(argument):
                waiting, argument = "", f"{waiting}={argument}"
            if waiting:
                yield waiting
            action = self._option_string_actions.get(argument)
            waiting = argument if action is not None and action.nargs is None and argument.startswith("--") else ""
            if not waiting:
                yield argument
        if waiting:
            yield waiting

    def _is_dashed_value(self, argument: str) -> bool:
        known = self._option_string_actions
        if not argument.startswith("-") or len(argument) < 3 or argument.partition("=")[0] in known:
            return False
        return os.path.lexists(argument) or not (argument.startswith("--") or argument[:2] in known)

    def error(self, message: str) -> NoReturn:
        """Print the message with a suggestion, and exit with 2."""
        unknown = self._unknown_options()
        if message.startswith(MISSING) and unknown:  # a required option that is mistyped is not just missing
            message = f"{UNRECOGNIZED}{' '.join(unknown)}"
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"error: {terminal(message)}\n{self._suggestion(message)}")

    def _unknown_options(self) -> list[str]:
        known = self._option_string_actions
        return [each for each in self._given if each.startswith("--") and each.partition("=")[0] not in known]

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Print help or usage; argparse itself drops what cannot be written."""
        (output.write if file is sys.stdout else output.note)(message)

    def _suggestion(self, message: str) -> str:
        choice = _INVALID_CHOICE.search(message)
        if choice is not None:
            hint = did_you_mean(choice[1], _CHOICE.findall(choice[2]))
            return f"  fix: {hint}\n" if hint else ""
        if not message.startswith(UNRECOGNIZED):
            return ""
        wrong = message[len(UNRECOGNIZED) :].split()[0].partition("=")[0]
        options = [option for action in self._actions for option in action.option_strings]
        hint = did_you_mean(wrong, options) or did_you_mean(_beginning(wrong, options), options, limit=1)
        return f"  fix: {hint}\n" if hint else f"  fix: {self.prog} --help lists the options\n"


def _beginning(option: str, options: Sequence[str]) -> str:
    """Return the longest option with which a wrong one begins, as ``--calib`` for ``--calibration``; "" without any."""
    return max((each for each in options if len(each) > 4 and option.startswith(each)), key=len, default="")


def build_parser() -> tuple[argparse.ArgumentParser, Vocabulary]:
    """Build the parser of the whole command line, and the vocabulary of its flags."""
    parser = Parser(prog="vitedge", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"vitedge {VERSION}")
    add_verbosity_flags(parser, default=False)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for verb in VERBS:
        importlib.import_module(f"vitedge.cli.{verb}").add_parser(verbs)
    for each in verbs.choices.values():
        add_verbosity_flags(each, default=argparse.SUPPRESS)
    vocabulary = Vocabulary(verbs.choices)
    about = verbs.add_parser("help", help="print this, or the help of a verb", description="Print the help of a verb.")
    about.add_argument("about", nargs="?", choices=VERBS, metavar="VERB", help=", ".join(VERBS))
    about.set_defaults(run=lambda arguments: _help(verbs.choices.get(arguments.about, parser)), parser=about)
    parser.set_defaults(run=lambda _: _help(parser), parser=parser)
    return parser, vocabulary


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 0


def program() -> NoReturn:
    """Run as a program of its own.

    A thread that hangs in a library ends with the process. If it came back while the interpreter ends, it could crash.
    """
    exit_code = main()
    if not join_daemons():
        logging.shutdown()
        os._exit(exit_code)
    sys.exit(exit_code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb, and return the exit code: 0 done, 1 an explained error, 2 wrong usage, 130 interrupted."""
    output.prepare()
    try:
        exit_code = _status(arguments)
    except SystemExit:  # argparse has printed help, or what was wrong
        if output.finish():
            raise
        return EXIT_ERROR
    return exit_code if output.finish() else EXIT_ERROR


def _status(arguments: Sequence[str] | None) -> int:
    vocabulary = Vocabulary({})
    try:
        parser, vocabulary = build_parser()
        namespace, rest = parser.parse_known_args(arguments)
        if rest:
            namespace.parser.error(f"{UNRECOGNIZED}{' '.join(rest)}")
        with verbosity(namespace):
            return _run(namespace, vocabulary)
    except VitedgeError as error:
        return _explain(error, vocabulary)
    except KeyboardInterrupt:
        output.note("interrupted; nothing half-written was left\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_ERROR


def _run(namespace: argparse.Namespace, vocabulary: Vocabulary) -> int:
    try:
        with timed(namespace):
            exit_code: int = namespace.run(namespace)
    except VitedgeError as error:
        if namespace.verbose:
            output.note(redact_exception(error))
        return _explain(error, vocabulary, namespace.verb or "")
    return exit_code


def _explain(error: VitedgeError, vocabulary: Vocabulary, verb: str = "") -> int:
    output.note(f"error: {vocabulary.translate(str(error), verb)}\n")
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_ERROR
