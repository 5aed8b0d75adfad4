"""Which symbolic sizes of a ``.pt2`` PyTorch is given."""

from __future__ import annotations

import pytest
import sympy
import torch
from torch.utils._sympy import functions

from vitedge.converters.sources.torch_export.expressions import canonical

S = "Symbol('s77', positive=True, integer=True)"


@pytest.mark.parametrize(
    "text",
    [
        S,
        "Integer(3)",
        "Integer(-3)",
        f"Mul(Integer(2), {S})",
        f"Add(Integer(-1), FloorDiv(Add({S}, Integer(-1)), Integer(16)))",
        f"Pow({S}, Integer(2))",
        f"Max(Integer(1), CeilToInt(IntTrueDiv({S}, Integer(32))))",
        f"Mod({S}, Integer(7))",
        f"GreaterThan({S}, Integer(2))",
        f"Mul(Float('0.5', precision=53), ToFloat({S}))",
        f"Mul(Rational(1, 2), {S})",
        "true",
        "s0 + 2*s1 - 1",
        "s0//16",
    ],
)
def test_sizes_keep_their_meaning(text: str) -> None:
    names = {name: getattr(functions, name) for name in functions.__all__}
    assert sympy.sympify(canonical(text), locals=names) == sympy.sympify(text, locals=names)


def test_what_pytorch_writes_is_known() -> None:
    class Net(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            pooled = torch.nn.functional.avg_pool2d(image, 4)
            return torch.cat([pooled.flatten(2), image.flatten(2)], dim=2).mean(dim=2)

    sides = ({2: torch.export.Dim("height", min=8, max=4096), 3: torch.export.Dim("width", min=8, max=4096)},)
    program = torch.export.export(Net(), (torch.zeros(1, 3, 64, 96),), dynamic_shapes=sides)
    tensors = [node.meta["val"] for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    sizes = [size for tensor in tensors for size in tensor.shape]
    texts = {sympy.srepr(size.node.expr) for size in sizes if isinstance(size, torch.SymInt)}
    assert len(texts) > 3  # height, width, and what pooling and joining make of them
    for text in texts:
        assert canonical(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10**10**10",
        "s0**2",
        "2**s0",
        "1 << 10**9",
        "Pow(Integer(10), Integer(10000000))",
        f"Pow({S}, Integer(5))",
        f"Pow({S}, Integer(-1))",
        f"Pow({S}, {S})",
        f"Pow(Pow({S}, Integer(4)), Integer(4))",
        "PowByNatural(Integer(9), Integer(4))",
        "Integer(9223372036854775808)",
        "Integer('1' * 9)",
        "Integer(True)",
        "factorial(Integer(100000))",
        "LShift(Integer(1), Integer(1000000000))",
        "FloatPow(2.0, 1000.0)",
        "__import__('os').system('true')",
        "Symbol('__import__(chr(111))')",
        "Symbol('s0', cls=Function)",
        "Symbol('s0', **{})",
        "Symbol(*s0)",
        "Symbol('s0').name",
        "Symbol",
        "lambdify",
        "(lambda: 1)()",
        "[s0 for s0 in s1]",
        "f'{s0}'",
        "s0 if s1 else s2",
        "s0, s1",
        "(s0 := 1)",
        "s0.x",
        "s0[1]",
        "exec(s1)",
        "s\uff10",
        "\uff530",
        "Float('1e99999')",
        "Float('nan')",
        "Float('1', precision=10000000)",
        "1e999",
        "1j",
        "'s0'",
        "(" * 500 + "1" + ")" * 500,
        "Mul(" * 30 + "s0" + ")" * 30,
        "-" * 100 + "1",
        "+".join(["s0"] * 400),
        "s0" + " " * 3000,
        "Symbol('s12345678')",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the caller says what is wrong with it
        canonical(text)
