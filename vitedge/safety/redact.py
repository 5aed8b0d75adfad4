"""Masking of passwords, tokens and users in addresses, before they reach any text.

``redact`` finds addresses, pipelines, headers and options in a text of any kind. Errors, log records, progress, HTML
and everything that the command line prints go through it (``vitedge.safety.escape``). ``redact_address`` takes a text
that is one address, and also masks passwords with spaces. Both mask too much rather than too little.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Iterator
from urllib.parse import unquote

MASK = "***"

_WORD = (
    r"(?:pass(?:word|wd|phrase|wort|code)?|pwd|pswd|pw|kennwort|psk|secret|token|credentials?|auth|authorization|jwt|bearer|"
    r"sig|signature|session|sid|cookie|user(?:name|id)?|usr|login|account|key|streamid|stream-?key|api-?key|passkey)"
)
"""A segment of a path that begins with one of these holds a secret, or the next segment does."""
_IN_A_NAME = re.compile(
    r"pas[sw]?|pwd|pswd|user|usr|login|token|auth|secret|key|sign|sess|cred|account|cookie|jwt|streamid|ticket|hmac|srtp"
)
_NAMES = frozenset(
    {"code", "headers", "kennwort", "mdp", "otp", "p", "pin", "psk", "psw", "pw", "sid", "sig", "u", "uid"}
)
"""Parameters of an address that hold a secret have a name like this, or one that contains one of the words above."""

_AT = re.compile(r"@|%(?:25)*40", re.IGNORECASE)
_COLON = re.compile(r":|%(?:25)*3a", re.IGNORECASE)
_SCHEME = re.compile(
    r"(?<![a-z0-9+.\-])[a-z][a-z0-9+.\-]{0,40}(?:(?::|%(?:25)*3a)(?:[/\\]|%(?:25)*2f)+|(?:[/\\]|%(?:25)*2f){2,})",
    re.IGNORECASE,
)
_NO_USERINFO = re.compile(r"['\"(\[]?(?:/(?!/)[^?=%]*|hf:[\w.\-]+/[\w.\-]+)")
"""What before ``@`` is no password: an absolute path, and a model of the hub before its revision."""
_TOKEN = re.compile(r"\S+")
_SPACED_PASSWORD = re.compile(
    r"(?P<name>(?<![a-z0-9+.\-])[a-z][a-z0-9+.\-]{0,40}(?::[/\\]+|[/\\]{2,}))"
    r"(?P<equals>)(?P<value>[^\s/@:]*:(?!\d+(?:[/?#\s'\")]|$))[^@]{1,200})(?=@)",
    re.IGNORECASE,
)
"""Not a host with its port: what follows the colon is no number."""
_PIPELINE = re.compile(r"\s!\s|^\s*\w+src\s|\s[\w-]+=")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")

_NAME = r"(?P<name>(?<![\w%.\-])[\w%.\-\[\]]{1,64}?)"
_QUOTED_VALUE = r"\"(?:[^\"\\]|\\.)*\"|'[^']*'"
_VALUE = rf"(?P<value>{_QUOTED_VALUE}|[^\s&\"'!]*)"
_PARAMETER = re.compile(rf"{_NAME}(?:=|%3d)", re.IGNORECASE)
_WORD_VALUE = re.compile(rf"{_QUOTED_VALUE}|(?:#!::)?[^\s&\"'!]*")
_WHOLE_VALUE = re.compile(r"[^&]*")
_BEFORE_PARAMETER = "?&;/#"
_PLAIN_PARAMETERS = re.compile(
    r"(?<![\w\-])(?P<name>password|passwd|passphrase|pwd|passwort|secret|token|cookies|extra-headers|user-?_?(?:pw|id)|proxy-(?:pw|id)|api[_-]?key|"
    rf"(?:access|auth|refresh|secret|hub|hf|api)[_-]?(?:token|key)|client[_-]?secret)(?P<equals>\s?=\s?){_VALUE}",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(?P<name>(?<![\w\-])(?:(?:proxy-)?authorization|(?:set-)?cookie|x-[\w\-]{0,40}?(?:key|token|auth)[\w\-]{0,40}|password|passwd|"
    r"passphrase))(?P<equals>[\"']?\s*:\s*)(?P<value>\"[^\"]*\"|'[^']*'|digest\s[^\n]+|(?:(?:basic|bearer|token)\s+)?[^\s,;\"']+)",
    re.IGNORECASE,
)
_QUOTED_KEY = re.compile(
    rf"(?P<name>[\"'][\w\-]*{_WORD}[\w\-]*[\"'])(?P<equals>\s*:\s*)(?P<value>\"[^\"]*\"|'[^']*')", re.IGNORECASE
)
_BEARER = re.compile(r"(?P<name>\bbearer)(?P<equals>\s+)(?P<value>[\w.~+/=\-]{6,})", re.IGNORECASE)
_OPTION = re.compile(
    r"(?P<name>(?<![\w\-])--?(?:password|passwd|pass|pwd|token|secret|api-key|user|username|u))(?P<equals>[ =])"
    r"(?P<value>[^\s\"']+)",
    re.IGNORECASE,
)
_SEGMENT = re.compile(rf"(?P<name>{_WORD})(?P<equals>[-_:.~,]|%3a)(?P<value>.+)", re.IGNORECASE | re.DOTALL)
_IS_WORD = re.compile(_WORD, re.IGNORECASE)
_STREAM_KEY = re.compile(r"rtmp[a-z]*:/", re.IGNORECASE)

_SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIALS?|KEY)(?:_|$)", re.IGNORECASE
)
_LEAST_CHARACTERS = 6
"""Shorter values of environment variables are words such as ``true``, which other texts hold too."""
_SUSPICIOUS = re.compile(r"[@=:/%]|bearer|--?\w", re.IGNORECASE)


def redact(text: str) -> str:
    """Mask what addresses, pipelines, headers and options in a text hold of passwords, tokens and users.

    The values of environment variables that are named as secrets, such as ``HF_TOKEN``, are masked too.
    """
    for secret in _environment_secrets():
        text = text.replace(secret, MASK)
    if not _SUSPICIOUS.search(text):
        return text
    text = _SPACED_PASSWORD.sub(_masked, text)
    text = _TOKEN.sub(lambda match: _without_userinfo(match[0]), text)
    text = _without_parameters(text, _WORD_VALUE, before=_BEFORE_PARAMETER)
    for pattern in (_PLAIN_PARAMETERS, _HEADER, _QUOTED_KEY, _BEARER, _OPTION):
        text = pattern.sub(_masked, text)
    return _TOKEN.sub(lambda match: _without_path_secrets(match[0]), text)


def redact_address(address: str) -> str:
    """Mask the secrets of an address, of a pipeline, or of what was meant as one."""
    text = address.strip()
    if _PIPELINE.search(text):
        text = _QUOTED.sub(lambda match: f"{match[0][0]}{_without_userinfo(match[0][1:-1])}{match[0][0]}", text)
        text = _without_parameters(text, _WORD_VALUE)
    else:
        text = _without_userinfo(text)
        text = _without_parameters(text, _WHOLE_VALUE)
        text = _without_path_secrets(text)
    return redact(text)


def _without_userinfo(token: str) -> str:
    """Mask everything between the scheme and the last ``@``: a password may hold any character."""
    places = [match.start() for match in _AT.finditer(token)]
    if not places:
        return token
    head, tail = token[: places[-1]], token[places[-1] :]
    scheme = _SCHEME.search(head)
    if scheme is not None:
        return f"{head[: scheme.end()]}{MASK}{tail}"
    colon = _COLON.search(head)
    if colon is None or _NO_USERINFO.fullmatch(head):
        return token
    begin = max(head.rfind(each, 0, colon.start()) for each in "/=('\"") + 1
    return f"{head[:begin]}{MASK}{tail}"


def _without_parameters(text: str, value: re.Pattern[str], *, before: str | None = None) -> str:
    """Mask the values of parameters that are named as secrets.

    Args:
        text: any text.
        value: matches a value where it begins.
        before: characters of which one stands before a parameter; None for any.
    """
    shown, place = [], 0
    while (found := _PARAMETER.search(text, place)) is not None:
        shown.append(text[place : found.end()])
        place = found.end()
        is_parameter = before is None or (found.start() > 0 and text[found.start() - 1] in before)
        if is_parameter and _names_a_secret(unquote(found["name"])):
            whole = value.match(text, place)
            if whole is not None and whole[0]:
                shown.append(MASK)
                place = whole.end()
    return "".join((*shown, text[place:]))


def _names_a_secret(name: str) -> bool:
    words = re.split(r"[-_.\[\]]+", name.lower())
    return any(word in _NAMES for word in (*words, "".join(words))) or _IN_A_NAME.search("".join(words)) is not None


def _masked(match: re.Match[str]) -> str:
    return f"{match['name']}{match['equals']}{MASK}" if match["value"] else match[0]


def _without_path_secrets(token: str) -> str:
    """Mask the segments of an address that follow or begin with one of the words, and the stream key of RTMP."""
    scheme = _SCHEME.search(token)
    if scheme is None or scheme[0].lower().startswith("file:"):
        return token
    path, *rest = re.split(r"(?=[?#])", token[scheme.end() :], maxsplit=1)
    host, *segments = path.split("/")
    shown = [host, *_shown_segments(segments)]
    if _STREAM_KEY.match(scheme[0]) and len(shown) > 2 and shown[-1]:
        shown[-1] = MASK
    return f"{token[: scheme.end()]}{'/'.join(shown)}{''.join(rest)}"


def _shown_segments(segments: list[str]) -> Iterator[str]:
    after_word = False
    for segment in segments:
        whole = _SEGMENT.fullmatch(segment)
        if after_word and segment:
            yield MASK
        else:
            yield _masked(whole) if whole is not None else segment
        after_word = _IS_WORD.fullmatch(segment) is not None


def _environment_secrets() -> list[str]:
    """Return the values of environment variables that are named as secrets, the longest first."""
    values = {
        value
        for name, value in os.environ.items()
        if len(value) >= _LEAST_CHARACTERS and _SECRET_VARIABLE.search(name) and os.sep not in value
    }
    return sorted(values, key=len, reverse=True)


class RedactingFilter(logging.Filter):
    """Masks secrets in log records, with their tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the text of the record."""
        record.msg, record.args = redact(record.getMessage()), ()
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = redact_exception(record.exc_info[1]).rstrip("\n")
        return True


def redact_exception(error: BaseException) -> str:
    """Format an exception with its causes and tracebacks, as Python prints it, without secrets."""
    return redact("".join(traceback.format_exception(error)))


logging.getLogger("vitedge").addFilter(RedactingFilter())
