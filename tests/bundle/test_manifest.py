"""The manifest and its published schema."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vitedge
from vitedge.bundle.bundle import MANIFEST, Bundle
from vitedge.bundle.manifest import SCHEMA_VERSION, dump_manifest, manifest_schema, parse_manifest
from vitedge.bundle.schema import schema_text
from vitedge.errors import BundleSchemaError

PUBLISHED = Path(vitedge.__file__).with_name("bundle") / "manifest.schema.json"

SEMANTIC = ("input_size", "resize_size", "mean", "std", "temperature", "threshold", "time_ratio", "low", "high")
"""Keys whose values the records themselves check, beyond what the schema says."""

junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**40),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(max_size=4),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


@pytest.fixture(scope="session")
def document(tiny_bundle: Bundle) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((tiny_bundle.path / MANIFEST).read_text(encoding="utf-8"))
    value["calibration"] = {"images": 3, "skipped": ["bad.jpg"], "sha256": "0" * 64, "recipe": "none"}
    value["accuracy"] = {"top1": 90.0, "top5": 100.0, "images": 10, "sha256": "0" * 64, "calibration_images": 0}
    candidate = {"name": "int8", "precision": "int8", "float_layers": ["a"], "p50_ms": 4.0, "p99_ms": 5.0, "loss": 0.2}
    value["auto"] = {
        "contract": {
            "max_drop": 0.5,
            "max_p99_ms": 9.0,
            "loss": "top1_drop",
            "images": 10,
            "sha256": "0" * 64,
            "calibration_images": 0,
        },
        "chosen": "int8",
        "candidates": [candidate],
    }
    value["confidence"] = {
        "temperature": 1.2,
        "threshold": 0.4,
        "abstain_error": 0.05,
        "accepted": 90.0,
        "accepted_top1": 96.0,
        "ece_before": 4.0,
        "ece_after": 1.0,
        "images": 120,
        "sha256": "0" * 64,
    }
    value["label_accuracy"] = {
        "mean_average_precision": 80.0,
        "micro_f1": 75.0,
        "macro_f1": 70.0,
        "exact_match": 40.0,
        "images": 120,
        "sha256": "0" * 64,
        "calibration_images": 0,
    }
    value["against_fp16"] = {
        "time_ratio": 1.28,
        "low": 1.25,
        "high": 1.31,
        "turns": 25,
        "sqnr_db": 32.0,
        "fp16_sqnr_db": 38.5,
        "images": 8,
    }
    value["verification"]["fp32_against_source"] = value["verification"]["precision_against_fp32"]
    return value


def multilabel(document: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a multi-label model with fitted thresholds."""
    changed = copy.deepcopy(document) | {"confidence": None, "accuracy": None}
    changed["model"]["activation"] = "sigmoid"
    changed["thresholds"] = {
        "thresholds": [0.2, 0.5, 0.9],
        "abstain_error": None,
        "fitted": 2,
        "macro_f1_before": 60.0,
        "macro_f1_after": 70.0,
        "images": 120,
        "sha256": "0" * 64,
    }
    return changed


def parses(document: object) -> bool:
    try:
        parse_manifest(json.dumps(document), where="it")
    except BundleSchemaError:
        return False
    return True


def fits_schema(document: object) -> bool:
    return jsonschema.Draft202012Validator(manifest_schema()).is_valid(document)


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values within a document, but for what the schema cannot judge."""
    if path and path[-1] in SEMANTIC:
        return []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, each in items for place in places(each, (*path, key))]


def parent_of(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        document = document[key]
    return document


def test_the_published_schema_is_the_one_in_the_code() -> None:
    assert PUBLISHED.read_text(encoding="utf-8") == schema_text()
    assert json.loads(schema_text()) == manifest_schema()


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(manifest_schema())


def test_a_manifest_reads_back_as_it_was_written(tiny_bundle: Bundle) -> None:
    text = dump_manifest(tiny_bundle.manifest)
    assert parse_manifest(text, where="it") == tiny_bundle.manifest
    assert text == (tiny_bundle.path / MANIFEST).read_text(encoding="utf-8")


def test_names_that_are_not_utf8_are_written_as_what_can_be_read(tiny_bundle: Bundle) -> None:
    model = replace(tiny_bundle.manifest.model, source="photos\udcff", labels=("日本", "\x1b", "\x7f"))
    text = dump_manifest(replace(tiny_bundle.manifest, model=model))
    assert text.isascii()
    read = parse_manifest(text, where="here").model
    assert (read.source, read.labels) == (r"photos\udcff", model.labels)


def test_valid_manifests_fit_both(document: dict[str, Any]) -> None:
    optional = document | {"calibration": None, "accuracy": None, "confidence": None, "auto": None, "added_later": [1]}
    assert parses(document)
    assert fits_schema(document)
    assert parses(optional)
    assert fits_schema(optional)


def test_what_was_chosen_is_told_in_a_phrase(document: dict[str, Any]) -> None:
    record = parse_manifest(json.dumps(document), where="it").auto
    assert record is not None
    assert record.summary == "int8: top-1 0.20 points lower, 0.5 allowed, on 10 images; p50 4.00 ms, p99 5.00 of 9 ms"
    flips = replace(record.contract, loss="flip_rate", max_p99_ms=None, calibration_images=3)
    assert replace(record, contract=flips).summary == (
        "int8: flip rate 0.20 %, 0.5 allowed, on 10 images, 3 of them used in calibration; p50 4.00 ms, p99 5.00 ms"
    )
    assert replace(record, chosen="gone").summary == "gone"


def test_a_manifest_from_before_a_key_was_added_is_read(document: dict[str, Any]) -> None:
    older = copy.deepcopy(document)
    del older["model"]["revision"], older["model"]["preprocessing"]["crop_rounding"]
    del older["model"]["activation"], older["label_accuracy"], older["thresholds"], older["against_fp16"]
    manifest = parse_manifest(json.dumps(older), where="it")
    assert (manifest.model.revision, manifest.model.preprocessing.crop_rounding) == ("", "half_even")
    assert (manifest.model.activation, manifest.label_thresholds) == ("softmax", None)
    assert manifest.against_fp16 is None
    assert fits_schema(older)


def test_an_unknown_activation_is_refused_by_both(document: dict[str, Any]) -> None:
    changed = copy.deepcopy(document)
    changed["model"]["activation"] = "relu"
    assert not fits_schema(changed)
    with pytest.raises(BundleSchemaError, match=r"^it\.model\.activation is 'relu'") as caught:
        parse_manifest(json.dumps(changed), where="it")
    assert caught.value.expected == "one of softmax, sigmoid"


def test_thresholds_are_half_until_they_are_fitted(document: dict[str, Any]) -> None:
    assert parse_manifest(json.dumps(multilabel(document)), where="it").label_thresholds == (0.2, 0.5, 0.9)
    unfitted = multilabel(document) | {"thresholds": None}
    assert parse_manifest(json.dumps(unfitted), where="it").label_thresholds == (0.5, 0.5, 0.5)
    assert fits_schema(multilabel(document))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"confidence": True}, r"^it\.confidence is for models of one class"),
        ({"thresholds": [0.5]}, r"^it\.thresholds has 1 threshold for 3 labels"),
        ({"thresholds": [0.5, 0.5, 1.5]}, r"^it\.thresholds: a threshold is 1\.5"),
        ({"activation": "softmax"}, r"^it\.thresholds has 3 thresholds for 3 labels with the activation softmax"),
    ],
)
def test_records_that_do_not_fit_the_activation_are_refused(
    document: dict[str, Any], changes: dict[str, Any], problem: str
) -> None:
    changed = multilabel(document)
    if "confidence" in changes:
        changed["confidence"] = document["confidence"]
    changed["thresholds"]["thresholds"] = changes.get("thresholds", [0.2, 0.5, 0.9])
    changed["model"]["activation"] = changes.get("activation", "sigmoid")
    with pytest.raises(BundleSchemaError, match=problem):
        parse_manifest(json.dumps(changed), where="it")


def test_a_manifest_of_the_first_version_is_read(document: dict[str, Any]) -> None:
    first = {key: value for key, value in document.items() if key != "confidence"} | {"schema_version": 1}
    manifest = parse_manifest(json.dumps(first), where="it")
    assert (manifest.schema_version, manifest.confidence) == (1, None)
    assert fits_schema(first)


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", 0), ("temperature", -1.0), ("threshold", -0.1), ("threshold", 1.5)]
)
def test_confidence_that_cannot_be_is_a_schema_error(document: dict[str, Any], key: str, value: float) -> None:
    changed = copy.deepcopy(document)
    changed["confidence"][key] = value
    with pytest.raises(BundleSchemaError, match=r"^it\.confidence: "):
        parse_manifest(json.dumps(changed), where="it")


@pytest.mark.parametrize(("key", "value"), [("time_ratio", 0.0), ("time_ratio", 1.4), ("low", 1.3), ("low", -1.0)])
def test_a_time_ratio_outside_its_interval_is_a_schema_error(document: dict[str, Any], key: str, value: float) -> None:
    changed = copy.deepcopy(document)
    changed["against_fp16"][key] = value
    with pytest.raises(BundleSchemaError, match=r"^it\.against_fp16: the time ratio is "):
        parse_manifest(json.dumps(changed), where="it")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_code_and_schema_agree_on_a_changed_value(document: dict[str, Any], data: st.DataObject) -> None:
    changed = copy.deepcopy(document)
    path = data.draw(st.sampled_from(places(document)))
    parent_of(changed, path)[path[-1]] = data.draw(junk)
    assert parses(changed) == fits_schema(changed)


def test_code_and_schema_agree_on_every_missing_key(document: dict[str, Any]) -> None:
    for path in places(document):
        changed = copy.deepcopy(document)
        del parent_of(changed, path)[path[-1]]
        assert parses(changed) == fits_schema(changed), path


@pytest.mark.parametrize("key", ["schema_version", "model", "precision", "golden", "files", "target"])
def test_a_missing_key_is_refused_by_both(document: dict[str, Any], key: str) -> None:
    changed = {name: value for name, value in document.items() if name != key}
    assert not parses(changed)
    assert not fits_schema(changed)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_not_an_object_is_refused_by_both(value: object) -> None:
    assert not parses(value)
    assert not fits_schema(value)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99, SCHEMA_VERSION + 1.0, 1e300])
def test_a_newer_schema_says_upgrade(document: dict[str, Any], version: float) -> None:
    changed = {"schema_version": version, "everything": "else may differ"}
    with pytest.raises(BundleSchemaError, match="schema version") as caught:
        parse_manifest(json.dumps(changed), where="it")
    assert "pip install --upgrade vitedge" in caught.value.fix
    assert not fits_schema(document | {"schema_version": version})


@pytest.mark.parametrize("version", [0, -1, 1.5])
def test_a_schema_that_never_was_says_convert_again(document: dict[str, Any], version: float) -> None:
    with pytest.raises(BundleSchemaError, match="schema version") as caught:
        parse_manifest(json.dumps(document | {"schema_version": version}), where="it")
    assert "convert" in caught.value.fix
    assert not fits_schema(document | {"schema_version": version})


@pytest.mark.parametrize("version", [None, "1", True, [1]])
def test_a_schema_version_that_is_no_number_is_a_wrong_type(document: dict[str, Any], version: object) -> None:
    with pytest.raises(BundleSchemaError, match=r"^it\.schema_version is "):
        parse_manifest(json.dumps(document | {"schema_version": version}), where="it")
    assert not fits_schema(document | {"schema_version": version})


@pytest.mark.parametrize("text", ["", "{", '{"a": 1,}', "[" * 100_000, "\x00", "1" * 5000])
def test_what_is_not_json_is_one_clear_error(text: str) -> None:
    with pytest.raises(BundleSchemaError, match=r"^it is ") as caught:
        parse_manifest(text, where="it")
    assert caught.value.fix


@pytest.mark.parametrize(("key", "value"), [("input_size", [0, 32]), ("resize_size", [32, -1]), ("std", [1, 1, 0])])
def test_preprocessing_that_cannot_be_is_a_schema_error(document: dict[str, Any], key: str, value: object) -> None:
    changed = copy.deepcopy(document)
    changed["model"]["preprocessing"][key] = value
    with pytest.raises(BundleSchemaError, match=r"^it\.model\.preprocessing: "):
        parse_manifest(json.dumps(changed), where="it")
