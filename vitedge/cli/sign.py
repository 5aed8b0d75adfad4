"""``vitedge sign``: sign a bundle for devices that trust a key, or make a key."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import Any

from vitedge.cli import output
from vitedge.errors import UsageError
from vitedge.safety.escape import terminal_lines

DESCRIPTION = """\
Sign a bundle with an Ed25519 key: devices that trust the key can tell that the bundle is yours and unaltered.
The signature goes into the bundle as manifest.sig, and ends when the manifest changes.
"""
EPILOG = """\
Keys are PEM files: openssl genpkey -algorithm ed25519 makes them too. vitedge sign --new-key writes a private key that
is not encrypted, for its owner alone; to encrypt it: openssl pkey -aes256 -in fleet.pem -out fleet-encrypted.pem. A
bundle may have signatures by several keys, so that a new key can be introduced before the old one is withdrawn.

examples:
  vitedge sign --new-key fleet.pem
  vitedge sign deit.bundle --key fleet.pem
  vitedge run deit.bundle --source 0 --require-signature --trust fleet.pub.pem
"""


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser(
        "sign", help="sign a bundle for devices that trust your key", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="folder that vitedge convert wrote")
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="private key; if it is encrypted, its passphrase is asked for"
    )
    parser.add_argument(
        "--new-key", type=Path, metavar="FILE", help="make a private key, and its public key beside it, in .pub.pem"
    )
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Sign, or make a key.

    Raises:
        UsageError: neither or both were asked for.
    """
    if arguments.new_key is not None and arguments.bundle is None and arguments.key is None:
        return _new_key(arguments.new_key)
    if arguments.new_key is None and arguments.bundle is not None and arguments.key is not None:
        return _sign(arguments.bundle, arguments.key)
    raise UsageError(
        "vitedge sign needs a bundle and a key, or --new-key alone",
        expected="vitedge sign BUNDLE --key FILE, or vitedge sign --new-key FILE",
    )


def _new_key(path: Path) -> int:
    from vitedge.bundle.signing import new_key, public_path

    key = new_key(path)
    output.tell(
        terminal_lines(
            [
                f"{path}  private key, not encrypted: whoever has it signs in your name",
                f"{public_path(path)}  public key {key.id}, for devices: --trust",
            ]
        )
    )
    return 0


def _sign(bundle: Path, key: Path) -> int:
    from vitedge.bundle.signing import is_encrypted, sign

    passphrase = _ask(key) if is_encrypted(key) else None
    signed_by = sign(bundle, key=key, passphrase=passphrase)
    output.tell(terminal_lines([f"{bundle}  signed by {signed_by.id}"]))
    return 0


def _ask(key: Path) -> str:
    if not sys.stdin.isatty():
        raise UsageError(
            f"{key} is encrypted, and there is no terminal to ask for its passphrase",
            expected="a terminal, or a key that is not encrypted",
            fix="in Python, vitedge.sign takes the passphrase as an argument",
        )
    return getpass.getpass(f"passphrase of {terminal_lines([str(key)]).strip()}: ")
