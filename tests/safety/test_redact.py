"""No form of a secret passes, and ordinary texts stay as they are."""

from __future__ import annotations

import logging
import re
import traceback

import pytest
from secrets_in_addresses import ADDRESSES, CANARY, TEXTS

from vitedge.errors import UsageError
from vitedge.safety import escape
from vitedge.safety.redact import MASK, redact, redact_address, redact_exception

ONE_WORD = [each for each in ADDRESSES if not re.search(r"p\s|\w \w", each.strip())]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_loses_its_secrets(address: str) -> None:
    shown = redact_address(address)
    assert CANARY not in shown
    assert MASK in shown
    assert redact(shown) == shown, "a text may be masked twice"


@pytest.mark.parametrize("address", ONE_WORD)
@pytest.mark.parametrize("text", ["{}", "cannot open {}: refused", "cannot open '{}'", "[{!r}, 1]", "({})", "a={}"])
def test_an_address_in_a_text_loses_its_secrets(address: str, text: str) -> None:
    assert CANARY not in redact(text.format(address.strip()))


@pytest.mark.parametrize("text", TEXTS)
def test_headers_options_and_json_lose_their_secrets(text: str) -> None:
    assert CANARY not in redact(text)


@pytest.mark.parametrize("address", [f"rtsp://a:{CANARY}@camera/1", f"http://camera/1?channel=1&token={CANARY}"])
def test_the_rest_of_an_address_stays(address: str) -> None:
    assert "camera/1" in redact_address(address)
    assert redact(address).startswith(address[:7])


@pytest.mark.parametrize(
    "text",
    [
        "there is no source photos/12:30.mp4",
        "write to me@example.org",
        "img@2x.png cannot be read",
        "/data/2024-01-01T12:30:00/img@2x.png: it does not begin like an image",
        "there is no source '/data/user/photos/12:30@home.jpg'",
        "looking up hf:acme/vit-tiny.v1@main on the hub",
        "file:///home/user/videos/a.mp4 cannot be read",
        "class_token=False, num_tokens=197",
        "labels=FILE, one distinct label a line",
        "vitedge.sign('b', key='fleet.pem')",
        "preprocessing=timm:NAME for the preprocessing of a timm model",
        "rtsp://camera:554/1 stopped delivering after 3 frames",
        "http://127.0.0.1:8080/video.mjpg?channel=1&width=640#t",
        "/data/key-frames/user/a.png",
        "one of rtsp://, rtsps://, http://, or a path",
        "top-1 93.75 %, p99 1.2 ms",
        "",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert redact(text) == text


def test_secrets_of_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f"hf_{CANARY}")
    monkeypatch.setenv("CAMERA_PASSWORD", f"{CANARY} with spaces")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "disabled")
    monkeypatch.setenv("API_TOKEN", "true")
    assert CANARY not in redact(f"refused for hf_{CANARY}, {CANARY} with spaces")
    assert redact("it is disabled, which is true") == "it is disabled, which is true"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "part",
    [
        "a.",
        "a=",
        "key-",
        "@",
        '"',
        "/",
        "password:",
        "'a",
        "x-key",
        "://",
        "a:/",
        "?a",
        "--u ",
        "'key",
        '"token":',
        "%40",
        "s=",
    ],
)
def test_long_texts_take_no_long_time(part: str) -> None:
    text = part * (20_000 // len(part))
    for each in (text, f"{text}@", f"rtsp://{text}"):
        redact(each)
        redact_address(each)


ADDRESS = f"rtsp://a:{CANARY}@camera/1"


def failing() -> None:
    """Fail as at the boundary to another library."""
    try:
        int(ADDRESS)
    except ValueError as error:
        raise UsageError(f"{ADDRESS} failed", expected=f"not {ADDRESS}", fix=f"try {ADDRESS}") from error


def test_every_way_out_masks() -> None:
    with pytest.raises(UsageError) as raised:
        failing()
    error = raised.value
    for text in (str(error), repr(error), error.problem, error.expected, error.fix, redact_exception(error)):
        assert CANARY not in text
    assert CANARY in "".join(traceback.format_exception(error)), "the cause holds it, for those who debug"
    for text in (escape.terminal(ADDRESS), escape.terminal_lines([ADDRESS]), escape.message(ADDRESS)):
        assert CANARY not in text
    assert CANARY not in escape.html(ADDRESS)


def test_a_text_that_is_cut_off_in_the_middle_of_an_address_masks() -> None:
    for length in range(9_900, 10_001, 7):
        assert CANARY not in str(UsageError(f"{'x' * length} {ADDRESS}"))


def test_log_records_and_their_tracebacks_mask(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("vitedge")
    logger.warning("%s stopped", ADDRESS)
    try:
        failing()
    except UsageError:
        logger.warning("it failed", exc_info=True)
    assert "stopped" in caplog.text
    assert "ValueError" in caplog.text
    assert CANARY not in caplog.text
    assert all(CANARY not in record.getMessage() for record in caplog.records)
