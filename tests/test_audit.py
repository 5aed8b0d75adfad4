"""The words of an audit."""

from __future__ import annotations

from dataclasses import replace

from vitedge.audit import Audit, AuditedLayer, Overhead, differences
from vitedge.records import decode, encode


def layer(name: str, precision: str, *, quantized: bool = True, reason: str = "") -> AuditedLayer:
    return AuditedLayer(name, "MatMul", quantized, precision, "kernel", reason, 2.0)


def audit(*layers: AuditedLayer, engine: str = "openvino 2026.4") -> Audit:
    return Audit(engine, "some CPU", layers, microseconds=10.0, runs=3)


FELL = layer("attn.proj", "bf16", reason="of a roll")


def test_the_summary_counts_what_ran_and_names_what_fell_back() -> None:
    mixed = audit(layer("fc1", "int8"), FELL, replace(FELL, name="attn.qkv"), layer("head", "bf16", quantized=False))
    assert mixed.summary == (
        "1 of 3 int8 layers runs in int8; 2 fell back to bf16: attn.proj, attn.qkv, because of a roll"
    )
    assert [each.name for each in mixed.in_floating_point] == ["head"]


def test_all_layers_fall_back() -> None:
    assert audit(FELL).summary == "0 of 1 int8 layer runs in int8; 1 fell back to bf16: attn.proj, because of a roll"


def test_each_reason_is_told_and_long_lists_are_counted() -> None:
    many = audit(*(layer(f"blocks.{number}", "fp32", reason="x") for number in range(5)), FELL)
    assert "5 fell back to fp32: blocks.0, blocks.1, blocks.2 and 2 more, because x" in many.summary
    assert many.summary.endswith("1 fell back to bf16: attn.proj, because of a roll")


def test_what_an_engine_does_not_tell_is_neither_int8_nor_a_fallback() -> None:
    untold = audit(layer("fc1", "int8"), layer("fc2", "unavailable"))
    assert untold.fallbacks == ()
    assert untold.summary == "1 of 2 int8 layers runs in int8; the engine does not tell the precision of 1: fc2"
    assert audit(layer("fc2", "unavailable")).summary == (
        "1 int8 layer; the engine does not tell in which precision they run"
    )


def test_a_graph_that_the_device_compiles_and_one_without_int8_layers() -> None:
    later = audit(layer("fc", "unavailable"), layer("fc2", "unavailable"), engine="")
    assert later.summary == "2 int8 layers, which the device compiles"
    assert audit(layer("fc", "fp32", quantized=False)).summary == "the graph has no int8 layers"
    assert replace(audit(layer("fc", "fp8")), asked="fp8").summary == "1 of 1 fp8 layer runs in fp8"


def test_lines_give_costs_only_where_they_were_measured() -> None:
    splits = Overhead("reference kernel", "Split", "ref_bf16", "bf16", ("split_1", "split_2"), 4.0)
    timed = replace(audit(layer("fc", "int8"), layer("head", "bf16", quantized=False)), overheads=(splits,))
    lines = timed.lines()
    assert "in floating point by the graph: head, 2 µs" in lines
    assert "reference kernel: 2 Split, ref_bf16, bf16, 4 µs, 40.0 % of all: split_1, split_2" in lines
    assert len(timed.lines(least_share=0.4)) == len(lines)
    assert len(timed.lines(least_share=0.41)) == len(lines) - 1
    untimed = replace(timed, microseconds=None, runs=0, overheads=(replace(splits, microseconds=None),))
    assert "reference kernel: 2 Split, ref_bf16, bf16: split_1, split_2" in untimed.lines(least_share=0.5)
    assert not any("all operators" in line for line in untimed.lines())


def test_differences_between_two_machines() -> None:
    recorded = audit(layer("fc1", "int8"), layer("fc2", "int8"), layer("fc3", "int8"), layer("head", "unavailable"))
    here = audit(layer("fc1", "fp32"), layer("fc2", "fp32"), layer("fc3", "int8"), layer("head", "fp32"))
    assert differences(recorded, here) == ["2 layers ran in int8 on the converting host and run in fp32 here: fc1, fc2"]
    assert differences(recorded, recorded) == []
    assert differences(recorded, replace(here, engine="onnxruntime 1.32")) == []


def test_it_survives_json() -> None:
    splits = Overhead("reference kernel", "Split", "ref_bf16", "bf16", ("split_1",), None)
    written = replace(audit(FELL), overheads=(splits,))
    assert decode(Audit, encode(written), where="test") == written
