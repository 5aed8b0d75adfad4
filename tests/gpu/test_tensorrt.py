"""TensorRT on a GPU: built, run, replayed, threaded, and for long."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import vitedge
from vitedge.bundle.bundle import MODEL_ONNX, Bundle
from vitedge.errors import BundleIntegrityError
from vitedge.metrics import parity
from vitedge.runtime.engines.open import open_engine, open_workers
from vitedge.runtime.engines.tensorrt.build.build import ensure_built
from vitedge.runtime.engines.tensorrt.device import Device
from vitedge.runtime.engines.tensorrt.engine import TensorrtEngine
from vitedge.runtime.preprocess.preprocessor import Preprocessor
from vitedge.runtime.sources.images.reading import read_image

for package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(package)

import vits  # noqa: E402
from tensorrt_bundles import reference  # noqa: E402

INFERENCES = 10_000
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def bundle(device: Device, make_gpu_bundle: Callable[..., Bundle]) -> Bundle:
    made = make_gpu_bundle(vits.vit("int8"), vits.vit("fp16"))
    ensure_built(made, device)
    return made


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[TensorrtEngine]:
    opened = open_engine(bundle)
    assert isinstance(opened, TensorrtEngine)
    yield opened
    opened.close()


def noise(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def run_all(engine: TensorrtEngine, frames: np.ndarray) -> np.ndarray:
    made = []
    for frame in frames:
        engine.frame[...] = frame
        made.append(engine.run())
    return np.stack(made)


def used_memory(device: Device) -> int:
    """Bytes of the GPU's memory that are in use, by anyone."""
    from cuda.bindings import driver

    context = device.cuda.retain_context()
    device.cuda.push(context)
    try:
        _, free, total = driver.cuMemGetInfo()
    finally:
        device.cuda.pop()
        device.cuda.release_context()
    return int(total) - int(free)


@pytest.mark.parametrize(("kind", "least_db"), [("fp32", 60.0), ("fp16", 35.0), ("int8", 20.0)])
def test_parity_with_onnx_runtime(
    kind: vits.Kind, least_db: float, device: Device, make_gpu_bundle: Callable[..., Bundle]
) -> None:
    made = make_gpu_bundle(vits.vit(kind))
    record = ensure_built(made, device).record
    assert record.candidates[0].precision == kind
    opened = open_engine(made)
    frames = noise(50)
    found = run_all(opened, frames)  # type: ignore[arg-type]
    opened.close()
    assert parity(reference(made.path / MODEL_ONNX, frames), found).sqnr_db >= least_db


def test_parity_on_photos(shared_data: Path, bundle: Bundle, engine: TensorrtEngine) -> None:
    photos = sorted((shared_data / "flowers").rglob("*.jpg"))[:50]
    assert len(photos) == 50
    preprocess = Preprocessor(bundle.manifest.model.preprocessing)
    frames = np.stack([preprocess(read_image(photo), order="BGR") for photo in photos])
    graph = bundle.path / engine.info.graph
    assert parity(reference(graph, frames), run_all(engine, frames)).sqnr_db >= 20.0


def test_a_graph_is_replayed_and_gives_what_it_gave(engine: TensorrtEngine) -> None:
    assert engine.graph_refusal == ""
    frames = noise(20)
    first = run_all(engine, frames)
    np.testing.assert_array_equal(run_all(engine, frames[::-1])[::-1], first)
    assert len(np.unique(first, axis=0)) == len(frames)


def test_workers_in_threads_give_what_one_gives(bundle: Bundle, engine: TensorrtEngine) -> None:
    frames = noise(500)
    expected = run_all(engine, frames)
    workers = open_workers(bundle)
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        found[number] = run_all(workers[number], frames)  # type: ignore[arg-type]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in workers:
        worker.close()
    assert len(found) == 2
    for logits in found.values():
        np.testing.assert_array_equal(logits, expected)


def test_memory_does_not_grow_with_inferences(device: Device, engine: TensorrtEngine) -> None:
    run_all(engine, noise(100))
    before = used_memory(device)
    for _ in range(INFERENCES):
        engine.run()
    assert used_memory(device) - before < MEBIBYTE


def test_memory_does_not_grow_with_engines(device: Device, bundle: Bundle) -> None:
    open_engine(bundle).close()
    before = used_memory(device)
    for _ in range(50):
        open_engine(bundle).close()
    assert used_memory(device) - before < 4 * MEBIBYTE


def test_an_altered_plan_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    copied = Bundle.open(shutil.copytree(bundle.path, tmp_path / "copy.bundle"))
    plan = copied.path / "tensorrt" / "model.plan"
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    with pytest.raises(BundleIntegrityError, match="altered"):
        vitedge.load(copied)


def test_load_classifies(bundle: Bundle) -> None:
    with vitedge.load(bundle) as classifier:
        prediction = classifier.classify(noise(1)[0])
    assert classifier.info.name == "tensorrt"
    assert 0 < prediction.score <= 1
