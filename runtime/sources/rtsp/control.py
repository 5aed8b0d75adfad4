"""``Control``: requests to a server and their answers, with authentication and redirection."""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote_to_bytes

from vitedge.runtime.sources.addresses import Address, split_address
from vitedge.runtime.sources.rtsp.authentication import Authorization
from vitedge.runtime.sources.rtsp.connection import Connection, Endpoint, timed_out
from vitedge.runtime.sources.rtsp.errors import RtspError, StatusError
from vitedge.runtime.sources.rtsp.messages import Interleaved, Message, Splitter, write_interleaved, write_message
from vitedge.safety.limits import RTSP_WAITING_PACKETS

PORTS = {"rtsp": 554, "rtsps": 322}
AGENT = "vitedge"
_OK, _UNAUTHORIZED = 200, 401
_MOVED = (301, 302, 303, 307, 308)
_MOST_MOVES = 5
_MOST_STRAY = 50
"""Messages that answer nothing, before a request is given up."""
_SAFE = "!$&'()*+,;=:@/?#[]%~"
"""Characters that an address keeps; others become percent codes."""

LookUp = Callable[[str, float], list[Endpoint]]
"""Finds the numbers of a host, within a deadline."""


@dataclass(frozen=True)
class _Target:
    """Where requests go.

    Attributes:
        scheme: ``rtsp`` or ``rtsps``.
        host: name or number, without brackets.
        port: its port.
        uri: the address without user and password.
    """

    scheme: str
    host: str
    port: int
    uri: str


class Control:
    """A connection for requests, and for the packets between them.

    Args:
        address: the address of the stream.
        look_up: finds the numbers of a host.
        deadline: when the server must have answered all requests until ``PLAY``, on ``time.monotonic``.

    Attributes:
        uri: the address in requests, without user and password; another one after a redirection.

    Raises:
        OSError: the server cannot be reached, or not in time.
        RtspError: no encrypted connection comes about.
    """

    def __init__(self, address: Address, look_up: LookUp, deadline: float) -> None:
        self._look_up, self.deadline = look_up, deadline
        self._target = _target_of(address)
        user = None if address.user is None and address.password is None else _secret(address.user)
        self._authorization = Authorization(user, _secret(address.password))
        self._number = self._answered = 0
        self._was_challenged = False
        self._packets: deque[Interleaved] = deque(maxlen=RTSP_WAITING_PACKETS)
        self._splitter = Splitter()
        self.connection = self._connect()

    @property
    def uri(self) -> str:
        """Return the address in requests, without user and password."""
        return self._target.uri

    def request(self, method: str, uri: str, headers: Sequence[tuple[str, str]] = ()) -> Message:
        """Send a request, and return the answer 200.

        Raises:
            StatusError: the server answers with an error.
            RtspError: it does not answer as RTSP does.
            OSError: the connection broke, or no answer came in time.
        """
        answered = 0
        is_again = False
        while True:
            try:
                self.send(method, uri, headers)
                answer = self._answer()
            except (_ClosedError, ConnectionResetError, BrokenPipeError):
                if not answered or is_again:
                    raise
                is_again = True  # some servers close the connection behind their challenge
                self._reconnect()
                continue
            if answer.status == _OK:
                return answer
            if answer.status != _UNAUTHORIZED or not self._authorization.accepts(
                answer.values("www-authenticate"), answered
            ):
                raise _failure(answer)
            answered += 1
            if answer.header("connection").lower() == "close":
                self._reconnect()

    def describe(self) -> Message:
        """Ask what the address holds; follow redirections to the same protocol.

        Raises:
            StatusError: the server answers with an error.
            RtspError: it does not answer as RTSP does, or redirects to another protocol or too often.
            OSError: the connection broke, or no answer came in time.
        """
        for _ in range(_MOST_MOVES):
            answer, location = self._describe_once()
            if answer is not None:
                return answer
            self._follow(location)
        raise RtspError(f"it redirects more than {_MOST_MOVES} times")

    def _describe_once(self) -> tuple[Message | None, str]:
        """Return a description, or the address at which it is."""
        try:
            return self.request("DESCRIBE", self.uri, [("Accept", "application/sdp")]), ""
        except _MovedError as moved:
            return None, moved.location

    def send(self, method: str, uri: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Send a request without waiting for its answer."""
        self._number += 1
        authorization = self._authorization.header(method, uri)
        own = [("CSeq", str(self._number)), ("User-Agent", AGENT)]
        if authorization:
            own.append(("Authorization", authorization))
        self.connection.send(write_message(f"{method} {uri} RTSP/1.0", [*own, *headers]), self.deadline)

    def send_packet(self, channel: int, payload: bytes) -> None:
        """Send a packet between the requests."""
        self.connection.send(write_interleaved(channel, payload), self.deadline)

    def expect_channels(self, channels: frozenset[int]) -> None:
        """Take note of the channels that were agreed on."""
        self._splitter.channels = channels

    def receive(self) -> list[Interleaved] | None:
        """Return the packets that are there, also none; None if the server has ended the connection.

        Requests of the server are answered, answers to requests of ours are read.

        Raises:
            OSError: the connection broke.
            RtspError: what comes is not RTSP.
        """
        waiting = [*self._packets]
        items = [*self._messages]
        self._packets.clear()
        self._messages.clear()
        data = self.connection.receive()
        if data is None and not (waiting or items):
            return None
        items.extend(self._splitter.feed(data or b""))
        for item in items:
            if isinstance(item, Interleaved):
                waiting.append(item)
            elif item.status is None:
                self._reply(item)
            elif item.status != _UNAUTHORIZED:
                self._answered = 0
            elif self._authorization.accepts(item.values("www-authenticate"), self._answered):
                self._answered += 1
                self._was_challenged = True
        return waiting

    def take_challenge(self) -> bool:
        """Return whether a request that was sent while the track plays is to be repeated, once."""
        was, self._was_challenged = self._was_challenged, False
        return was

    def has_pending(self) -> bool:
        """Return whether packets wait that no selector shows."""
        return bool(self._packets or self._messages) or self.connection.has_pending()

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self.connection.close()

    def _answer(self) -> Message:
        """Wait for the answer to the only request under way, whatever number it states."""
        for _ in range(_MOST_STRAY):
            message = self._next_message()
            if message.status is None:
                self._reply(message)
            elif message.status >= _OK:
                return message
        raise RtspError("it answers what was not asked")

    def _next_message(self) -> Message:
        """Wait for a message; packets that come before it are kept."""
        while True:
            while self._messages:
                item = self._messages.popleft()
                if isinstance(item, Message):
                    return item
                self._packets.append(item)
            self._wait()
            data = self.connection.receive()
            if data is None:
                raise _ClosedError("it closes the connection in mid-answer")
            self._messages.extend(self._splitter.feed(data))

    def _wait(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise timed_out()
        if not self.connection.has_pending():
            poll = select.poll()
            poll.register(self.connection, select.POLLIN)
            poll.poll(left * 1000)

    def _reply(self, request: Message) -> None:
        """Answer a request of the server, such as ``OPTIONS`` to see whether we are there."""
        status = "200 OK" if request.method in ("OPTIONS", "GET_PARAMETER") else "501 Not Implemented"
        number = request.header("cseq")[:20]
        self.connection.send(write_message(f"RTSP/1.0 {status}", [("CSeq", number)]), self.deadline)

    def _follow(self, location: str) -> None:
        """Connect to another address. The user and the password go to the same host and port alone."""
        address = split_address(location)
        if address is None or not address.host or address.scheme != self._target.scheme:
            raise RtspError("it redirects to something else than an address of the same protocol")
        before, self._target = self._target, _target_of(replace(address, user=None, password=None))
        if (self._target.host, self._target.port) != (before.host, before.port):
            self._authorization = Authorization(None, b"")
        self._reconnect()

    def _reconnect(self) -> None:
        self.connection.close()
        self.connection = self._connect()

    def _connect(self) -> Connection:
        target = self._target
        self._splitter, self._messages = Splitter(), deque[Message | Interleaved]()
        hosts = self._look_up(target.host, self.deadline)
        name = target.host if target.scheme == "rtsps" else None
        return Connection(hosts, target.port, self.deadline, name=name)


class _ClosedError(RtspError):
    """The server ends the connection, and owes an answer."""


class _MovedError(StatusError):
    """The stream is at another address."""

    def __init__(self, status: int, reason: str, location: str) -> None:
        super().__init__(status, reason)
        self.location = location


def _failure(answer: Message) -> StatusError:
    status = answer.status or 0
    if status in _MOVED and answer.header("location"):
        return _MovedError(status, answer.reason, answer.header("location"))
    return StatusError(status, answer.reason)


def clean(uri: str) -> str:
    """Return an address as it may stand in a request; what a server says may hold anything."""
    return quote(uri, safe=_SAFE, errors="surrogateescape")


def _target_of(address: Address) -> _Target:
    port = address.port if address.port is not None else PORTS[address.scheme]
    rest = clean(address.rest.partition("#")[0])
    uri = f"{address.scheme}://{address.host}:{port}{rest or '/'}"
    return _Target(address.scheme, address.host.strip("[]"), port, uri)


def _secret(text: str | None) -> bytes:
    return unquote_to_bytes((text or "").encode("utf-8", "surrogateescape"))
