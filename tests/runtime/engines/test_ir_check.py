"""IRs that would end the process, and those that OpenVINO wrote."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vitedge.bundle.bundle import OPENVINO_XML, Bundle
from vitedge.runtime.engines import ir_check
from vitedge.runtime.engines.ir_check import check_ir

BROADCAST = (
    '<layer id="{id}" name="b" type="Broadcast" version="opset1">'
    '<data mode="numpy" />{inputs}<output><port id="9" precision="FP32" /></output></layer>'
)


@pytest.fixture(scope="module")
def ir(tiny_bundle: Bundle) -> str:
    return (tiny_bundle.path / OPENVINO_XML).read_text(encoding="utf-8")


def with_layer(ir: str, layer: str) -> str:
    return ir.replace("<layers>", f"<layers>{layer}", 1)


def broadcast(inputs: str) -> str:
    return BROADCAST.format(id=1000, inputs=inputs)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_openvino_wrote_passes(precision: str, make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "some.bundle", precision=precision)
    check_ir(bundle.read(OPENVINO_XML).decode())


TWO = '<input><port id="0" /><port id="1" /></input>'


def test_operators_with_all_of_their_inputs_pass(ir: str) -> None:
    check_ir(with_layer(ir, broadcast(TWO)))
    check_ir(with_layer(ir, broadcast(f'<rt_info><attribute name="x" version="0" /></rt_info>{TWO}')))


FAKED = {
    "no inputs": "",
    "one input": '<input><port id="0" /></input>',
    "an empty list": "<input></input>",
    "another form of a list": '<input ><port id="0" /><port id="1" /></input>',
    "in a comment": f"<!-- {TWO} -->",
    "in CDATA": f"<![CDATA[{TWO}]]>",
    "in rt_info": f"<rt_info>{TWO}</rt_info>",
    "in an instruction": f"<?x {TWO} ?>",
}


@pytest.mark.parametrize("inputs", FAKED.values(), ids=FAKED)
def test_an_operator_with_too_few_inputs_is_refused(ir: str, inputs: str) -> None:
    with pytest.raises(ValueError, match=r"inputs?\b|comment"):
        check_ir(with_layer(ir, broadcast(inputs)))


FORMS = {
    "single quotes": broadcast("").replace('"', "'"),
    "a character reference": broadcast("").replace("Broadcast", "&#66;roadcast"),
    "another order": '<layer type="Broadcast" id="1000" name="b" version="opset1"></layer>',
    "two spaces": broadcast("").replace("<layer ", "<layer  "),
    "a tab": broadcast("").replace("<layer ", "<layer\t"),
    "nothing within": '<layer id="1000" name="b" type="Broadcast" version="opset1"/>',
    "a second type": broadcast("").replace('type="Broadcast"', 'type="Broadcast" type="Const"'),
    "within a name": broadcast("").replace('name="b"', 'name="<layer "'),
}


@pytest.mark.parametrize("layer", FORMS.values(), ids=FORMS)
def test_a_layer_in_another_form_is_refused(ir: str, layer: str) -> None:
    with pytest.raises(ValueError, match=r"form in which|inputs"):
        check_ir(with_layer(ir, layer))


@pytest.mark.parametrize("kind", ["Loop", "ReadValue", "Assign", "Mod"])
def test_operators_that_no_bundle_has_are_refused(ir: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"type {kind}"):
        check_ir(with_layer(ir, broadcast(TWO).replace("Broadcast", kind)))


def test_an_operator_without_inputs_is_refused_unless_it_is_a_source(ir: str) -> None:
    with pytest.raises(ValueError, match="type MaxPool has no inputs"):
        check_ir(with_layer(ir, broadcast("").replace("Broadcast", "MaxPool")))
    check_ir(with_layer(ir, broadcast("").replace("Broadcast", "Parameter")))


@pytest.mark.parametrize(
    "shape",
    [f"{2**62 + 96}", f"1, 1, {2**62 + 96}", f"{2**32}, {2**32}, 96", "-1, -96", "1, 1, 100000", "x", "9" * 5000],
)
def test_a_constant_that_is_larger_than_its_bytes_is_refused(ir: str, shape: str) -> None:
    """OpenVINO multiplies in 64 bits, and some of these come out right there."""
    changed, count = re.subn(r'shape="[^"]+"( offset="\d+" size=)', f'shape="{shape}"\\1', ir, count=1)
    assert count == 1
    with pytest.raises(ValueError, match="a constant"):
        check_ir(changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda ir: ir.replace("<?xml", "<!DOCTYPE net [<!ENTITY a 'b'>]><?xml", 1),
        lambda ir: "",
        lambda ir: "<net></net>",
        lambda ir: "\0" * 100,
        lambda ir: ir[: len(ir) // 2].rsplit("<layer ", 1)[0] + "<layer ",
    ],
)
def test_what_is_no_ir_is_refused(ir: str, change: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match=r"document type|layers|form"):
        check_ir(change(ir))


def test_more_layers_than_any_network_has_are_refused(ir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ir_check, "GRAPH_NODES", 3)
    with pytest.raises(ValueError, match="expected 1 to 3"):
        check_ir(ir)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("begin", ["", "<input>"])
@pytest.mark.parametrize("end", ["<input>", "</input>", "</layer>"])
def test_a_text_that_is_searched_again_and_again_takes_no_longer(begin: str, end: str) -> None:
    layer = f'<layer id="1" name="" type="X" version="opset1">{begin}'
    with pytest.raises(ValueError, match="inputs"):
        check_ir("<layers>" + 100_000 * layer + end)


CRASHES = """
import sys, numpy, openvino
tensor = openvino.Tensor(openvino.Type.u8, [64])
openvino.Core().read_model(sys.stdin.read(), tensor)
"""


def test_openvino_needs_this_check(ir: str) -> None:
    """When its reader no longer crashes, the check can go."""
    bad = re.sub(r'type="Const"( version="opset1">\s*)<data [^>]*/>', r'type="Broadcast"\1<data mode="numpy" />', ir)
    ended = subprocess.run([sys.executable, "-c", CRASHES], input=bad, text=True, capture_output=True, check=False)
    assert ended.returncode < 0
    with pytest.raises(ValueError, match="Broadcast"):
        check_ir(bad)
