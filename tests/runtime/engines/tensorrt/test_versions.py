"""The table of what differs between versions of TensorRT; the real bindings are asked in ``test_bindings.py``."""

from __future__ import annotations

from enum import IntEnum
from types import SimpleNamespace

import pytest

from vitedge.errors import EngineError
from vitedge.runtime.engines.tensorrt.versions import api_of


class FlagOfTen(IntEnum):
    """As TensorRT 10 numbers them."""

    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


def tensorrt(version: str) -> SimpleNamespace:
    return SimpleNamespace(__name__="tensorrt", __version__=version, NetworkDefinitionCreationFlag=FlagOfTen)


def test_ten_has_to_be_told_to_be_strongly_typed() -> None:
    api = api_of(tensorrt("10.3.0"))
    assert api.network_flags == 1 << FlagOfTen.STRONGLY_TYPED == 2
    assert api.version == (10, 3, 0)
    assert (api.timing_cache, api.capture_flag) == (True, None)


def test_eleven_is_strongly_typed_and_need_not_have_the_flag() -> None:
    api = api_of(SimpleNamespace(__name__="tensorrt", __version__="11.4.0.106"))
    assert api.network_flags == 0
    assert api.timing_cache


@pytest.mark.parametrize("version", ["8.6.2", "10.2.0"])
def test_an_older_one_is_refused(version: str) -> None:
    with pytest.raises(EngineError, match=f"TensorRT {version} is too old") as caught:
        api_of(tensorrt(version))
    assert "10.3" in caught.value.expected
    assert "JetPack" in caught.value.fix


def test_rtx_of_any_version_is_not_taken_for_an_old_tensorrt() -> None:
    rtx = SimpleNamespace(
        __name__="tensorrt_rtx", __version__="1.7.1.116", BuilderFlag=SimpleNamespace(REQUIRE_USER_ALLOCATION="flag")
    )
    api = api_of(rtx)
    assert api.network_flags == 0
    assert (api.timing_cache, api.capture_flag) == (False, "flag")


def test_what_follows_the_numbers_of_a_version_is_left_out() -> None:
    assert api_of(tensorrt("10.13.3.post1")).version == (10, 13, 3)
