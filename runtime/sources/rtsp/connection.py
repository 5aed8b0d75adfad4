"""Sockets of the client: a ``Connection`` by TCP or TLS, and a pair of ``Datagrams`` for RTP and RTCP by UDP.

None of them blocks. Waiting is for ``selectors`` with a deadline, and for a ``Waker``, by which another thread ends it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import selectors
import socket
import ssl
import time

from vitedge.runtime.sources.rtsp.errors import RtspError

CHUNK = 1 << 18
DATAGRAM = 1 << 16
MOST_DATAGRAMS = 256
"""Datagrams that are read before something else is looked at."""
RECEIVE_BUFFER = 4 << 20
"""What the kernel is asked to keep while a picture is decoded."""
PORT_ATTEMPTS = 50

Endpoint = tuple[socket.AddressFamily, str]
"""Family and number of a host."""


class Connection:
    """A connection to a server.

    Args:
        hosts: the numbers of its host, which are tried in this order.
        port: its port.
        deadline: when to give up, on ``time.monotonic``.
        name: its name, for TLS; None for a connection without encryption.

    Raises:
        OSError: it cannot be reached, or not in time.
        RtspError: no encrypted connection comes about.
    """

    def __init__(self, hosts: list[Endpoint], port: int, deadline: float, *, name: str | None = None) -> None:
        self._socket = _connected(hosts, port, deadline)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if name is not None:
                self._socket = _encrypted(self._socket, name, deadline)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return its descriptor, for ``selectors``."""
        return self._socket.fileno()

    @property
    def peer(self) -> Endpoint:
        """Return the family and the address of the host at the other end."""
        return self._socket.family, self._socket.getpeername()[0]

    @property
    def local(self) -> Endpoint:
        """Return the family and the address of this machine's end."""
        return self._socket.family, self._socket.getsockname()[0]

    def has_pending(self) -> bool:
        """Return whether decrypted bytes wait that no selector shows."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def receive(self) -> bytes | None:
        """Return the bytes that are there, also none; None if the server has ended the connection.

        Raises:
            OSError: it broke.
        """
        try:
            return self._socket.recv(CHUNK) or None
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        except ssl.SSLEOFError:
            return None
        except ssl.SSLError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the encrypted connection broke") from error

    def send(self, data: bytes, deadline: float) -> None:
        """Send bytes.

        Raises:
            OSError: the connection broke, or the server does not take them in time.
        """
        left = memoryview(data)
        while left:
            left = left[self._send_some(left, deadline) :]

    def _send_some(self, data: memoryview, deadline: float) -> int:
        """Send what the kernel takes; wait if it takes nothing. Return how much it took."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            _wait_for(self._socket, select.POLLOUT, deadline)
        except ssl.SSLWantReadError:
            _wait_for(self._socket, select.POLLIN, deadline)
        except ssl.SSLError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the encrypted connection broke") from error
        return 0

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self._socket.close()


class Datagrams:
    """Two ports of UDP that follow each other, for RTP and RTCP.

    Args:
        local: the number of this machine at which they listen.
        sender: the number of the server.

    Attributes:
        port: the first of them.
        senders: numbers whose datagrams are read.

    Raises:
        OSError: there are no free ports.
    """

    def __init__(self, local: Endpoint, sender: str) -> None:
        self._sender = sender
        self.senders = {_without_scope(sender)}
        self._sockets, self.port = _port_pair(local)

    def filenos(self) -> tuple[int, int]:
        """Return the descriptors of RTP and RTCP."""
        return self._sockets[0].fileno(), self._sockets[1].fileno()

    def receive(self, which: int) -> list[bytes]:
        """Return the datagrams that are there, of RTP (0) or RTCP (1)."""
        found: list[bytes] = []
        for _ in range(MOST_DATAGRAMS):
            try:
                data, address = self._sockets[which].recvfrom(DATAGRAM)
            except (BlockingIOError, InterruptedError):
                break
            except ConnectionRefusedError:  # the server's port does not listen to our reports
                continue
            if _without_scope(address[0]) in self.senders:
                found.append(data)
        return found

    def send(self, which: int, data: bytes, port: int) -> None:
        """Send a datagram to a port of the server; one that cannot be sent is lost, as others are."""
        with contextlib.suppress(OSError):
            self._sockets[which].sendto(data, (self._sender, port))

    def close(self) -> None:
        """Close both; a second call does nothing."""
        for each in self._sockets:
            each.close()


class Waker:
    """Ends a wait from another thread, or from a signal handler."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self.is_set = False

    def fileno(self) -> int:
        """Return its descriptor, which is readable once it is set."""
        return self._reader.fileno()

    def set(self) -> None:
        """End the wait of now, and every later one."""
        self.is_set = True
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self._reader.close()
        self._writer.close()


def timed_out() -> TimeoutError:
    """Return the error of a wait that was too long."""
    return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def _connected(hosts: list[Endpoint], port: int, deadline: float) -> socket.socket:
    failure: OSError = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    for place, (family, host) in enumerate(hosts):
        left = deadline - time.monotonic()
        if left <= 0:
            raise timed_out()
        attempt = socket.socket(family, socket.SOCK_STREAM)
        attempt.settimeout(left / (len(hosts) - place))
        try:
            attempt.connect((host, port))
        except OSError as error:
            attempt.close()
            failure = error if error.errno is not None else timed_out()
            continue
        return attempt
    raise failure


def _encrypted(connection: socket.socket, name: str, deadline: float) -> ssl.SSLSocket:
    """Encrypt a connection. The certificate is not checked: cameras sign it themselves, and no list knows them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLError):
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # for the short keys of old cameras
    connection.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        return context.wrap_socket(connection, server_hostname=name)
    except TimeoutError:
        raise timed_out() from None
    except (ssl.SSLError, ValueError, ConnectionResetError) as error:
        raise RtspError("no encrypted connection comes about", cause="tls") from error


def _without_scope(number: str) -> str:
    return number.partition("%")[0]


def _wait_for(waiting: socket.socket, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(waiting, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise timed_out()


def _port_pair(local: Endpoint) -> tuple[tuple[socket.socket, socket.socket], int]:
    """Return two bound sockets, whose ports are an even number and the next one."""
    family, host = local
    for _ in range(PORT_ATTEMPTS):
        first = socket.socket(family, socket.SOCK_DGRAM)
        second = socket.socket(family, socket.SOCK_DGRAM)
        try:
            first.bind((host, 0))
            port = first.getsockname()[1]
            if port % 2 == 0:
                second.bind((host, port + 1))
                for each in (first, second):
                    each.setblocking(False)
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
                return (first, second), port
        except OSError:
            pass
        first.close()
        second.close()
    raise OSError(errno.EADDRNOTAVAIL, "no two free ports that follow each other")


def wait_for_any(selector: selectors.BaseSelector, seconds: float) -> set[int]:
    """Return the descriptors that are ready within some seconds."""
    return {key.fd for key, _ in selector.select(max(0.0, seconds))}
