from __future__ import annotations

import vitedge
from vitedge.version import VERSION


def test_the_diagnosis_of_this_machine() -> None:
    diagnosis = vitedge.doctor()
    assert isinstance(diagnosis, vitedge.Diagnosis)
    assert diagnosis.vitedge == VERSION
    assert {each.name for each in diagnosis.packages} >= {"openvino", "onnxruntime", "torch"}


def test_targets_have_names_and_precisions() -> None:
    found = {each.name: each for each in vitedge.targets()}
    assert found["cpu"].precisions == ("fp32", "fp16", "int8")
    assert found["jetson-orin-nano"].backend == "tensorrt"
