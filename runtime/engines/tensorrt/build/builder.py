"""Build an ONNX graph into a plan with any TensorRT; ``versions`` holds the differences between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitedge.errors import EngineError
from vitedge.progress import Counters, Progress, Silent
from vitedge.runtime.engines.tensorrt.layers import EngineLayer
from vitedge.runtime.engines.tensorrt.log_capture import LogCapture, capture_log, logger_of
from vitedge.runtime.engines.tensorrt.versions import Api, api_of
from vitedge.safety.files import read_bytes
from vitedge.safety.limits import GRAPH_BYTES

SHOWN_ERRORS = 5

# Words in TensorRT's error messages, and what to do about them.
_REMEDIES = (
    ("out of memory", "close other programs, or give a smaller workspace_mb="),
    ("outofmemory", "close other programs, or give a smaller workspace_mb="),
    ("could not find any implementation", "give a larger workspace_mb, or convert with another precision"),
)
_REMEDY = "update TensorRT, or convert the model again with this vitedge"


@dataclass(frozen=True)
class BuiltPlan:
    """The result of a build.

    Attributes:
        plan: the serialized engine.
        timing_cache: timings for the next build; empty if this TensorRT times nothing.
        layers: layers of the plan, as the builder logged them.
    """

    plan: bytes
    timing_cache: bytes
    layers: tuple[EngineLayer, ...]


def build_plan(
    module: Any,
    graph: Path,
    *,
    workspace_bytes: int | None = None,
    timing_cache: bytes = b"",
    progress: Progress = Silent(),  # noqa: B008
) -> BuiltPlan:
    """Build a strongly typed graph. Its nodes set the precision, no flag changes it, and fp32 is not rounded to TF32.

    Args:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        graph: an ONNX file without external data.
        workspace_bytes: scratch memory limit of a layer; by default all memory of the GPU.
        timing_cache: timings of an earlier build; ignored if they do not fit.
        progress: receives the builder's phases.

    Raises:
        EngineError: the file is not an ONNX graph, this TensorRT cannot build one of its nodes or layers, which the
            message names, or there is too little memory.
    """
    api = api_of(module)
    content = _content(graph)
    with capture_log(module) as captured:
        try:
            builder = module.Builder(logger_of(module))
        except TypeError as error:  # how the bindings report that the library returned no object
            said = captured.reason or str(error)
            raise EngineError(f"{api.title} does not start: {said}", fix="vitedge doctor shows the driver") from error
        network = builder.create_network(api.network_flags)
        _parse(module, api, network, content, graph)
        config = _configured(module, api, builder, workspace_bytes, timing_cache)
        with Counters(progress) as counters:
            config.progress_monitor = _monitor(module, counters)
            serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise _failed(api, graph, captured)
        return BuiltPlan(
            plan=bytes(memoryview(serialized)),
            timing_cache=bytes(memoryview(config.get_timing_cache().serialize())) if api.timing_cache else b"",
            layers=captured.layers,
        )


def flags_of(api: Api) -> tuple[str, ...]:
    """Return the builder flags, which are part of the fingerprint."""
    capture = () if api.capture_flag is None else (api.capture_flag.name,)
    return ("STRONGLY_TYPED", "no TF32", *capture)


def _content(graph: Path) -> bytes:
    try:
        content = read_bytes(graph, limit=GRAPH_BYTES)
    except (OSError, ValueError) as error:
        raise EngineError(f"{graph} cannot be read: {error}", fix="copy the bundle again") from error
    if not content:
        raise EngineError(f"{graph} is empty", expected="an ONNX graph", fix="copy the bundle again, or convert again")
    return content


def _parse(module: Any, api: Api, network: Any, content: bytes, graph: Path) -> None:
    parser = module.OnnxParser(network, logger_of(module))
    if parser.parse(content, str(graph)):  # the weights of a graph beyond 2 GB lie beside it
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    nodes = [each for each in errors if each.node() >= 0]
    if not nodes:
        said = "; ".join(each.desc() for each in errors) or "no reason given"
        raise EngineError(
            f"{graph} is not an ONNX graph that {api.title} can read: {said}",
            fix="the file is truncated or altered: copy the bundle again, or convert again",
        )
    more = f"; and {len(nodes) - SHOWN_ERRORS} more" if len(nodes) > SHOWN_ERRORS else ""
    raise EngineError(
        f"{api.title} cannot build {graph}: {'; '.join(map(_node_error, nodes[:SHOWN_ERRORS]))}{more}",
        expected="operators that this TensorRT supports, with types that it supports",
        fix="convert for this target with this vitedge; else update TensorRT, or change the model at that node",
    )


def _node_error(error: Any) -> str:
    return f"node {error.node_name() or error.node()!r} ({error.node_operator()}): {error.desc()}"


def _configured(module: Any, api: Api, builder: Any, workspace_bytes: int | None, timing_cache: bytes) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # otherwise the inspector reports no precision
    config.clear_flag(module.BuilderFlag.TF32)
    if api.capture_flag is not None:
        config.set_flag(api.capture_flag)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace_bytes)
    if api.timing_cache:
        config.set_timing_cache(_timing_cache(config, timing_cache), ignore_mismatch=False)
    return config


def _timing_cache(config: Any, content: bytes) -> Any:
    """Create the timing cache; a damaged one is ignored."""
    return config.create_timing_cache(content) or config.create_timing_cache(b"")


def _failed(api: Api, graph: Path, captured: LogCapture) -> EngineError:
    said = captured.reason or "no reason given"
    everything = " ".join(captured.errors).lower()
    fix = next((remedy for sign, remedy in _REMEDIES if sign in everything), _REMEDY)
    return EngineError(f"{api.title} could not build {graph}: {said}", fix=fix)


def _monitor(module: Any, counters: Counters) -> Any:
    """Make an ``IProgressMonitor`` that advances counters; TensorRT calls it from its own threads.

    Nothing is raised there, because an exception in a thread of TensorRT would end the process.
    """

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            counters.begin(phase_name, total=num_steps, unit=phase_name)
            counters.advance(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002
            counters.advance(phase_name)
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            counters.end(phase_name)

    return Monitor()
