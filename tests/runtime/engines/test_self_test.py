"""The golden self-test: engines that are wrong do not serve, and passing is remembered for exactly what passed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle, Golden
from vitedge.errors import BundleError, EngineError
from vitedge.runtime import load as load_module
from vitedge.runtime.engines.base import EngineInfo
from vitedge.runtime.engines.self_test import cache_key, ensure_self_test, self_test
from vitedge.runtime.load import load
from vitedge.runtime.system import cache, capabilities
from vitedge.runtime.system.cache import cache_folder
from vitedge.testing import FakeEngine

INFO = EngineInfo("openvino", "2026.4", "some CPU", "int8", "bf16")


def engine_that(answer: Callable[[np.ndarray[Any, Any]], Any]) -> FakeEngine:
    return FakeEngine(answer, input_size=(32, 32))


@pytest.fixture
def golden(tiny_bundle: Bundle) -> Golden:
    return tiny_bundle.golden()


@pytest.fixture
def truthful(golden: Golden) -> FakeEngine:
    """Answers every golden frame with its golden logits."""
    table = {frame.tobytes(): row for frame, row in zip(golden.frames, golden.logits, strict=True)}
    return FakeEngine(table, input_size=(32, 32))


def spoiled(truthful: FakeEngine, spoil: Callable[[Any], Any]) -> FakeEngine:
    return engine_that(lambda frame: spoil(np.array(truthful._logits_of(frame))))


def test_an_engine_that_is_right_passes(tiny_bundle: Bundle, truthful: FakeEngine, golden: Golden) -> None:
    result = self_test(tiny_bundle, truthful)
    assert result.sqnr_db == 200.0
    assert result.vectors == len(golden.frames) == len(truthful.calls)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda logits: 2 * logits,
        lambda logits: 0 * logits,
        lambda logits: -logits,
        lambda logits: logits[::-1],
        lambda logits: logits + 1,
        lambda logits: logits * 1.05,
    ],
    ids=["doubled", "zero", "negated", "swapped", "shifted", "5 % more"],
)
def test_an_engine_that_is_wrong_says_what_it_reached_and_what_was_expected(
    tiny_bundle: Bundle, truthful: FakeEngine, spoil: Callable[[Any], Any]
) -> None:
    with pytest.raises(EngineError, match=r"reached an SQNR of -?\d+\.\d dB") as caught:
        self_test(tiny_bundle, spoiled(truthful, spoil))
    assert "at least 30.0 dB" in caught.value.expected
    assert "fake 1 in fp32 on none" in caught.value.problem
    assert caught.value.fix


def test_little_noise_passes(tiny_bundle: Bundle, truthful: FakeEngine) -> None:
    assert 35 < self_test(tiny_bundle, spoiled(truthful, lambda logits: logits * 1.01)).sqnr_db < 45


def test_one_wrong_vector_among_good_ones_is_enough(tiny_bundle: Bundle, truthful: FakeEngine, golden: Golden) -> None:
    last = golden.frames[-1].tobytes()
    engine = engine_that(lambda frame: truthful._logits_of(frame) * np.float32(0 if frame.tobytes() == last else 1))
    with pytest.raises(EngineError, match="SQNR"):
        self_test(tiny_bundle, engine)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_no_number_is_refused(tiny_bundle: Bundle, truthful: FakeEngine, poison: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        self_test(tiny_bundle, spoiled(truthful, lambda logits: np.where(logits == logits.max(), poison, logits)))


@pytest.mark.parametrize("length", [1, 2, 4])
def test_another_number_of_logits_is_refused(tiny_bundle: Bundle, length: int) -> None:
    with pytest.raises(EngineError, match=f"gave {length} logits?\\b") as caught:
        self_test(tiny_bundle, engine_that(lambda _: np.zeros(length)))
    assert caught.value.expected.startswith("3 logits")


@pytest.mark.parametrize("precision", ["int8", "fp16", "bf16", "fp32"])
def test_the_advice_fits_the_precision(tiny_bundle: Bundle, precision: str) -> None:
    engine = engine_that(lambda _: [0, 0, 0])
    engine.info = replace(INFO, effective_precision=precision)
    with pytest.raises(EngineError) as caught:
        self_test(tiny_bundle, engine)
    expected = {"int8": "VNNI", "fp16": "precision='fp32'", "bf16": "precision='fp32'", "fp32": "another version"}
    assert expected[precision] in caught.value.fix


@pytest.mark.parametrize(
    "golden",
    [
        Golden(np.zeros((0, 32, 32, 3), np.uint8), np.zeros((0, 3), np.float32)),
        Golden(np.zeros((2, 16, 16, 3), np.uint8), np.zeros((2, 3), np.float32)),
        Golden(np.zeros((2, 32, 32, 3), np.float32), np.zeros((2, 3), np.float32)),  # type: ignore[arg-type]
        Golden(np.zeros((2, 32, 32, 3), np.uint8), np.zeros(3, np.float32)),
    ],
    ids=["none", "another size", "float frames", "flat logits"],
)
def test_golden_vectors_that_do_not_fit_are_refused(
    tiny_bundle: Bundle, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bundle, "golden", lambda _: golden)
    with pytest.raises(EngineError, match="cannot take golden frames"):
        self_test(tiny_bundle, engine_that(lambda _: [0, 0, 0]))


@pytest.mark.parametrize("poison", [np.nan, np.inf, 0.0])
def test_golden_logits_that_say_nothing_pass_no_engine(
    tiny_bundle: Bundle, golden: Golden, truthful: FakeEngine, poison: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they came here: the metric itself does not let them."""
    spoiled = replace(golden, logits=np.full_like(golden.logits, poison))
    monkeypatch.setattr(Bundle, "golden", lambda _: spoiled)
    for engine in (truthful, engine_that(lambda _: [0, 0, 0])):
        with pytest.raises(EngineError, match="SQNR of -200"):
            self_test(tiny_bundle, engine)


@pytest.mark.parametrize("demand", [np.nan, -np.inf, -300.0, 0.0, 4.9])
def test_too_little_is_demanded_of_no_engine(tiny_bundle: Bundle, truthful: FakeEngine, demand: float) -> None:
    record = replace(tiny_bundle.manifest.golden, min_sqnr_db=demand)
    lax = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, golden=record))
    for check in (self_test, ensure_self_test):
        with pytest.raises(BundleError, match="min_sqnr_db"):
            check(lax, truthful)
    cache.put("self-test", cache_key(lax, truthful.info), {"sqnr_db": 40.0})
    with pytest.raises(BundleError, match="min_sqnr_db"):
        ensure_self_test(lax, truthful)


def test_a_bundle_without_golden_vectors_does_not_serve(tiny_bundle: Bundle, truthful: FakeEngine) -> None:
    without = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, files={}))
    with pytest.raises(BundleError, match="has no golden"):
        ensure_self_test(without, truthful)


def test_load_refuses_and_closes_an_engine_that_is_wrong(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_that(lambda _: [0, 0, 0])
    monkeypatch.setattr(load_module, "open_engine", lambda *_, **__: engine)
    with pytest.raises(EngineError, match="self-test"):
        load(tiny_bundle)
    assert engine.closed


def test_a_bundle_that_demands_more_than_its_precision_gives_is_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="SQNR"):
        load(make_bundle(tmp_path / "strict.bundle", min_sqnr_db=190.0))


def test_passing_is_remembered(tiny_bundle: Bundle, truthful: FakeEngine) -> None:
    first = ensure_self_test(tiny_bundle, truthful)
    calls = len(truthful.calls)
    again = ensure_self_test(tiny_bundle, truthful)
    assert (first.vectors, again.vectors) == (3, 0)
    assert again.sqnr_db == first.sqnr_db
    assert len(truthful.calls) == calls


def test_failing_is_not_remembered(tiny_bundle: Bundle, truthful: FakeEngine) -> None:
    wrong = engine_that(lambda _: [0, 0, 0])
    for _ in range(2):
        with pytest.raises(EngineError):
            ensure_self_test(tiny_bundle, wrong)
    assert ensure_self_test(tiny_bundle, truthful).vectors == 3


@pytest.mark.parametrize(
    "change",
    [
        {"name": "onnxruntime"},
        {"version": "2026.5"},
        {"effective_precision": "bf16"},
        {"rest_precision": "fp32"},
    ],
)
def test_another_engine_has_another_key(tiny_bundle: Bundle, change: dict[str, str]) -> None:
    assert cache_key(tiny_bundle, INFO) == cache_key(tiny_bundle, replace(INFO))
    assert cache_key(tiny_bundle, INFO) != cache_key(tiny_bundle, replace(INFO, **change))


def test_a_cpu_is_known_by_its_instructions_and_a_gpu_by_its_name(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(capabilities, "CPUINFO", cpuinfo)
    keys = []
    for flags in ("avx2 avx512f avx_vnni", "avx512f avx2 avx_vnni", "avx2"):
        cpuinfo.write_text(f"model name : Some CPU\nflags : {flags}\n")
        keys.append(cache_key(tiny_bundle, INFO))
        assert cache_key(tiny_bundle, replace(INFO, device="another name")) == keys[-1]
    assert keys[0] == keys[1] != keys[2]
    cpuinfo.unlink()
    gpu = replace(INFO, name="tensorrt", device="Orin")
    for info in (INFO, gpu):
        assert cache_key(tiny_bundle, info) != cache_key(tiny_bundle, replace(info, device="another name"))


def test_another_bundle_has_another_key(
    tiny_bundle: Bundle, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    assert cache_key(tiny_bundle, INFO) != cache_key(make_bundle(tmp_path / "b", min_sqnr_db=31.0), INFO)


FORGED = ("high", 29.9, 1e300, 201.0, 40, True, None, [40.0], {"x": 40.0})
NOT_FINITE = ('{"sqnr_db": NaN}', '{"sqnr_db": Infinity}', '{"sqnr_db": 1e999}')


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", *NOT_FINITE, *(json.dumps({"sqnr_db": value}) for value in FORGED)]
)
def test_a_memory_that_does_not_say_passed_is_no_memory(tiny_bundle: Bundle, truthful: FakeEngine, text: str) -> None:
    path = cache_folder() / "self-test" / f"{cache_key(tiny_bundle, truthful.info)}.json"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    assert ensure_self_test(tiny_bundle, truthful).vectors == 3


def test_a_cache_that_cannot_be_written_fails_nothing(
    tiny_bundle: Bundle, truthful: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        assert ensure_self_test(tiny_bundle, truthful).vectors == 3


def test_a_full_disk_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str, **_: object) -> int:
        with path.open("w", encoding="utf-8") as stream:
            stream.write(text[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    cache.put("self-test", "key", {"sqnr_db": 40.0})
    assert cache.get("self-test", "key") is None
    assert list((cache_folder() / "self-test").iterdir()) == []


def test_what_is_remembered_is_recalled_by_kind_and_key() -> None:
    cache.put("self-test", "a", {"x": 1})
    cache.put("self-test", "a", {"x": 2})
    assert cache.get("self-test", "a") == {"x": 2}
    assert cache.get("self-test", "b") is None
    assert cache.get("other", "a") is None
    assert json.loads((cache_folder() / "self-test" / "a.json").read_text(encoding="utf-8")) == {"x": 2}


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("VITEDGE_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "vitedge"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == tmp_path / "home" / ".cache" / "vitedge"


def test_without_a_home_nothing_is_remembered_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VITEDGE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    cache.put("self-test", "a", {"x": 1})
    assert cache.get("self-test", "a") is None
