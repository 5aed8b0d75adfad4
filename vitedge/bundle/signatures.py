"""Signatures of bundles: Ed25519 over the exact bytes of ``manifest.json``, which holds the hash of every other file.

``manifest.sig`` beside it holds one signature for each key. A device checks them against public keys that it has from
another source. ``openssl pkeyutl -verify -rawin`` checks them too. ``vitedge.bundle.signing`` makes keys and
signatures.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vitedge.counts import counted
from vitedge.errors import BundleSchemaError, BundleSignatureError, UsageError
from vitedge.extras import require
from vitedge.records import decode
from vitedge.safety.files import parse_json, read_bytes
from vitedge.safety.limits import BUNDLE_SIGNATURES, KEY_BYTES, SIGNATURES_BYTES, TRUSTED_KEYS

Key: TypeAlias = "str | os.PathLike[str] | bytes"
Trust: TypeAlias = "Key | Iterable[Key]"
"""Public keys: a PEM file, a folder of ``.pem`` files, the bytes of a PEM file or of a raw key, or several of these."""

SIGNATURES = "manifest.sig"
VERSION = 1
KEY_ID_DIGITS = 16
RAW_BYTES = 32
SIGNATURE_BYTES = 64
EXPECTED_KEYS = "Ed25519 public keys in PEM, as vitedge.new_key writes them"

_PUBLIC_KEYS = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


@dataclass(frozen=True)
class PublicKey:
    """A trusted public key.

    Attributes:
        id: first 16 hex digits of the SHA-256 of ``raw``.
        raw: the 32 bytes of the key.
    """

    id: str
    raw: bytes


@dataclass(frozen=True)
class Signature:
    """One signature of ``manifest.sig``.

    Attributes:
        key: ID of the key that made the signature.
        signature: 64 bytes in base64.
    """

    key: str
    signature: str


@dataclass(frozen=True)
class Signatures:
    """The content of ``manifest.sig``."""

    version: int
    algorithm: Literal["ed25519"]
    signatures: tuple[Signature, ...]


def key_id(raw: bytes) -> str:
    """Return the ID of a key, for people and for ``manifest.sig``; an ID proves nothing."""
    return hashlib.sha256(raw).hexdigest()[:KEY_ID_DIGITS]


def trusted_keys(trust: Trust) -> tuple[PublicKey, ...]:
    """Read the trusted public keys; at least one.

    Raises:
        UsageError: there is no key, or something is no Ed25519 public key.
        MissingExtraError: the cryptography package is not installed.
    """
    named = [trust] if isinstance(trust, (str, bytes, os.PathLike)) else list(trust)
    keys = {key.id: key for each in named for key in _keys_of(each)}
    if not keys:
        raise UsageError("no key is trusted, so no bundle is", expected=EXPECTED_KEYS)
    return tuple(keys.values())


def _keys_of(named: Key) -> list[PublicKey]:
    if isinstance(named, bytes) and len(named) == RAW_BYTES:
        return [PublicKey(key_id(named), named)]
    if isinstance(named, bytes):
        return _parse_keys(named, "the key that was given")
    path = Path(named)
    try:
        files = _key_files(path) if path.is_dir() else [path]
        contents = [(file, read_bytes(file, limit=KEY_BYTES)) for file in files]
    except (OSError, ValueError) as error:
        raise UsageError(f"the key {path} cannot be read: {error}", expected=EXPECTED_KEYS) from error
    if not contents:
        raise UsageError(f"the folder {path} has no .pem file", expected=EXPECTED_KEYS)
    return [key for file, content in contents for key in _parse_keys(content, str(file))]


def _key_files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix == ".pem" and not file.name.startswith("."))
    if len(files) > TRUSTED_KEYS:
        raise ValueError(f"it has {len(files)} keys; the limit is {TRUSTED_KEYS}")
    return files


def _parse_keys(content: bytes, where: str) -> list[PublicKey]:
    if b"PRIVATE KEY-----" in content:
        raise UsageError(
            f"{where} is a private key",
            expected=EXPECTED_KEYS,
            fix="give the public key, whose name ends in .pub.pem, and take the private one off this machine",
        )
    blocks = _PUBLIC_KEYS.findall(content)
    if not blocks:
        raise UsageError(f"{where} has no public key", expected=EXPECTED_KEYS)
    return [_parse_key(block, where) for block in blocks]


def _parse_key(block: bytes, where: str) -> PublicKey:
    serialization = _cryptography("hazmat.primitives.serialization")
    try:
        key = serialization.load_pem_public_key(block)
    except (ValueError, TypeError, _cryptography("exceptions").UnsupportedAlgorithm) as error:
        raise UsageError(f"{where} is no public key: {error}", expected=EXPECTED_KEYS) from error
    if not isinstance(key, _ed25519().Ed25519PublicKey):
        raise UsageError(f"{where} is a key of another kind: {type(key).__name__}", expected=EXPECTED_KEYS)
    raw: bytes = key.public_bytes_raw()
    return PublicKey(key_id(raw), raw)


def verify(manifest: bytes, folder: Path, trusted: Sequence[PublicKey]) -> str:
    """Check that a trusted key has signed a manifest.

    Args:
        manifest: the bytes that the caller will parse.
        folder: the bundle's folder, with ``manifest.sig``.
        trusted: keys; one of them must have signed the manifest.

    Returns:
        The ID of the key.

    Raises:
        BundleSignatureError: the manifest is not signed or only by keys that are not trusted, was altered after
            signing, or the signatures cannot be read.
        MissingExtraError: the cryptography package is not installed.
    """
    found, known = read_signatures(folder), {key.id: key for key in trusted}
    expected = f"a signature by {' or '.join(known)}"
    if not found:
        raise BundleSignatureError(
            f"{folder} is not signed", expected=expected, fix="where the private key is: vitedge.sign(bundle, key=FILE)"
        )
    signers = [each for each in found if each.key in known]
    if not signers:
        raise BundleSignatureError(
            f"{folder} is signed by {', '.join(each.key for each in found)}, which is not trusted here",
            expected=expected,
            fix="get the bundle from a source that you trust; or trust this key, if it belongs to them",
        )
    for each in signers:
        if _is_valid(each, known[each.key], manifest):
            return each.key
    raise BundleSignatureError(
        f"{folder} was altered after {', '.join(each.key for each in signers)} signed it",
        expected="the manifest that was signed",
        fix="copy the bundle again; or sign it again, if the change is yours",
    )


def _is_valid(signature: Signature, key: PublicKey, manifest: bytes) -> bool:
    try:
        _ed25519().Ed25519PublicKey.from_public_bytes(key.raw).verify(base64.b64decode(signature.signature), manifest)
    except _cryptography("exceptions").InvalidSignature:
        return False
    return True


def read_signatures(folder: Path) -> tuple[Signature, ...]:
    """Read the signatures of a bundle, without verifying them; empty if it has no ``manifest.sig``.

    Raises:
        BundleSignatureError: the signatures cannot be read.
    """
    path = folder / SIGNATURES
    try:
        value = parse_json(read_bytes(path, limit=SIGNATURES_BYTES))
        found = decode(Signatures, value, where=str(path))
        for each in found.signatures:
            _check(each)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, BundleSchemaError) as error:
        raise _damaged(path, error) from error
    if found.version != VERSION or len(found.signatures) > BUNDLE_SIGNATURES:
        raise _damaged(path, f"version {found.version} with {counted(len(found.signatures), 'signature')}")
    return found.signatures


def _check(signature: Signature) -> None:
    """Refuse a malformed signature.

    Raises:
        ValueError: the signature is no base64 of 64 bytes, or the key's ID is malformed.
    """
    if not re.fullmatch(f"[0-9a-f]{{{KEY_ID_DIGITS}}}", signature.key):
        raise ValueError(f"{signature.key!r} is no id of a key")
    try:
        decoded = base64.b64decode(signature.signature, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the signature by {signature.key} is not base64") from error
    if len(decoded) != SIGNATURE_BYTES:
        raise ValueError(f"the signature by {signature.key} has {len(decoded)} bytes")


def _damaged(path: Path, reason: object) -> BundleSignatureError:
    return BundleSignatureError(
        f"{path} cannot be read: {reason}",
        expected=f"at most {BUNDLE_SIGNATURES} signatures, version {VERSION}, as vitedge sign writes them",
        fix="copy the bundle again; or remove that file, and sign the bundle again",
    )


def _ed25519() -> Any:
    return _cryptography("hazmat.primitives.asymmetric.ed25519")


def _cryptography(module: str) -> Any:
    return require(f"cryptography.{module}", extra="signing", purpose="checking signatures")
