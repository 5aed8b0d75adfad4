"""Options of sources, given with a source or in the query of its address, such as ``rtsp://camera/1?transport=udp``."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Literal, TypeVar
from urllib.parse import unquote

from vitedge.errors import UsageError, did_you_mean, near_spellings
from vitedge.runtime.sources.addresses import split_address
from vitedge.safety.escape import terminal
from vitedge.safety.limits import IMAGE_PIXELS, IMAGE_SIDE
from vitedge.safety.redact import redact_address

logger = logging.getLogger("vitedge")

Transport = Literal["tcp", "udp"]

LONGEST_TIMEOUT = 86_400.0
MOST_THREADS = 256
HIGHEST_FPS = 1_000.0
MOST_FRAMES = 1 << 32
SIZE = "size"
"""In a query, ``size=1280x720`` stands for ``width`` and ``height``."""


@dataclass(frozen=True)
class SourceOptions:
    """Options of every source.

    Attributes:
        open_timeout: seconds to open the source.
        read_timeout: seconds to wait for a frame, after which the connection is given up.
        stall_timeout: seconds without a frame after which a live source counts as stalled.
        decode_threads: threads of the decoder; None for one thread in a live source, whose frames several threads would
            hold back, and one a core for a file.
        planes: whether frames keep the planes of the decoder, which are cheaper to classify; False converts each frame
            to BGR first. None for planes in a live source, and BGR for a file.

    Raises:
        UsageError: a value is of another kind, or out of range.
    """

    open_timeout: float = 10.0
    read_timeout: float = 5.0
    stall_timeout: float = 2.0
    decode_threads: int | None = None
    planes: bool | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            rule = _RULES[field.name]
            if not (rule.accepts(value) or (value is None and field.default is None)):
                raise UsageError(f"the option {field.name} is {value!r:.80}", expected=rule.expected)


@dataclass(frozen=True)
class NetworkOptions(SourceOptions):
    """Options of a network stream.

    Attributes:
        transport: how RTSP carries its packets; None tries TCP, then UDP.
    """

    transport: Transport | None = None


@dataclass(frozen=True)
class CameraOptions(SourceOptions):
    """What to ask of a camera; it may agree on something else. None leaves the choice to the camera.

    Attributes:
        width: columns; needs ``height``.
        height: rows; needs ``width``.
        fps: frames per second.
        fourcc: pixel format, four characters such as ``MJPG`` or ``YUYV``.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    fourcc: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.width is None) != (self.height is None):
            raise UsageError(
                f"a camera is asked for width={self.width} and height={self.height}",
                expected="both, or neither: then the camera keeps its own size",
            )


@dataclass(frozen=True)
class PictureOptions(SourceOptions):
    """Options of the test picture, ``test://``.

    Attributes:
        width: columns.
        height: rows.
        fps: frames per second.
        frames: number of frames after which it ends, as a video; None for a camera, which goes on.
    """

    width: int = 1280
    height: int = 720
    fps: float = 30.0
    frames: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width * self.height > IMAGE_PIXELS:
            raise UsageError(f"the size is {self.width}x{self.height}", expected=f"at most {IMAGE_PIXELS} pixels")


OptionsT = TypeVar("OptionsT", bound=SourceOptions)


def options_as(kind: type[OptionsT], options: SourceOptions | None, source: str) -> OptionsT:
    """Return options as the kind that a source takes; ``SourceOptions`` fit every source.

    Args:
        kind: the class that the source takes.
        options: the options of the caller; None for the defaults.
        source: name of the source in messages.

    Raises:
        UsageError: the options are of another kind of source.
    """
    if options is None:
        return kind()
    if type(options) is kind:
        return options
    if type(options) in kind.__mro__ and isinstance(options, SourceOptions):
        return kind(**{field.name: getattr(options, field.name) for field in fields(options)})
    raise UsageError(
        f"{type(options).__name__} are no options of {redact_address(source)}",
        expected=f"{kind.__name__} or SourceOptions" if kind is not SourceOptions else "SourceOptions",
    )


def take_options(
    address: str,
    kind: type[OptionsT],
    options: SourceOptions | None = None,
    *,
    foreign: bool = False,
    without: frozenset[str] = frozenset(),
) -> tuple[str, OptionsT]:
    """Take our options out of the query of an address. The rest of the address keeps every character.

    A parameter is ours if its name is written as here. A server's parameter of the same name is written with one
    character as a percent code, such as ``%74ransport=``, which the server reads as the same.

    Args:
        address: the address.
        kind: the class of its options.
        options: options of the caller, which may not contradict the query.
        foreign: whether other parameters belong to the server, and stay; otherwise they are errors.
        without: options of the kind that do not apply to this address.

    Returns:
        The address without our options, and all options.

    Raises:
        UsageError: a name or a value is wrong, or the caller's options contradict the query.
    """
    given = options_as(kind, options, address)
    names = _names(kind) - without
    place = address.find("?", _end_of_host(address))
    if place < 0:
        return address, given
    end = address.find("#", place)
    query, fragment = (address[place + 1 :], "") if end < 0 else (address[place + 1 : end], address[end:])
    ours: dict[str, Any] = {}
    rest: list[str] = []
    for parameter in query.split("&"):
        name, _, text = parameter.partition("=")
        if name in names:
            _add(ours, name, text)
        elif foreign or not parameter:
            rest.append(parameter)
            _mention_near(name, names)
        else:
            raise _unknown(name, names, address)
    if not ours:
        return address, given
    kept = f"?{'&'.join(rest)}" if rest else ""
    return f"{address[:place]}{kept}{fragment}", _combined(kind, ours, given)


def _end_of_host(address: str) -> int:
    """Return where the path of an address begins; a password before it may hold any character."""
    parts = split_address(address)
    return len(address) - len(parts.rest) if parts is not None and address.endswith(parts.rest) else 0


def _names(kind: type[SourceOptions]) -> frozenset[str]:
    names = {field.name for field in fields(kind)}
    return frozenset(names | {SIZE}) if "width" in names else frozenset(names)


def _add(ours: dict[str, Any], name: str, text: str) -> None:
    rule = _RULES[name]
    try:
        value = rule.read(unquote(text))
    except (ValueError, ZeroDivisionError):
        value = None
    if value is None or not rule.accepts(value):
        hint = did_you_mean(text, rule.words)
        raise UsageError(f"the option {name}={text:.80} of an address", expected=rule.expected, fix=hint)
    values = {"width": value[0], "height": value[1]} if name == SIZE else {name: value}
    for key, each in values.items():
        if ours.setdefault(key, each) != each:
            raise UsageError(f"an address says {key}={ours[key]} and {key}={each}", expected="one of them")


def _combined(kind: type[OptionsT], ours: Mapping[str, Any], given: OptionsT) -> OptionsT:
    values = {field.name: getattr(given, field.name) for field in fields(kind)}
    for field in fields(kind):
        name = field.name
        if name not in ours:
            continue
        if values[name] not in (field.default, ours[name]):
            raise UsageError(
                f"the address says {name}={ours[name]}, and the options say {name}={values[name]}",
                expected="one of them, or both alike",
            )
        values[name] = ours[name]
    return kind(**values)


def _mention_near(name: str, names: frozenset[str]) -> None:
    """Warn that a parameter goes to the server whose name is nearly one of ours."""
    near = near_spellings(name, sorted(names), limit=1)
    if near and unquote(name) not in names:
        logger.warning("the parameter %s goes to the server; did you mean %s?", terminal(name), near[0])


def _unknown(name: str, names: frozenset[str], address: str) -> UsageError:
    return UsageError(
        f"unknown option {name!r:.80} in {redact_address(address)}",
        expected=f"one of {', '.join(sorted(names))}",
        fix=did_you_mean(name, sorted(names)),
    )


@dataclass(frozen=True)
class _Rule:
    """The values of an option.

    Attributes:
        read: reads a value from the text of a query; a ValueError, or None, for a text that is no value.
        accepts: whether a value is right.
        expected: the right values, in words.
        words: right values that a mistyped one is compared with.
    """

    read: Callable[[str], Any]
    accepts: Callable[[Any], bool]
    expected: str
    words: tuple[str, ...] = ()


def _number(most: float) -> Callable[[Any], bool]:
    """Accept numbers above 0, up to a bound."""

    def accepts(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and 0 < value <= most

    return accepts


def _whole(most: int) -> Callable[[Any], bool]:
    """Accept whole numbers above 0, up to a bound."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _read_whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else None


def _read_size(text: str) -> tuple[int, int] | None:
    width, _, height = (_read_whole(each) for each in text.lower().partition("x"))
    return None if width is None or height is None else (width, height)


def _is_size(value: tuple[int, int]) -> bool:
    return all(map(_whole(IMAGE_SIDE), value))


def _read_rate(text: str) -> float:
    return float(Fraction(text)) if len(text) < 40 else math.nan


_SWITCHES = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_SECONDS = _Rule(float, _number(LONGEST_TIMEOUT), f"seconds above 0, at most {LONGEST_TIMEOUT:g}")
_SIDE = _Rule(_read_whole, _whole(IMAGE_SIDE), f"pixels, 1 to {IMAGE_SIDE}")
_RULES: dict[str, _Rule] = {
    "open_timeout": _SECONDS,
    "read_timeout": _SECONDS,
    "stall_timeout": _SECONDS,
    "decode_threads": _Rule(_read_whole, _whole(MOST_THREADS), f"a number of threads, 1 to {MOST_THREADS}"),
    "planes": _Rule(
        lambda text: _SWITCHES.get(text.lower()),
        lambda value: isinstance(value, bool),
        "true or false",
        ("true", "false"),
    ),
    "transport": _Rule(str.lower, lambda value: value in ("tcp", "udp"), "tcp or udp", ("tcp", "udp")),
    "width": _SIDE,
    "height": _SIDE,
    SIZE: _Rule(_read_size, _is_size, f"WIDTHxHEIGHT, such as 1280x720, each 1 to {IMAGE_SIDE}"),
    "fps": _Rule(_read_rate, _number(HIGHEST_FPS), f"frames per second above 0, at most {HIGHEST_FPS:g}"),
    "fourcc": _Rule(
        str,
        lambda value: isinstance(value, str) and len(value) == 4 and value.isascii() and value.isprintable(),
        "a pixel format of four characters, such as MJPG, YUYV, NV12 or H264",
        ("MJPG", "YUYV", "NV12", "H264", "GREY"),
    ),
    "frames": _Rule(_read_whole, _whole(MOST_FRAMES), f"a number of frames, 1 to {MOST_FRAMES}"),
}
