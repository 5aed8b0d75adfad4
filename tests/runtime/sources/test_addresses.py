"""Addresses taken apart, with passwords as people paste them."""

from __future__ import annotations

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.runtime.sources.addresses import split_address

HOSTS = ["192.168.1.20", "[::1]", "[fe80::1%25eth0]", "localhost", "cam.example.com", "10.0.0.7:8554"]


@pytest.mark.parametrize(
    ("address", "user", "password", "host", "port", "rest"),
    [
        ("rtsp://cam/1", None, None, "cam", None, "/1"),
        ("RTSP://cam:554/1?a=b#c", None, None, "cam", 554, "/1?a=b#c"),
        ("rtsp://joe@cam/1", "joe", None, "cam", None, "/1"),
        ("rtsp://:pw@cam/1", "", "pw", "cam", None, "/1"),
        ("rtsp://joe:p@ss/w:d@cam/x", "joe", "p%40ss%2Fw%3Ad", "cam", None, "/x"),
        ("rtsp://joe:p%40ss@cam:554/x", "joe", "p%40ss", "cam", 554, "/x"),
        ("rtsp://joe:100%@cam/x", "joe", "100%25", "cam", None, "/x"),
        ("rtsp://joe:a?b#c@cam/x?y", "joe", "a%3Fb%23c", "cam", None, "/x?y"),
        ("rtsp://joe:a b@cam", "joe", "a%20b", "cam", None, ""),
        ("rtsp://joe:12/34@10.0.0.1/y", "joe", "12%2F34", "10.0.0.1", None, "/y"),
        ("udp://@:1234", "", None, "", 1234, ""),
        ("udp://239.0.0.1:1234?pkt_size=1316", None, None, "239.0.0.1", 1234, "?pkt_size=1316"),
        ("rtsp://[::1]:554/x", None, None, "[::1]", 554, "/x"),
        ("srt://cam:9000?streamid=#!::u=a@b", None, None, "cam", 9000, "?streamid=#!::u=a@b"),
    ],
)
def test_the_parts(
    address: str, user: str | None, password: str | None, host: str, port: int | None, rest: str
) -> None:
    parts = split_address(address)
    assert parts is not None
    assert (parts.user, parts.password, parts.host, parts.port, parts.rest) == (user, password, host, port, rest)
    assert parts.scheme == parts.scheme.lower()
    assert split_address(str(parts)) == parts


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://cam/view@1",
        "rtsp://cam:554/view@1",
        "rtsp://192.168.1.5/a@b.com/x",
        "http://cam/x?user=a@b",
        "rtsp://joe:pw@192.168.1.5/user@example.com/s",
        "rtsp://joe:pw@cam.example.com/live@2",
        "rtsp://joe:pw@cam/live@2",
    ],
)
def test_an_at_sign_of_a_path_is_left_alone(address: str) -> None:
    assert str(split_address(address)) == address


@pytest.mark.parametrize("address", ["", "cam", "rtsp:/cam", "://cam", "rtsp://cam:99999/x", "rtsp://ca m/x"])
def test_what_is_no_address(address: str) -> None:
    assert split_address(address) is None


passwords = st.text(st.characters(min_codepoint=33, max_codepoint=0x17F, exclude_characters="%\x7f"), min_size=1)


@given(st.sampled_from(HOSTS), passwords, st.sampled_from(["", "/", "/stream1", "/cam?channel=1&subtype=0"]))
def test_any_password_with_percent_codes(host: str, password: str, rest: str) -> None:
    parts = split_address(f"rtsp://joe:{quote(password, safe='')}@{host}{rest}")
    assert parts is not None
    assert (unquote(parts.password or ""), unquote(parts.user or "")) == (password, "joe")
    assert f"{parts.host}{f':{parts.port}' if parts.port else ''}{parts.rest}" == host + rest


@given(st.sampled_from(["192.168.1.20", "[::1]", "localhost:8554"]), st.text("ab@/:?#!. ", min_size=1, max_size=12))
def test_most_passwords_as_they_are(host: str, password: str) -> None:
    """In front of a host that is a number, whatever the password holds that is no number itself."""
    parts = split_address(f"rtsp://joe:{password}@{host}/x")
    assert parts is not None
    assert unquote(parts.password or "") == password
    assert str(parts).count("@") == 1


@pytest.mark.parametrize(
    "rest", ["/live?time=12:30&mail=a@b", "/live?a=1:2&transport=udp&mail=a@b", "/user=admin:x@y", "/a#b:c@d"]
)
def test_an_at_sign_of_a_path_or_query_ends_no_password(rest: str) -> None:
    found = split_address(f"rtsp://camera{rest}")
    assert found is not None
    assert (found.user, found.host, found.rest) == (None, "camera", rest)
