"""Options in addresses and as dataclasses."""

from __future__ import annotations

import logging
from dataclasses import fields

import pytest

from vitedge.errors import UsageError
from vitedge.runtime.sources import options as module
from vitedge.runtime.sources.options import (
    CameraOptions,
    NetworkOptions,
    PictureOptions,
    SourceOptions,
    options_as,
    take_options,
)


def taken(address: str, options: SourceOptions | None = None) -> tuple[str, NetworkOptions]:
    return take_options(address, NetworkOptions, options, foreign=True)


class TestAddressesOfServers:
    @pytest.mark.parametrize(
        "address",
        [
            "rtsp://camera/1",
            "rtsp://camera/1?",
            "rtsp://camera/cam/realmonitor?channel=1&subtype=0",
            "http://camera/a%20b?x=%26&y=a+b&&z&=3#part?transport=udp",
            "rtsp://camera/user=admin&password=&channel=1&stream=0.sdp",
            "rtsp://user:pa?transport=udp@camera/1?channel=1",
            "http://camera/?%74ransport=tcp&%70lanes=1",
            "http://[fe80::1%25eth0]:80/?a=1",
            "srt://camera:9000?mode=caller&latency=200000",
        ],
    )
    def test_without_our_options_every_character_stays(self, address: str):
        assert taken(address) == (address, NetworkOptions())

    @pytest.mark.parametrize(
        ("address", "rest"),
        [
            ("rtsp://camera/1?transport=udp", "rtsp://camera/1"),
            ("rtsp://camera/1?channel=1&transport=udp&subtype=0", "rtsp://camera/1?channel=1&subtype=0"),
            ("rtsp://camera/1?transport=udp&b=%2F&a=1", "rtsp://camera/1?b=%2F&a=1"),
            ("rtsp://camera/1?transport=UDP#x", "rtsp://camera/1#x"),
            ("rtsp://u:p?q@camera/1?transport=udp&c=1", "rtsp://u:p?q@camera/1?c=1"),
            ("rtsp://camera/1?a=1&&transport=udp", "rtsp://camera/1?a=1&"),
        ],
    )
    def test_our_options_are_taken_out_and_the_others_keep_their_order(self, address: str, rest: str):
        assert taken(address) == (rest, NetworkOptions(transport="udp"))

    def test_all_options_in_one_query(self):
        address = "rtsp://c/?open_timeout=3&read_timeout=2.5&stall_timeout=1e0&decode_threads=2&planes=no&transport=tcp"
        assert taken(address)[1] == NetworkOptions(3.0, 2.5, 1.0, 2, False, "tcp")

    def test_a_parameter_of_the_server_may_have_our_name(self):
        address, options = taken("http://camera/?%70lanes=3&planes=0")
        assert address == "http://camera/?%70lanes=3"
        assert options.planes is False

    def test_an_option_that_does_not_apply_belongs_to_the_server(self):
        address = "http://camera/?transport=tcp"
        assert take_options(address, NetworkOptions, foreign=True, without=frozenset({"transport"}))[0] == address

    def test_a_name_that_is_nearly_ours_is_mentioned(self, caplog: pytest.LogCaptureFixture):
        with caplog.at_level(logging.WARNING, "vitedge"):
            assert taken("rtsp://c/?trasport=udp")[0] == "rtsp://c/?trasport=udp"
        assert "did you mean transport?" in caplog.text

    def test_other_names_are_not(self, caplog: pytest.LogCaptureFixture):
        with caplog.at_level(logging.WARNING, "vitedge"):
            taken("rtsp://c/?channel=1&subtype=0&%74ransport=udp")
        assert caplog.text == ""


class TestWrongOptions:
    @pytest.mark.parametrize(
        ("query", "expected", "fix"),
        [
            ("transport=tpc", "tcp or udp", "did you mean tcp?"),
            ("planes=maybe", "true or false", ""),
            ("planes=ture", "true or false", "did you mean true?"),
            ("read_timeout=0", "seconds above 0", ""),
            ("read_timeout=-1", "seconds above 0", ""),
            ("read_timeout=nan", "seconds above 0", ""),
            ("read_timeout=inf", "seconds above 0", ""),
            ("read_timeout=", "seconds above 0", ""),
            ("read_timeout", "seconds above 0", ""),
            ("decode_threads=0", "1 to 256", ""),
            ("decode_threads=1.5", "1 to 256", ""),
            ("decode_threads=99999999999999999999", "1 to 256", ""),
        ],
    )
    def test_a_wrong_value_names_the_right_ones(self, query: str, expected: str, fix: str):
        with pytest.raises(UsageError) as raised:
            taken(f"rtsp://camera/?{query}")
        assert expected in raised.value.expected
        assert raised.value.fix == fix

    def test_an_unknown_name_of_a_camera(self):
        with pytest.raises(UsageError, match="unknown option 'widht'") as raised:
            take_options("v4l2:///dev/video0?widht=640", CameraOptions)
        assert raised.value.fix == "did you mean width?"
        assert "fourcc, fps, height" in raised.value.expected

    def test_two_values_of_one_option(self):
        with pytest.raises(UsageError, match="transport=tcp and transport=udp"):
            taken("rtsp://c/?transport=tcp&transport=udp")
        assert taken("rtsp://c/?transport=udp&transport=udp")[0] == "rtsp://c/"

    @pytest.mark.parametrize(
        ("kind", "values"),
        [
            (SourceOptions, {"open_timeout": 0}),
            (SourceOptions, {"read_timeout": None}),
            (SourceOptions, {"read_timeout": "5"}),
            (SourceOptions, {"stall_timeout": True}),
            (SourceOptions, {"decode_threads": 0}),
            (SourceOptions, {"planes": 1}),
            (NetworkOptions, {"transport": "TCP"}),
            (CameraOptions, {"width": 640}),
            (CameraOptions, {"height": 480}),
            (CameraOptions, {"width": 0, "height": 0}),
            (CameraOptions, {"width": 640.0, "height": 480}),
            (CameraOptions, {"fps": 0}),
            (CameraOptions, {"fourcc": "MJPEG"}),
            (CameraOptions, {"fourcc": "ÄÖÜß"}),
            (PictureOptions, {"width": 100_000, "height": 100_000}),
            (PictureOptions, {"frames": 0}),
        ],
    )
    def test_a_dataclass_is_checked_too(self, kind: type[SourceOptions], values: dict[str, object]):
        with pytest.raises(UsageError) as raised:
            kind(**values)
        assert raised.value.expected

    def test_every_option_has_a_rule(self):
        for kind in (SourceOptions, NetworkOptions, CameraOptions, PictureOptions):
            assert {field.name for field in fields(kind)} <= set(module._RULES)


class TestBoth:
    def test_the_dataclass_adds_to_the_query(self):
        _, options = taken("rtsp://c/?transport=udp", NetworkOptions(read_timeout=1.0))
        assert options == NetworkOptions(read_timeout=1.0, transport="udp")

    def test_both_may_say_the_same(self):
        assert taken("rtsp://c/?read_timeout=1", SourceOptions(read_timeout=1))[1].read_timeout == 1

    def test_they_may_not_contradict(self):
        with pytest.raises(UsageError, match=r"says transport=udp, and the options say transport=tcp"):
            taken("rtsp://c/?transport=udp", NetworkOptions(transport="tcp"))

    def test_options_of_every_source_fit_every_kind(self):
        assert options_as(CameraOptions, SourceOptions(read_timeout=1.0), "x") == CameraOptions(read_timeout=1.0)
        assert options_as(CameraOptions, None, "x") == CameraOptions()

    @pytest.mark.parametrize(
        ("kind", "options"),
        [(NetworkOptions, CameraOptions()), (SourceOptions, CameraOptions()), (CameraOptions, PictureOptions())],
    )
    def test_options_of_another_kind_do_not(self, kind: type[SourceOptions], options: SourceOptions):
        with pytest.raises(UsageError, match="are no options of") as raised:
            options_as(kind, options, "rtsp://admin:secret@c/")
        assert "secret" not in str(raised.value)
        assert "SourceOptions" in raised.value.expected


class TestCameraQueries:
    @pytest.mark.parametrize(
        "query", ["width=640&height=480", "size=640x480", "size=640X480", "size=640x480&width=640"]
    )
    def test_the_size(self, query: str):
        _, options = take_options(f"v4l2:///dev/video0?{query}&fps=30000/1001&fourcc=YUYV", CameraOptions)
        assert (options.width, options.height, options.fourcc) == (640, 480, "YUYV")
        assert options.fps == pytest.approx(29.97, abs=1e-3)

    @pytest.mark.parametrize(
        "query", ["size=640", "size=x", "size=0x0", "size=640x480x3", "size=640x480&width=320", "fps=1/0"]
    )
    def test_a_wrong_size_or_rate(self, query: str):
        with pytest.raises(UsageError):
            take_options(f"v4l2:///dev/video0?{query}", CameraOptions)
