"""``Authorization``: answers the challenges of a server, Basic (RFC 7617) and Digest (RFC 7616)."""

from __future__ import annotations

import hashlib
import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

_TOKEN = re.compile(r'([\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]*)|([\w-]+)')
_MOST_PARAMETERS = 100
_MOST_STALE = 2
"""Nonces of one request that a server may call stale."""


@dataclass(frozen=True)
class Challenge:
    """What a server asks for.

    Attributes:
        scheme: ``basic`` or ``digest``, or another in small letters.
        parameters: by names in small letters.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def algorithm(self) -> str:
        """Return the algorithm of a digest, in small letters."""
        return self.parameters.get("algorithm", "md5").lower()

    @property
    def rank(self) -> int:
        """Rank the challenge by its strength; 0 if it cannot be answered."""
        if self.scheme == "basic":
            return 1
        qualities = self.parameters.get("qop", "auth").replace(",", " ").lower().split()
        is_known = self.scheme == "digest" and "nonce" in self.parameters and "auth" in qualities
        return (3 if "sha-256" in self.algorithm else 2) if is_known and self.algorithm in _HASHES else 0


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Return the challenges of all ``WWW-Authenticate`` headers; a header may hold several."""
    found: list[tuple[str, dict[str, str]]] = []
    for value in values:
        for name, text, word in _TOKEN.findall(value)[:_MOST_PARAMETERS]:
            if word:
                found.append((word.lower(), {}))
            elif found:
                found[-1][1].setdefault(name.lower(), _unquoted(text))
    return [Challenge(scheme, parameters) for scheme, parameters in found]


class Authorization:
    """Answers the challenges of one server.

    Args:
        user: name, as bytes; None without one, and then nothing is answered.
        password: of the user.
    """

    def __init__(self, user: bytes | None, password: bytes) -> None:
        self._user, self._password = user, password
        self._challenge: Challenge | None = None
        self._count = 0

    def accepts(self, values: Iterable[str], answered: int) -> bool:
        """Take note of the challenges of an answer 401; return whether another request may succeed.

        A password is not tried twice, unless the server says that only its nonce was old. Some cameras lock a user.

        Args:
            values: the ``WWW-Authenticate`` headers.
            answered: how many requests have answered challenges of this exchange.
        """
        best = max(parse_challenges(values), key=lambda each: each.rank, default=None)
        if self._user is None or best is None or not best.rank:
            return False
        self._challenge, self._count = best, 0
        is_stale = best.parameters.get("stale", "").lower() == "true"
        return answered == 0 or (is_stale and answered <= _MOST_STALE)

    def header(self, method: str, uri: str) -> str:
        """Return the value of ``Authorization`` for a request; empty as long as nobody asked."""
        if self._challenge is None or self._user is None:
            return ""
        if self._challenge.scheme == "basic":
            return f"Basic {b64encode(self._user + b':' + self._password).decode()}"
        return self._digest(self._challenge, self._user, method, uri)

    def _digest(self, challenge: Challenge, user: bytes, method: str, uri: str) -> str:
        given = challenge.parameters
        realm, nonce = given.get("realm", ""), given["nonce"]
        digest = _HASHES[challenge.algorithm]
        client = secrets.token_hex(8)
        self._count += 1
        secret = digest(b":".join((user, _bytes(realm), self._password)))
        if challenge.algorithm.endswith("-sess"):
            secret = digest(_bytes(f"{secret}:{nonce}:{client}"))
        request = digest(_bytes(f"{method}:{uri}"))
        fields = [
            ("username", user.decode("utf-8", "surrogateescape")),
            *(("realm", realm), ("nonce", nonce), ("uri", uri)),
        ]
        if "qop" in given:
            count = f"{self._count:08x}"
            response = digest(_bytes(f"{secret}:{nonce}:{count}:{client}:auth:{request}"))
            plain = f", qop=auth, nc={count}"
        else:
            response = digest(_bytes(f"{secret}:{nonce}:{request}"))
            plain = ""
        if "qop" in given or challenge.algorithm.endswith("-sess"):
            fields.append(("cnonce", client))
        fields.append(("response", response))
        if "opaque" in given:
            fields.append(("opaque", given["opaque"]))
        if "algorithm" in given:
            plain += f", algorithm={given['algorithm']}"
        return "Digest " + ", ".join(f'{name}="{_escaped(text)}"' for name, text in fields) + plain


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_HASHES: dict[str, Callable[[bytes], str]] = {
    "md5": _md5,
    "md5-sess": _md5,
    "sha-256": _sha256,
    "sha-256-sess": _sha256,
}


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
