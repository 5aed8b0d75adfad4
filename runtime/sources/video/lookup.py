"""``look_up``: finds the numbers of a host, in a thread that can be given up."""

from __future__ import annotations

import errno
import socket
import time
from ipaddress import ip_address
from typing import Any

from vitedge.runtime.system.owned import start_daemon


def is_number(host: str) -> bool:
    """Return whether a host is a number, which is not looked up."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def look_up(host: str, deadline: float) -> list[tuple[socket.AddressFamily, str]]:
    """Return the family and number of each address of a host, which is a name.

    Raises:
        TimeoutError: no answer came before ``deadline``, a time on ``time.monotonic``.
        OSError: the name is not known.
    """
    found: list[Any] = []
    lookup = start_daemon("vitedge-lookup", _ask, host, found)
    lookup.join(max(0.0, deadline - time.monotonic()))
    if not found:
        raise TimeoutError(errno.ETIMEDOUT, "no answer of the name server")
    if isinstance(found[0], OSError):
        raise found[0]
    return list(dict.fromkeys((socket.AddressFamily(each[0]), str(each[4][0])) for each in found[0]))


def _ask(host: str, found: list[Any]) -> None:
    try:
        found.append(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except OSError as error:
        found.append(error)
    except UnicodeError:
        found.append(socket.gaierror(socket.EAI_NONAME, "not a name"))
