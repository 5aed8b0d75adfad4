"""What vitedge's engine adds to TensorRT: inferences through it against a bare loop around ``enqueueV3``.

    python benchmarks/tensorrt_overhead.py deit.bundle

Both run the same plan. The bare loop copies in, enqueues, copies out and waits, and does nothing else. Needs the GPU
that the bundle was built for, and fails where the engine takes more than 1.05 times as long.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from common.timing import Call, in_turns, median_ms

from vitedge.bundle.bundle import INPUT_NAME, OUTPUT_NAME, Bundle
from vitedge.runtime.engines.tensorrt.build.build import ensure_built
from vitedge.runtime.engines.tensorrt.cuda import current
from vitedge.runtime.engines.tensorrt.device import Device, open_device
from vitedge.runtime.engines.tensorrt.engine import open_plan
from vitedge.runtime.engines.tensorrt.plan import Plan
from vitedge.runtime.engines.tensorrt.plan_store import StoredPlan, tensorrt_of

MOST = 1.05
ROUNDS = 20
CALLS = 200


@contextmanager
def bare_loop(device: Device, stored: StoredPlan) -> Iterator[Call]:
    """Yield a call for one inference, as short as Python allows without a graph."""
    cuda = device.cuda
    with ExitStack() as stack:
        context = cuda.retain_context()
        stack.callback(cuda.release_context)
        stack.enter_context(current(cuda, context))
        plan = Plan(device, stored.read(), stored.path)
        stack.callback(plan.release)
        stream = cuda.new_stream()
        stack.callback(cuda.free_stream, stream)
        tensors = plan.tensors()
        sizes = {name: tensors[name].nbytes for name in (INPUT_NAME, OUTPUT_NAME)}
        host, memory = {}, {}
        for name, size in sizes.items():
            host[name] = cuda.pin(size)
            stack.callback(cuda.unpin, host[name])
            memory[name] = cuda.allocate(size)
            stack.callback(cuda.free, memory[name])
        scratch_bytes = max(plan.scratch_bytes, 256)
        scratch = cuda.allocate(scratch_bytes)
        stack.callback(cuda.free, scratch)
        execution = plan.new_execution()
        stack.callback(execution.close)
        execution.bind(memory, scratch, scratch_bytes)
        copy_in = partial(cuda.copy_in, memory[INPUT_NAME], host[INPUT_NAME], sizes[INPUT_NAME], stream)
        enqueue = partial(execution.enqueue, stream)
        copy_out = partial(cuda.copy_out, host[OUTPUT_NAME], memory[OUTPUT_NAME], sizes[OUTPUT_NAME], stream)
        synchronize = partial(cuda.synchronize, stream)

        def call() -> None:
            copy_in()
            enqueue()
            copy_out()
            synchronize()

        yield call


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    bundle = Bundle.open(parser.parse_args().bundle)
    device = open_device(tensorrt_of(bundle).module)
    stored = ensure_built(bundle, device)
    (engine,) = open_plan(device, bundle, stored.read(), stored.path, graph=stored.record.kept)
    with bare_loop(device, stored) as bare:
        found = in_turns(
            {"vitedge": engine.run, "bare": bare}, lambda call: median_ms(call, calls=CALLS, settling=20), rounds=ROUNDS
        )
    engine.close()
    ratio = statistics.median(ours / theirs for ours, theirs in zip(found["vitedge"], found["bare"], strict=True))
    graph = f"without a CUDA graph: {engine.graph_refusal}" if engine.graph_refusal else "as a CUDA graph"
    print(f"{device.api.title} on {device.gpu.name}, {stored.record.chosen.precision}, {graph}")
    for name, values in found.items():
        print(f"{name:<10} {statistics.median(values):.4f} ms")
    print(f"ratio      {ratio:.3f}, at most {MOST}")
    return int(ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
