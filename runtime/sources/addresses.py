"""``split_address``: takes an address apart, also one whose password holds ``@``, ``/`` or ``:`` as they are.

By the rules of addresses such characters are written as ``%40`` or ``%2F``. People paste passwords as they are. The
text before the last ``@`` that a likely host follows is then the user and the password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import quote, unquote

_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[\w.\-]*)(?::(?P<port>\d{1,5}))?(?=[/?#]|$)")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LARGEST_PORT = 65535
_KEPT = "!$&'()*+,;=~"
"""Characters of a user or password that need no percent code."""


@dataclass(frozen=True)
class Address:
    """The parts of an address.

    Attributes:
        scheme: protocol, in small letters.
        user: with percent codes; None without a user.
        password: with percent codes; None without a password.
        host: name or number; an IPv6 number stands in brackets.
        port: port; None if it is not stated.
        rest: path, query and fragment.
    """

    scheme: str
    user: str | None
    password: str | None
    host: str
    port: int | None
    rest: str

    def __str__(self) -> str:
        user = "" if self.user is None else self.user
        password = "" if self.password is None else f":{self.password}"
        at = "" if self.user is None and self.password is None else "@"
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{user}{password}{at}{self.host}{port}{self.rest}"


def split_address(address: str) -> Address | None:
    """Take an address apart; None if it has no scheme, or no host that could be one."""
    scheme, separator, body = address.strip().partition("://")
    if not separator or not scheme:
        return None
    places = [-1, *(match.start() for match in re.finditer("@", body))]
    readings = [reading for place in places if (reading := _reading(scheme.lower(), body, place)) is not None]
    if not readings:
        return None
    return max(enumerate(readings), key=lambda each: (_likelihood(each[1]), _order(each[1], each[0])))[1]


def _reading(scheme: str, body: str, place: int) -> Address | None:
    """Read an address whose user and password end at the ``@`` at ``place``; -1 for one without them."""
    match = _HOST.match(body, place + 1)
    port = None if match is None or match["port"] is None else int(match["port"])
    if match is None or (port or 0) > _LARGEST_PORT:
        return None
    user, password = None, None
    if place >= 0:
        name, colon, secret = body[:place].partition(":")
        if re.search(r"[/?#]", name):  # a password may hold these, a user hardly
            return None
        user, password = _encoded(name), _encoded(secret) if colon else None
    return Address(scheme, user, password, match["host"], port, body[match.end() :])


def _likelihood(address: Address) -> int:
    """Rank a host: a number, a name with dots or a port, a word, nothing that could be one."""
    host = address.host.strip("[]")
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        pass
    else:
        return 3
    if host == "localhost":
        return 3
    if not host or host.isdecimal():
        return 0
    return 2 if "." in host.strip(".") or address.port is not None else 1


def _order(address: Address, place: int) -> int:
    """Prefer, of two likely hosts, the one that the rules of addresses find: the first. Of two words, the last."""
    return -place if _likelihood(address) > 1 else place


def _encoded(text: str) -> str:
    """Write what may not stand in a user or password as percent codes; codes that are there stay."""
    return quote(unquote(_ESCAPE.sub("%25", text), errors="surrogateescape"), safe=_KEPT, errors="surrogateescape")
