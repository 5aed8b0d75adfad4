"""Flags come from signatures; errors of the library are translated into flags."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

import pytest

from vitedge.cli import VERBS, build_parser
from vitedge.cli.convert import FLAGS
from vitedge.cli.flags import Flag, Vocabulary, add_flags, call
from vitedge.converters.convert import convert


def greet(
    name: str,
    *,
    greeting: str,
    times: int | None = None,
    pause: float | None = None,
    loud: bool = False,
    file: str | Path | None = None,
    progress: object = None,
) -> tuple[object, ...]:
    return (name, greeting, times, pause, loud, file, progress)


GREET = {
    "name": Flag("who", "NAME"),
    "greeting": Flag("what", "TEXT"),
    "times": Flag("how often", "N"),
    "pause": Flag("between", "S"),
    "loud": Flag("shout"),
    "file": Flag("where", "FILE", ("-o", "--output-file")),
}


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_flags(parser, greet, GREET)
    return parser


def test_types_and_defaults_come_from_the_signature(parser: argparse.ArgumentParser) -> None:
    found = parser.parse_args(["Ada", "--greeting", "hi", "--times", "2", "--pause", "0.5", "--loud", "-o", "f"])
    assert call(greet, found, progress=7) == ("Ada", "hi", 2, 0.5, True, "f", 7)
    assert call(greet, parser.parse_args(["Ada", "--greeting", "hi"])) == ("Ada", "hi", None, None, False, None, None)


@pytest.mark.parametrize("arguments", [["Ada"], ["--greeting", "hi"], ["Ada", "--greeting", "hi", "--times", "two"]])
def test_what_the_signature_requires_is_required(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(arguments)


def test_a_parameter_without_help_is_an_error() -> None:
    with pytest.raises(KeyError, match="loud"):
        add_flags(argparse.ArgumentParser(), greet, {name: flag for name, flag in GREET.items() if name != "loud"})


def test_every_parameter_of_convert_has_a_flag_and_no_other() -> None:
    assert set(FLAGS) == set(inspect.signature(convert).parameters) - {"progress"}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return build_parser()[1]


@pytest.mark.parametrize(
    ("text", "translated"),
    [
        ("calib=IMAGES; without images, precision='fp16' needs none", "--calib IMAGES; without images, --precision "
         "fp16 needs none"),
        ("max_drop= is for precision='auto'", "--max-drop is for --precision auto"),
        ("allow a larger max_drop= or max_p99_ms=, calibrate", "allow a larger --max-drop or --max-p99, calibrate"),
        ("eval_data=DIR, one folder a label", "--eval DIR, one folder a label"),
        ("random_weights=True is enough", "--random-weights is enough"),
        ("try input_size=(160, 224)", "try --input-size 160x224"),
        ("input_size=(height, width) if it differs", "--input-size HxW if it differs"),
        ("preprocessing=timm:NAME for that of a timm model", "--preprocessing timm:NAME for that of a timm model"),
        ("close other programs, or give a smaller workspace_mb=", "close other programs, or give a smaller "
         "--workspace-mb"),
        ("vitedge.new_key(FILE) makes one", "vitedge sign --new-key FILE makes one"),
        ("vitedge.sign(bundle, key=FILE)", "vitedge sign BUNDLE --key FILE"),
        ("vitedge.convert(model, target='cpu', precision='int8', calib=IMAGES)", "vitedge convert MODEL --target cpu "
         "--precision int8 --calib IMAGES"),
        ("(calib=DIR)", "(--calib DIR)"),
        ("no_such_parameter=1 stays", "no_such_parameter=1 stays"),
        ("/photos/labels=3/a.png cannot be read", "/photos/labels=3/a.png cannot be read"),
        ("rtsp://camera/?output=x&labels=y", "rtsp://camera/?output=x&labels=y"),
        ("run vitedge.build(bundle, overwrite=True) again", "run vitedge build BUNDLE --overwrite again"),
        ("vitedge.evaluate(bundle, data=DIR)", "vitedge eval BUNDLE --data DIR"),
        ("vitedge.doctor() shows more", "vitedge doctor shows more"),
        ("vitedge.nosuch(bundle)", "vitedge.nosuch(bundle)"),
        ("vitedge.sign(bundle, key=FILE, passphrase=TEXT)", "vitedge.sign(bundle, key=FILE, passphrase=TEXT)"),
        ("vitedge.load(bundle, trust=KEYS), or trust=KEYS", "vitedge.load(bundle, trust=KEYS), or --trust KEYS"),
    ],
)  # fmt: skip
def test_errors_name_flags(text: str, translated: str, vocabulary: Vocabulary) -> None:
    assert vocabulary.translate(text, "convert") == translated


def test_the_flag_of_the_own_verb_goes_first() -> None:
    own, other = argparse.ArgumentParser(), argparse.ArgumentParser()
    own.add_argument("--mine", dest="thing")
    other.add_argument("--theirs", dest="thing")
    vocabulary = Vocabulary({"own": own, "other": other})
    assert vocabulary.translate("thing=1", "own") == "--mine 1"
    assert vocabulary.translate("thing=1", "other") == "--theirs 1"


def test_every_verb_is_in_the_vocabulary(vocabulary: Vocabulary) -> None:
    for verb in VERBS:
        assert vocabulary.translate(f"vitedge.{verb}()") == f"vitedge {verb}"
