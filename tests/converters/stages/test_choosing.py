"""The candidates of the precision ``auto`` count the layers that run in int8, not all that were to."""

from __future__ import annotations

from dataclasses import replace

from vitedge.audit import Audit, AuditedLayer
from vitedge.bundle.precision_records import AutoRecord, CandidateRecord, ContractRecord
from vitedge.converters.stages.choosing import _counted

RAN = AuditedLayer("fc1", "MatMul", True, "int8", "brgemm_I8")
FELL = AuditedLayer("attn.qkv", "MatMul", True, "bf16", "brgemm_bf16", "of a roll")
FLOAT = AuditedLayer("head", "MatMul", False, "bf16", "brgemm_bf16")
CONTRACT = ContractRecord(1.0, None, "flip_rate", 100, "", 0)
CANDIDATES = (CandidateRecord("int8", "int8", (), 2.0, 3.0, 0.5), CandidateRecord("fp16", "fp16", (), 3.0, 4.0, None))


def test_candidates_count_what_runs() -> None:
    audit = Audit("openvino 2026.4", "some CPU", (RAN, FELL, FLOAT))
    record = _counted(AutoRecord(CONTRACT, "int8", CANDIDATES), {"int8": audit, "fp16": None})
    assert [(each.int8_layers, each.int8_executed) for each in record.candidates] == [(2, 1), (None, None)]
    assert [each.int8_counts for each in record.candidates] == ["1 of 2", ""]
    assert record.summary.endswith("p99 3.00 ms; 1 of 2 int8 layers run in int8")


def test_what_the_engine_does_not_tell_is_not_counted() -> None:
    untold = Audit("openvino 2026.4", "some CPU", (RAN, replace(FELL, precision="unavailable")))
    (first, _) = _counted(AutoRecord(CONTRACT, "int8", CANDIDATES), {"int8": untold}).candidates
    assert (first.int8_layers, first.int8_executed, first.int8_counts) == (2, None, "")
