"""The differences between the versions of TensorRT, in one table; everything else that vitedge calls is the same.

The table comes from the bindings of TensorRT 10.3, 10.13 and 11.4 and of TensorRT for RTX 1.7, and
``tests/runtime/engines/tensorrt/test_bindings.py`` checks every name that vitedge uses against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitedge.bundle.targets import MINIMUM_TENSORRT
from vitedge.errors import EngineError


@dataclass(frozen=True)
class Api:
    """How one version of ``tensorrt`` or ``tensorrt_rtx`` is used.

    Attributes:
        title: name and version of the product, for people.
        version: such as ``(10, 3, 0)``.
        network_flags: argument of ``Builder.create_network`` that makes a network strongly typed.
        timing_cache: whether building times kernels, so that a timing cache saves time. TensorRT for RTX times no
            kernels and deprecates the cache.
        capture_flag: member of ``BuilderFlag`` that an engine needs to be captured into a CUDA graph;
            ``IExecutionContext.is_stream_capturable`` then says whether it can be. None if every engine with static
            shapes can be captured.
    """

    title: str
    version: tuple[int, ...]
    network_flags: int
    timing_cache: bool
    capture_flag: Any | None


def api_of(module: Any) -> Api:
    """Return how a module, ``tensorrt`` or ``tensorrt_rtx``, is used.

    Raises:
        EngineError: its TensorRT is too old for the strongly typed networks that vitedge writes.
    """
    return _rtx(module) if module.__name__.startswith("tensorrt_rtx") else _tensorrt(module)


def _rtx(module: Any) -> Api:
    return Api(
        title=f"TensorRT for RTX {module.__version__}",
        version=_version(module),
        network_flags=0,  # always strongly typed
        timing_cache=False,
        capture_flag=module.BuilderFlag.REQUIRE_USER_ALLOCATION,
    )


def _tensorrt(module: Any) -> Api:
    version = _version(module)
    if version[:2] < MINIMUM_TENSORRT:
        raise EngineError(
            f"TensorRT {module.__version__} is too old",
            expected=f"{'.'.join(map(str, MINIMUM_TENSORRT))} or newer: JetPack 6.1 and later have it",
            fix="update JetPack; on a PC, update the tensorrt package",
        )
    return Api(
        title=f"TensorRT {module.__version__}",
        version=version,
        # TensorRT 11 is always strongly typed and will drop the flag; its number differs between versions.
        network_flags=0 if version[0] >= 11 else 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        timing_cache=True,
        capture_flag=None,
    )


def _version(module: Any) -> tuple[int, ...]:
    """Parse the leading numbers of ``module.__version__``, such as ``(10, 13, 3, 9)``."""
    numbers = []
    for part in str(module.__version__).split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
