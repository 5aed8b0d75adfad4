"""What all engines promise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import file_records, rewrite_manifest
from numpy.typing import NDArray

from vitedge.bundle.bundle import GOLDEN, LABELS, MODEL_ONNX, OPENVINO_BIN, OPENVINO_XML, Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.bundle.targets import Precision
from vitedge.errors import BundleError, BundleIntegrityError, EngineError, MissingExtraError, UsageError, VitedgeError
from vitedge.extras import require
from vitedge.metrics import sqnr_db
from vitedge.runtime import load as load_module
from vitedge.runtime.engines.base import Engine
from vitedge.runtime.engines.open import ENGINES, MOST_THREADS, open_engine, open_workers
from vitedge.runtime.load import load
from vitedge.testing import FakeEngine

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
FILES = (MODEL_ONNX, OPENVINO_XML, OPENVINO_BIN, LABELS, GOLDEN)
MIN_SQNR_DB = {"fp32": 100.0, "fp16": 40.0, "int8": 35.0}


@pytest.fixture(scope="module", params=PRECISIONS)
def bundle(
    request: pytest.FixtureRequest, make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("engines") / "some.bundle", precision=request.param)


CPU_ENGINES = [name for name in ENGINES if name != "tensorrt"]  # that one is in tests/gpu


@pytest.fixture(params=CPU_ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run_all(engine: Engine, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    answers = []
    for frame in frames:
        engine.frame[...] = frame
        answers.append(engine.run())
    return np.stack(answers)


def with_preprocessing(bundle: Bundle, **changes: object) -> Bundle:
    model = bundle.manifest.model
    preprocessing: Preprocessing = replace(model.preprocessing, **changes)  # type: ignore[arg-type]
    return replace(bundle, manifest=replace(bundle.manifest, model=replace(model, preprocessing=preprocessing)))


def test_every_engine_reproduces_the_golden_logits(bundle: Bundle, name: str) -> None:
    engine = open_engine(bundle, name)
    golden = bundle.golden()
    reached = sqnr_db(golden.logits, run_all(engine, golden.frames))
    engine.close()
    assert reached >= MIN_SQNR_DB[bundle.manifest.precision.asked]


def test_the_frame_is_the_input_buffer_and_the_logits_are_the_caller_s(tiny_bundle: Bundle, name: str) -> None:
    engine = open_engine(tiny_bundle, name)
    assert (engine.frame.shape, engine.frame.dtype) == ((32, 32, 3), np.uint8)
    golden = tiny_bundle.golden()
    first = run_all(engine, golden.frames[:1])[0]
    kept = first.copy()
    second = run_all(engine, golden.frames[1:2])[0]
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)
    first[:] = 0
    assert np.array_equal(engine.run(), second)
    engine.close()


def test_equal_frames_give_equal_logits(tiny_bundle: Bundle, name: str) -> None:
    engine = open_engine(tiny_bundle, name, threads=1)
    frames = tiny_bundle.golden().frames[[0, 1, 0]]
    first, _, again = run_all(engine, frames)
    engine.close()
    assert np.array_equal(first, again)


def test_a_closed_engine_refuses_and_closes_again(tiny_bundle: Bundle, name: str) -> None:
    engine = open_engine(tiny_bundle, name)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        engine.run()


def test_the_info_names_library_version_and_processor(tiny_bundle: Bundle, name: str) -> None:
    engine = open_engine(tiny_bundle, name)
    info = engine.info
    engine.close()
    assert info.name == name
    assert info.version == require(name, extra=name, purpose="test").__version__.partition("-")[0]
    assert info.device
    assert (info.effective_precision, info.rest_precision) == ("fp32", "fp32")


def test_the_engine_of_the_target_is_the_default(tiny_bundle: Bundle) -> None:
    engine = open_engine(tiny_bundle)
    engine.close()
    assert engine.info.name == "openvino"


def test_an_unknown_engine_is_refused_with_a_suggestion(tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="unknown engine 'openvin'") as caught:
        open_engine(tiny_bundle, "openvin")
    assert "did you mean openvino?" in caught.value.fix
    assert "onnxruntime" in caught.value.expected


@pytest.mark.parametrize("threads", [0, -1, MOST_THREADS + 1, 10**9, 1.5, "two"])
def test_numbers_of_threads_that_no_machine_has_are_refused(tiny_bundle: Bundle, threads: Any) -> None:
    with pytest.raises(UsageError, match=f"threads is {threads!r}"):
        open_engine(tiny_bundle, threads=threads)


def test_a_missing_library_is_named_with_its_extra(
    tiny_bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"the {name} engine needs {name}"):
        open_engine(tiny_bundle, name)


@pytest.mark.parametrize("changes", [{"input_size": (32, 16)}, {"input_size": (64, 64)}])
def test_a_graph_with_another_input_is_refused(tiny_bundle: Bundle, name: str, changes: dict[str, object]) -> None:
    with pytest.raises(EngineError):
        open_engine(with_preprocessing(tiny_bundle, **changes), name)


def test_a_graph_with_another_number_of_classes_is_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path, name: str
) -> None:
    bundle = make_bundle(tmp_path / "four.bundle", labels=("red", "green", "blue", "none"))
    with pytest.raises(EngineError, match="gives 3 float32 logits") as caught:
        open_engine(bundle, name)
    assert "4 float32" in caught.value.expected


@pytest.fixture
def copied(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """The tiny bundle, to be spoiled."""
    return Bundle.open(shutil.copytree(tiny_bundle.path, tmp_path / "copy.bundle"))


def rehashed(bundle: Bundle) -> Bundle:
    """A spoiled bundle with true hashes: whoever writes a bundle writes them."""
    rewrite_manifest(bundle.path, replace(bundle.manifest, files=file_records(bundle.path)))
    return Bundle.open(bundle.path)


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [("openvino", OPENVINO_XML, EngineError), ("onnxruntime", MODEL_ONNX, BundleIntegrityError)],
)
def test_a_graph_that_cannot_be_read_is_one_clear_error(
    copied: Bundle, name: str, file: str, kind: type[VitedgeError]
) -> None:
    path = copied.file(file)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(kind, match=str(path)) as caught:
        open_engine(rehashed(copied), name)
    assert caught.value.__cause__ is not None
    assert caught.value.fix


def test_a_graph_that_onnx_runtime_cannot_run_is_an_engine_error(copied: Bundle) -> None:
    onnx = pytest.importorskip("onnx")
    path = copied.file(MODEL_ONNX)
    model = onnx.load(path)
    model.graph.node[0].op_type = "Unknown"
    onnx.save(model, path)
    with pytest.raises(EngineError, match=f"cannot run {path}") as caught:
        open_engine(rehashed(copied), "onnxruntime")
    assert caught.value.__cause__ is not None
    assert caught.value.fix


USED = [("openvino", OPENVINO_XML), ("openvino", OPENVINO_BIN), ("onnxruntime", MODEL_ONNX)]


@pytest.mark.parametrize(("name", "file"), USED)
def test_a_file_that_changes_after_it_was_checked_is_not_used(copied: Bundle, name: str, file: str) -> None:
    assert file in ENGINES[name].reads
    path = copied.file(file)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for use in (open_engine, open_workers) if name == "openvino" else (open_engine,):
        with pytest.raises(BundleIntegrityError, match="was altered"):
            use(copied, name)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("engine", [*CPU_ENGINES, None])
def test_load_checks_every_file_whichever_the_engine_reads(copied: Bundle, file: str, engine: str | None) -> None:
    path = copied.file(file)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleIntegrityError, match="was altered"):
        load(copied.path, engine=engine)


@pytest.mark.parametrize("engine", [*CPU_ENGINES, None])
def test_load_reads_every_file_once(copied: Bundle, engine: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    load(copied.path, engine=engine).close()  # the self-test is remembered
    opened: list[str] = []
    before = Bundle._opened
    monkeypatch.setattr(Bundle, "_opened", lambda self, name, limit: opened.append(name) or before(self, name, limit))
    load(copied.path, engine=engine).close()
    assert sorted(opened) == sorted(FILES)


def test_an_altered_file_goes_before_an_engine_that_fails(copied: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> Engine:
        raise EngineError("no engine")

    monkeypatch.setattr(load_module, "open_engine", failing)
    with pytest.raises(EngineError, match="no engine"):
        load(copied.path)
    copied.file(LABELS).write_bytes(b"x" * copied.manifest.files[LABELS].bytes)
    with pytest.raises(BundleIntegrityError, match="was altered"):
        load(copied.path)


def test_an_engine_is_closed_where_another_file_was_altered(copied: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(lambda _: [0, 0, 0], input_size=(32, 32))
    monkeypatch.setattr(load_module, "open_engine", lambda *_, **__: engine)
    copied.file(LABELS).write_bytes(b"x" * copied.manifest.files[LABELS].bytes)
    with pytest.raises(BundleIntegrityError, match="was altered"):
        load(copied.path)
    assert engine.closed


def test_an_ir_that_would_crash_openvino_does_not_reach_it(copied: Bundle) -> None:
    path = copied.file(OPENVINO_XML)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('type="Const"', 'type="Broadcast"', 1), encoding="utf-8")
    opened = rehashed(copied)
    for use in (open_engine, open_workers):
        with pytest.raises(EngineError, match=f"cannot run {path}: its layer of type Broadcast has no inputs"):
            use(opened, "openvino")


def with_external_data(path: Path, tensor: onnx.TensorProto, location: str) -> None:
    """Move the data of a tensor into a file, and have the graph name it."""
    (path.parent / location).write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin"])
def test_a_graph_with_data_in_other_files_reaches_no_library(
    copied: Bundle, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given as bytes, ONNX Runtime would look for them in the current folder."""
    path = copied.file(MODEL_ONNX)
    graph = onnx.load(path)
    with_external_data(path, graph.graph.initializer[-1], location)
    path.write_bytes(graph.SerializeToString())
    monkeypatch.chdir(copied.path)
    opened = rehashed(copied)
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    with pytest.raises(BundleIntegrityError, match="has its data in another file"):
        open_engine(opened, "onnxruntime")


@pytest.mark.parametrize(
    ("name", "file"), [("openvino", OPENVINO_XML), ("openvino", OPENVINO_BIN), ("onnxruntime", MODEL_ONNX)]
)
def test_a_file_that_the_manifest_does_not_vouch_for_is_not_used(tiny_bundle: Bundle, name: str, file: str) -> None:
    files = {each: record for each, record in tiny_bundle.manifest.files.items() if each != file}
    bundle = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, files=files))
    with pytest.raises(BundleError, match=f"has no {file}"):
        open_engine(bundle, name)


def test_no_workers_where_there_is_one_thread(tiny_bundle: Bundle, name: str) -> None:
    assert len(open_workers(tiny_bundle, name, threads=1)) == 0


def test_workers_each_have_a_buffer_of_their_own_and_reproduce_the_golden_logits(bundle: Bundle) -> None:
    workers = open_workers(bundle, "openvino", threads=2)
    golden = bundle.golden()
    assert len(workers) == 3
    assert not np.shares_memory(workers[0].frame, workers[1].frame)
    for worker in workers:
        assert sqnr_db(golden.logits, run_all(worker, golden.frames)) >= MIN_SQNR_DB[bundle.manifest.precision.asked]
    for worker in workers:
        worker.close()


def test_a_worker_closes_alone(tiny_bundle: Bundle) -> None:
    first, second, third = open_workers(tiny_bundle, "openvino", threads=2)
    first.close()
    third.close()
    with pytest.raises(EngineError, match="is closed"):
        first.run()
    assert second.run().shape == (3,)
    second.close()


@pytest.mark.parametrize("arguments", [{"name": "openvin"}, {"threads": 0}])
def test_workers_are_refused_as_engines_are(tiny_bundle: Bundle, arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        open_workers(tiny_bundle, **arguments)  # type: ignore[arg-type]
