"""``vitedge completion``: a script with which a shell completes the verbs, the options and their values."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from vitedge.bundle.model_card import Activation
from vitedge.bundle.targets import TARGETS, Precision
from vitedge.cli import output
from vitedge.converters.integrations.export import WRITERS
from vitedge.extras import require

SHELLS = ("bash", "zsh", "fish")
EPILOG = """\
The script needs nothing of vitedge when it runs: it may be made on one machine for others with the same version.

examples:
  vitedge completion bash > ~/.local/share/bash-completion/completions/vitedge
  vitedge completion zsh > ~/.zfunc/_vitedge          with fpath+=~/.zfunc before compinit in .zshrc
  vitedge completion fish > ~/.config/fish/completions/vitedge.fish
"""
PATHS = ("FILE", "DIR", "DATA", "BUNDLE", "IMAGES", "VIDEO", "KEYS", "SOURCE", "SPEC", "[NAME=]URI")
"""Metavars of values that may be paths."""


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser(
        "completion",
        help="a script with which your shell completes commands",
        description="Write a script for a shell to standard output, which completes verbs, options and their values.",
        epilog=EPILOG,
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the script."""
    shtab = require("shtab", extra="completion", purpose="vitedge completion")
    from vitedge.cli import build_parser

    parser, _ = build_parser()
    for verb in _verbs(parser):
        for action in verb._actions:
            _describe(action, shtab.FILE)
    output.write(shtab.complete(parser, arguments.shell))
    return 0


def _verbs(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    actions = parser._actions
    return [verb for each in actions if isinstance(each, argparse._SubParsersAction) for verb in each.choices.values()]


def _describe(action: Any, file: object) -> None:
    """Give an action the choices that its verb checks itself, with better errors than argparse has; or files."""
    choices = _values().get(action.dest)
    if choices is not None and action.option_strings:
        action.choices = choices
    elif action.metavar in PATHS:
        action.complete = file


def _values() -> dict[str, tuple[str, ...]]:
    """Return the values of options by name."""
    return {
        "target": tuple(target.name for target in TARGETS if not target.refusal),
        "precision": (*get_args(Precision), "auto"),
        "activation": get_args(Activation),
        "tool": tuple(WRITERS),
    }
