"""Basic and Digest, against the examples of their RFCs; and what asks for them in odd ways."""

from __future__ import annotations

import hashlib
import re
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.runtime.sources.rtsp.authentication import Authorization, parse_challenges

NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
OPAQUE = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
RFC_7616 = f'Digest realm="http-auth@example.org", qop="auth, auth-int", nonce="{NONCE}", opaque="{OPAQUE}"'


def fields(header: str) -> dict[str, str]:
    return {
        name: quoted or plain
        for name, quoted, plain in re.findall(r'([\w-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))', header)
    }


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_example_of_rfc_7616(algorithm: str, response: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
    authorization = Authorization(b"Mufasa", b"Circle of Life")
    assert authorization.accepts([f"{RFC_7616}, algorithm={algorithm}"], 0)
    answer = fields(authorization.header("GET", "/dir/index.html"))
    assert answer["response"] == response
    assert (answer["nc"], answer["qop"], answer["opaque"], answer["algorithm"]) == (
        "00000001",
        "auth",
        OPAQUE,
        algorithm,
    )


def test_a_digest_without_quality_as_most_cameras_ask_for() -> None:
    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    authorization = Authorization(b"joe", b"p@ss")
    assert authorization.accepts(['Digest realm="cam", nonce="n"'], 0)
    answer = fields(authorization.header("DESCRIBE", "rtsp://cam/1"))
    assert answer["response"] == md5(f"{md5('joe:cam:p@ss')}:n:{md5('DESCRIBE:rtsp://cam/1')}")
    assert "cnonce" not in answer


def test_basic() -> None:
    authorization = Authorization(b"Aladdin", b"open sesame")
    assert authorization.header("OPTIONS", "rtsp://cam/") == ""
    assert authorization.accepts(['basic realm="c"'], 0)
    assert authorization.header("OPTIONS", "rtsp://cam/") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


@pytest.mark.parametrize(
    "values",
    [
        ['Basic realm="c"', 'Digest realm="c", nonce="n"', 'Digest realm="c", nonce="n", algorithm=SHA-256'],
        ['Basic realm="c", Digest realm="c", nonce="n", algorithm=SHA-256, Digest realm="c", nonce="n"'],
        ['Digest realm="c", nonce="n", algorithm=SHA-512, Digest realm="c", nonce="n", algorithm=SHA-256'],
    ],
)
def test_the_best_challenge_is_answered(values: list[str]) -> None:
    authorization = Authorization(b"joe", b"x")
    assert authorization.accepts(values, 0)
    assert "SHA-256" in authorization.header("DESCRIBE", "rtsp://cam/")


@pytest.mark.parametrize(
    "value", ["", 'Bearer realm="c"', 'Digest realm="c", nonce="n", qop="auth-int"', 'Digest realm="c"']
)
def test_what_cannot_be_answered(value: str) -> None:
    assert not Authorization(b"joe", b"x").accepts([value], 0)
    assert not Authorization(None, b"").accepts(['Basic realm="c"'], 0)


def test_a_password_is_tried_again_only_where_its_nonce_was_old() -> None:
    authorization = Authorization(b"joe", b"x")
    assert authorization.accepts(['Digest realm="c", nonce="1"'], 0)
    assert not authorization.accepts(['Digest realm="c", nonce="2"'], 1)
    stale = ['Digest realm="c", nonce="3", stale=TRUE']
    assert authorization.accepts(stale, 1)
    assert authorization.accepts(stale, 2)
    assert not authorization.accepts(stale, 3)


def test_a_quote_in_a_realm_stays_inside_of_it() -> None:
    authorization = Authorization(b'jo"e', b"x")
    assert authorization.accepts([r'Digest realm="a\"b", nonce="n"'], 0)
    assert r'username="jo\"e", realm="a\"b"' in authorization.header("DESCRIBE", "rtsp://cam/")


@given(st.lists(st.text(alphabet='Digestbasc realm=",\\ \t-nonce1', max_size=200), max_size=5))
def test_any_challenge_is_read(values: list[str]) -> None:
    assert all(each.rank >= 0 for each in parse_challenges(values))
    authorization = Authorization(b"joe", b"x")
    authorization.accepts(values, 0)
    authorization.header("DESCRIBE", "rtsp://cam/")
