from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fake_tensorrt import RECORD

from vitedge.errors import BundleSchemaError
from vitedge.runtime.engines.tensorrt.build_record import dump_record, parse_record


def test_a_record_survives_its_file() -> None:
    read = parse_record(dump_record(RECORD), where="build.json")
    assert read == RECORD
    assert read.chosen.precision == "fp16"


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1}'])
def test_what_is_no_record(text: str) -> None:
    with pytest.raises(BundleSchemaError, match=r"build\.json"):
        parse_record(text, where="build.json")


def test_a_record_that_keeps_nothing_of_its_own() -> None:
    with pytest.raises(BundleSchemaError, match="not one of its candidates"):
        parse_record(dump_record(replace(RECORD, kept="other.onnx")), where="build.json")


def test_newer_writers_may_add_keys() -> None:
    value = {**json.loads(dump_record(RECORD)), "more": 1}
    assert parse_record(json.dumps(value), where="build.json") == RECORD
