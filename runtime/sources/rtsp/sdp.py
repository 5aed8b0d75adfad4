"""``parse_description``: the tracks that a server describes (SDP, RFC 4566), and their parameter sets."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vitedge.runtime.sources.rtsp.errors import RtspError
from vitedge.safety.limits import RTSP_BODY_BYTES, RTSP_TRACKS

START_CODE = b"\0\0\0\1"
CLOCK_RATE = 90_000
PROFILES = frozenset({"RTP/AVP", "RTP/AVPF", "RTP/AVP/UDP", "RTP/AVP/TCP"})
_SETS = ("sprop-vps", "sprop-sps", "sprop-pps", "sprop-parameter-sets")
_LONGEST_SETS = 1 << 16
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 10_000_000


@dataclass(frozen=True)
class Track:
    """A track of a description.

    Attributes:
        kind: ``video``, ``audio`` or another.
        profile: how its packets travel, such as ``RTP/AVP``.
        payload_type: number of its codec in RTP packets.
        control: its address, absolute or relative; empty if it has none.
        codec: name of the codec in capitals; empty if the number stands for it.
        clock_rate: ticks of its timestamps in a second.
        parameters: of the codec, by names in small letters.
    """

    kind: str
    profile: str
    payload_type: int
    control: str = ""
    codec: str = ""
    clock_rate: int = CLOCK_RATE
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameter_sets(self) -> bytes:
        """Return the parameter sets of H.264 and H.265, each behind a start code; empty if the track states none."""
        texts = [text for name in _SETS for text in self.parameters.get(name, "").split(",") if text]
        sets = [_decoded(text) for text in texts]
        joined = b"".join(START_CODE + each for each in sets if each)
        return joined if len(joined) <= _LONGEST_SETS else b""


@dataclass(frozen=True)
class Description:
    """What a server sends at an address.

    Attributes:
        control: address by which all tracks are played; empty for the address itself.
        tracks: the tracks.
    """

    control: str
    tracks: tuple[Track, ...]


def parse_description(text: bytes) -> Description:
    """Read a description; lines that say nothing are ignored.

    Raises:
        RtspError: it is too long, or has too many tracks.
    """
    if len(text) > RTSP_BODY_BYTES:
        raise RtspError(f"the description has more than {RTSP_BODY_BYTES} bytes")
    control = ""
    tracks: list[Track] = []
    for line in text.decode("utf-8", "replace").replace("\r", "\n").split("\n"):
        kind, _, value = line.strip().partition("=")
        if kind == "m":
            tracks.append(_track(value))
            if len(tracks) > RTSP_TRACKS:
                raise RtspError(f"the description has more than {RTSP_TRACKS} tracks")
        elif kind == "a" and tracks:
            tracks[-1] = _with_attribute(tracks[-1], value)
        elif kind == "a" and value.lower().startswith("control:"):
            control = value[len("control:") :].strip()
    return Description(control, tuple(tracks))


def _track(value: str) -> Track:
    words = value.split()
    kind, profile = (words[0] if words else "").lower(), (words[2] if len(words) > 2 else "").upper()
    return Track(kind, profile, _number(words[3] if len(words) > 3 else "", default=-1))


def _with_attribute(track: Track, value: str) -> Track:
    name, _, rest = value.partition(":")
    name, rest = name.lower(), rest.strip()
    if name == "control":
        return replace(track, control=rest)
    number, _, text = rest.partition(" ")
    if _number(number, default=-1) != track.payload_type:
        return track
    if name == "rtpmap":
        codec, _, rate = text.strip().partition("/")
        ticks = _number(rate.partition("/")[0], default=CLOCK_RATE)
        is_rate = _LOWEST_RATE <= ticks <= _HIGHEST_RATE
        return replace(track, codec=codec.strip().upper(), clock_rate=ticks if is_rate else CLOCK_RATE)
    if name == "fmtp":
        pairs = (each.partition("=") for each in text.split(";"))
        return replace(track, parameters={key.strip().lower(): value.strip() for key, _, value in pairs})
    return track


def _number(text: str, *, default: int) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else default


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text.strip() + "=" * (-len(text.strip()) % 4), validate=True)
    except ValueError:
        return b""
