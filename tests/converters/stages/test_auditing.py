"""What a conversion says about the precision in which its layers run, and what it records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vitedge.audit import Audit, AuditedLayer
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.targets import Precision
from vitedge.errors import EngineError
from vitedge.progress import Silent

graphs = pytest.importorskip("quantized_graphs")

from vitedge.converters.stages.auditing import audited  # noqa: E402

RAN = AuditedLayer("fc1", "MatMul", True, "int8", "brgemm_I8")
FELL = AuditedLayer("attn.qkv", "MatMul", True, "bf16", "brgemm_bf16", "of a roll")


class Steps(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def step(self, message: str) -> None:
        self.said.append(message)


LOOKED_UP = "looking up how the engine runs the int8 layers"


def draft(found: Audit | None, precision: Precision = "int8") -> Any:
    backend = SimpleNamespace(audit=lambda _: found)
    reduced = SimpleNamespace(graph=graphs.chain("blocks.0.fc", "head"))
    return SimpleNamespace(backend=backend, precision=precision, reduced=reduced)


def test_a_fallback_is_a_warning_that_names_it(tiny_bundle: Bundle) -> None:
    steps, audit = Steps(), Audit("openvino 2026.4", "some CPU", (RAN, FELL))
    assert audited(tiny_bundle, draft(audit), steps).audit == audit
    assert steps.said[1:] == [
        "warning: 1 of 2 int8 layers runs in int8; 1 fell back to bf16: attn.qkv, because of a roll"
    ]


def test_what_the_engine_does_not_tell_is_a_warning(tiny_bundle: Bundle) -> None:
    steps, untold = Steps(), AuditedLayer("fc2", "MatMul", True, "unavailable")
    audited(tiny_bundle, draft(Audit("openvino 2026.4", "some CPU", (RAN, untold))), steps)
    assert steps.said[1].startswith("warning: ")


def test_no_fallback_is_no_warning(tiny_bundle: Bundle) -> None:
    steps = Steps()
    audited(tiny_bundle, draft(Audit("openvino 2026.4", "some CPU", (RAN,))), steps)
    assert steps.said == [LOOKED_UP, "1 of 1 int8 layer runs in int8"]


def test_where_the_device_compiles_its_layers_are_recorded_for_it(tiny_bundle: Bundle) -> None:
    steps = Steps()
    audit = audited(tiny_bundle, draft(None), steps).audit
    assert audit is not None
    assert audit.layers == (
        AuditedLayer("blocks.0.fc", "MatMul", True, "unavailable"),
        AuditedLayer("head", "MatMul", False, "unavailable"),
    )
    assert steps.said[1:] == ["1 int8 layer, which the device compiles"]


def test_other_precisions_have_nothing_to_find(tiny_bundle: Bundle) -> None:
    steps = Steps()
    assert audited(tiny_bundle, draft(None, "fp16"), steps) == tiny_bundle.manifest
    assert steps.said == []


def test_an_engine_that_cannot_be_profiled_is_a_warning(tiny_bundle: Bundle) -> None:
    def fail(_: Bundle) -> None:
        raise EngineError("no memory left")

    steps, failing = Steps(), draft(None)
    failing.backend.audit = fail
    assert audited(tiny_bundle, failing, steps) == tiny_bundle.manifest
    assert steps.said[1:] == ["warning: the layers are not found: no memory left"]
