"""Models that are measured one by one: what is converted, and what is said of an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitedge.converters.sources.parse import HubFolder
from vitedge.converters.sources.transformers.families import families
from vitedge.converters.sources.transformers.models import load_transformers

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}


@pytest.fixture(scope="module")
def children(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.children")


@pytest.mark.parametrize("model_type", ["mobilenet_v1", "timm_wrapper", "clip"])
def test_a_model_of_transformers_is_written_once(
    every_model: Any, children: Any, tmp_path: Path, model_type: str
) -> None:
    pytest.importorskip("transformers")
    listed = next(each for each in every_model if each.name == model_type)
    options = {"clip": {"vision_config": TINY}, "timm_wrapper": {"architecture": "resnet18"}}.get(model_type, {})
    small = replace(listed, input_size=32, options=options)
    arguments = children.conversion_arguments(small, Path(), tmp_path)
    written = (arguments["source"] / "config.json").stat().st_mtime_ns
    model = load_transformers(HubFolder(arguments["source"]), labels=None)
    assert model.card.preprocessing.input_size == (32, 32)
    assert model.card.architecture == families()[model_type].classifiers[0]
    assert children.conversion_arguments(small, Path(), tmp_path) == arguments
    assert (arguments["source"] / "config.json").stat().st_mtime_ns == written


def test_an_error_of_openvino_is_shortened_to_what_is_wrong(children: Any) -> None:
    text = "Exception from src/inference/src/cpp/core.cpp:117:\nException from src/plugin.cpp:54:\nno kernel\n\n"
    assert children.first_line(RuntimeError(text)) == "no kernel"
    assert children.first_line(RuntimeError("")) == "RuntimeError"
