"""Make keys and sign bundles, before publishing; ``vitedge.bundle.signatures`` checks signatures on devices."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.folder import check_output_file
from vitedge.bundle.signatures import (
    SIGNATURES,
    VERSION,
    Key,
    PublicKey,
    Signature,
    Signatures,
    key_id,
    read_signatures,
)
from vitedge.counts import counted
from vitedge.errors import UsageError
from vitedge.extras import require
from vitedge.files import unwritable, write_report
from vitedge.records import encode
from vitedge.safety import escape
from vitedge.safety.files import read_bytes
from vitedge.safety.limits import BUNDLE_SIGNATURES, KEY_BYTES

PRIVATE_MODE = 0o600
EXPECTED_KEY = "an Ed25519 private key in PEM (PKCS 8), as vitedge.new_key or openssl genpkey writes it"


def public_path(path: Path) -> Path:
    """Return the path of the public key that belongs to a new private key: ``fleet.pub.pem`` for ``fleet.pem``."""
    return path.with_name(f"{path.name.removesuffix('.pem')}.pub.pem")


def new_key(path: str | Path) -> PublicKey:
    """Make a key pair: a private key for signing, and beside it the public key, which devices trust.

    Args:
        path: path of the private key; it must not exist. The key is written as unencrypted PEM that only its owner may
            read. The public key is written to ``public_path(path)``.

    Returns:
        The public key.

    Raises:
        UsageError: one of the files exists or cannot be written.
        OutputError: the disk is full.
        MissingExtraError: the cryptography package is not installed.
    """
    private_file, public_file = Path(path), public_path(Path(path))
    for file in (private_file, public_file):
        if os.path.lexists(file):
            raise UsageError(f"{file} exists; vitedge never overwrites a key", expected="a name that is free")
        check_output_file(file)
    serialization = _cryptography("serialization")
    private = _cryptography("asymmetric.ed25519").Ed25519PrivateKey.generate()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    _create(private_file, private.private_bytes(pem, pkcs8, serialization.NoEncryption()), PRIVATE_MODE)
    public = private.public_key()
    try:
        _create(public_file, public.public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo), 0o644)
    except BaseException:
        private_file.unlink(missing_ok=True)
        raise
    return _public(public)


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise unwritable(path, error, expected="a place for a key") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise unwritable(path, error, expected="a place for a key") from error


def is_encrypted(key: Key) -> bool:
    """Return whether a private key needs a passphrase.

    Raises:
        UsageError: the key cannot be read.
    """
    return b"ENCRYPTED" in _content(key)


def sign(bundle: Bundle | str | Path, *, key: Key, passphrase: str | None = None) -> PublicKey:
    """Sign a bundle: add a signature to its ``manifest.sig``, in place of an earlier one by the same key.

    All listed files are checked first. A change of the manifest, such as calibrated scores, invalidates the signature.
    The signature does not cover plans that a device builds into ``tensorrt/``.

    Args:
        bundle: a bundle, or the path of a bundle.
        key: private key: a PEM file, or its bytes.
        passphrase: passphrase of the key, if it is encrypted.

    Returns:
        The public key; devices name its ID in their errors.

    Raises:
        BundleError: the bundle cannot be read, or a file of it was altered.
        BundleSignatureError: existing signatures of the bundle cannot be read.
        UsageError: the key is no private key, the passphrase is wrong, or the bundle cannot be written.
        OutputError: the disk is full.
        MissingExtraError: the cryptography package is not installed.
    """
    private = _private_key(key, passphrase)
    public = _public(private.public_key())
    opened = Bundle.open(bundle.path if isinstance(bundle, Bundle) else bundle)
    manifest = opened.unchanged_manifest()
    others = tuple(each for each in read_signatures(opened.path) if each.key != public.id)
    if len(others) >= BUNDLE_SIGNATURES:
        raise UsageError(
            f"{opened.path} has {counted(len(others), 'signature')}, the most that a bundle may have",
            fix=f"remove {opened.path / SIGNATURES}, and sign with the keys that are still trusted",
        )
    signature = Signature(public.id, base64.b64encode(private.sign(manifest)).decode("ascii"))
    document = Signatures(VERSION, "ed25519", (*others, signature))
    write_report(opened.path / SIGNATURES, escape.json(encode(document), indent=1) + "\n")
    return public


def _private_key(key: Key, passphrase: str | None) -> Any:
    content, where = _content(key), "the key that was given" if isinstance(key, bytes) else os.fspath(key)
    try:
        private = _cryptography("serialization").load_pem_private_key(
            content, password=None if passphrase is None else passphrase.encode("utf-8")
        )
    except (ValueError, TypeError, _unsupported()) as error:
        raise UsageError(
            f"{where} is no private key that can be read: {error}", expected=EXPECTED_KEY, fix="check its passphrase"
        ) from error
    if not isinstance(private, _cryptography("asymmetric.ed25519").Ed25519PrivateKey):
        raise UsageError(f"{where} is a key of another kind: {type(private).__name__}", expected=EXPECTED_KEY)
    return private


def _content(key: Key) -> bytes:
    if isinstance(key, bytes):
        return key
    try:
        return read_bytes(Path(key), limit=KEY_BYTES)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the key {os.fspath(key)} cannot be read: {error}",
            expected=EXPECTED_KEY,
            fix="vitedge.new_key(FILE) makes one",
        ) from error


def _public(key: Any) -> PublicKey:
    raw: bytes = key.public_bytes_raw()
    return PublicKey(key_id(raw), raw)


def _unsupported() -> type[Exception]:
    kind: type[Exception] = require(
        "cryptography.exceptions", extra="signing", purpose="signing bundles"
    ).UnsupportedAlgorithm
    return kind


def _cryptography(module: str) -> Any:
    return require(f"cryptography.hazmat.primitives.{module}", extra="signing", purpose="signing bundles")
