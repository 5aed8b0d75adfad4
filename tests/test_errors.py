"""What errors say."""

from __future__ import annotations

import inspect
import itertools
import pickle
import sys

import pytest

from vitedge import errors
from vitedge.errors import (
    BrokenExtraError,
    MissingExtraError,
    UsageError,
    VitedgeError,
    class_and_first_line,
    did_you_mean,
    first_line,
    near_spellings,
)
from vitedge.extras import require
from vitedge.safety.limits import MESSAGE_CHARACTERS


def test_the_tree_in_the_module_docstring_is_the_tree() -> None:
    classes = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, VitedgeError)}
    drawn = {word for word in (errors.__doc__ or "").replace("─", " ").split() if word.endswith("Error")}
    assert classes <= drawn


def test_an_error_says_what_was_wrong_what_was_expected_and_what_to_do() -> None:
    error = VitedgeError("the sky is green", expected="blue", fix="look again")
    assert str(error) == "the sky is green\n  expected: blue\n  fix: look again"
    assert str(VitedgeError("the sky is green")) == "the sky is green"


def test_no_text_of_a_stranger_moves_the_cursor_or_forges_a_line() -> None:
    error = VitedgeError("\x1b[2Jno label 'a\n  fix: run this'", expected="\x9b1m\u202e", fix="see \udcff\r")
    assert str(error) == "\\x1b[2Jno label 'a\n    fix: run this'\n  expected: \\x9b1m\\u202e\n  fix: see \\udcff"
    assert repr(error) == f"VitedgeError({error.problem!r})"
    assert str(error).encode("utf-8")


def test_a_text_that_would_fill_the_screen_is_cut() -> None:
    assert len(str(VitedgeError("x" * 10_000_000))) == MESSAGE_CHARACTERS


@pytest.mark.parametrize(
    "error",
    [
        UsageError("a problem", expected="none", fix="solve it"),
        MissingExtraError("openvino", extra="openvino", purpose="this test"),
        BrokenExtraError("cv2", extra="camera", purpose="this test", reason="libGL.so.1", fix="sudo apt-get"),
    ],
)
def test_an_error_travels_between_processes(error: VitedgeError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.__dict__, copy.args) == (type(error), str(error), error.__dict__, error.args)


@pytest.mark.parametrize(
    ("error", "line", "with_class"),
    [
        (ValueError("no kernel\nin this build"), "no kernel", "ValueError: no kernel"),
        (ValueError("\n no kernel"), "no kernel", "ValueError: no kernel"),
        (ValueError(" \n"), "ValueError", "ValueError"),
    ],
)
def test_the_first_line_of_a_strangers_error(error: Exception, line: str, with_class: str) -> None:
    assert (first_line(error), class_and_first_line(error)) == (line, with_class)


def test_a_close_name_is_suggested_and_a_far_one_is_not() -> None:
    assert did_you_mean("deit_tinny", ["deit_tiny", "swin_tiny"], limit=1) == "did you mean deit_tiny?"
    assert did_you_mean("deit_tin", ["deit_tiny", "deit_tine"]).count(" or ") == 1
    assert did_you_mean("resnet", ["deit_tiny"]) == ""
    assert did_you_mean("anything", []) == ""


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("dandelion", ["lion", "sea lion"], []),
        ("sunflowers", ["flowers", "sunflower"], ["sunflower"]),
        ("tulips", ["lips", "tulip"], ["tulip"]),
        ("EngineErorr", ["EngineError", "Engine"], ["EngineError"]),
        ("deit_tiny", ["vit_small", "deit_tiny_patch16_224"], ["deit_tiny_patch16_224"]),
        ("--js", ["--jobs-file", "--json"], ["--json"]),
        ("cpv", ["gpu", "cpu"], ["cpu"]),
        ("rose", ["rosemary garden"], []),
        ("a", ["b"], []),
        ("", ["b", ""], []),
        ("same", ["same"], ["same"]),
    ],
)
def test_only_a_misspelling_or_a_beginning_is_near(name: str, known: list[str], near: list[str]) -> None:
    assert near_spellings(name, known) == near


@pytest.mark.timeout(30)
def test_long_names_that_are_alike_are_compared_quickly() -> None:
    assert near_spellings("x" * 250, [f"{'x' * 200}{index}{'y' * 40}" for index in range(10_000)]) == []


@pytest.mark.timeout(10)
def test_texts_that_are_no_names_are_not_compared() -> None:
    assert did_you_mean("x" * 10_000_000, ["x" * 9_000_000]) == ""
    assert did_you_mean("deit_tinny", ["y" * 9_000_000, "deit_tiny"]) == "did you mean deit_tiny?"
    assert did_you_mean("deit_tinny", (f"name {number}" for number in itertools.count())) == ""


def test_a_missing_package_is_named_with_its_install_command() -> None:
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_package.part", extra="openvino", purpose="this test")
    assert str(caught.value) == (
        'this test needs no_such_package, which is not installed\n  fix: pip install "vitedge[openvino]"'
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert isinstance(caught.value, VitedgeError)


def test_cuda_bindings_are_not_called_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA itself may well be installed."""

    def missing(name: str) -> object:
        raise ModuleNotFoundError("No module named 'cuda'", name="cuda")

    monkeypatch.setattr("vitedge.extras.importlib.import_module", missing)
    with pytest.raises(MissingExtraError, match=r"^this test needs cuda\.bindings, which is not installed"):
        require("cuda.bindings", extra="jetson", purpose="this test")


def test_an_installed_package_is_returned() -> None:
    assert require("json", extra="none", purpose="this test") is sys.modules["json"]


def test_requiring_a_package_leaves_no_way_to_report_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    require("json", extra="none", purpose="this test")
    with pytest.raises(ModuleNotFoundError):
        import openvino_telemetry  # noqa: F401


def test_usage_reports_that_the_application_set_up_itself_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino_telemetry", sys)
    require("json", extra="none", purpose="this test")
    assert sys.modules["openvino_telemetry"] is sys


def test_a_usage_error_is_not_python_s_own_value_error() -> None:
    assert not issubclass(UsageError, ValueError)
