"""The flags that make a verb check signatures."""

from __future__ import annotations

import argparse

from vitedge.errors import UsageError


def add_trust_options(parser: argparse.ArgumentParser) -> None:
    """Declare ``--trust`` and ``--require-signature``."""
    parser.add_argument(
        "--trust",
        action="append",
        metavar="KEYS",
        help="load the bundle only if one of these public keys has signed it: a PEM file or a folder of .pem files; "
        "may be repeated; vitedge sign makes signatures",
    )
    parser.add_argument(
        "--require-signature",
        action="store_true",
        help="fail if --trust is missing, so that a command that lost it loads no unsigned bundle",
    )


def trusted(arguments: argparse.Namespace) -> list[str] | None:
    """Return the argument ``trust`` of the library.

    Raises:
        UsageError: a signature is required, but no key is trusted.
    """
    keys: list[str] | None = arguments.trust
    if arguments.require_signature and not keys:
        raise UsageError(
            "--require-signature needs the keys to trust", fix="--trust KEYS, a public key or a folder of them"
        )
    return keys
