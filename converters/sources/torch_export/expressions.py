"""Symbolic sizes of a ``.pt2``, limited to a small grammar, because PyTorch lets SymPy evaluate their text.

The grammar has no shifts, and powers only of a symbol with a small exponent, because ``10**10**10`` would fill the
memory.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping

MAX_CHARACTERS = 2_000
MAX_DEPTH = 24
MAX_INTEGER = 1 << 63
MAX_EXPONENT = 4

SYMBOL = re.compile(r"[a-z]{1,4}[0-9]{1,6}", re.ASCII)
_DECIMAL = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,2})?", re.ASCII)
_ASSUMPTIONS = {"integer", "positive", "negative", "nonnegative", "nonpositive", "nonzero", "zero", "real", "finite"}
_FUNCTIONS = {
    "Add", "Mul", "Max", "Min", "Abs", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "ModularIndexing",
    "IntTrueDiv", "FloatTrueDiv", "ToFloat", "TruncToFloat", "TruncToInt", "CeilToInt", "FloorToInt", "RoundToInt",
    "Where", "Identity", "And", "Or", "Not", "Equality", "Unequality", "StrictLessThan", "LessThan",
    "StrictGreaterThan", "GreaterThan", "Eq", "Ne", "Lt", "Le", "Gt", "Ge",
}  # fmt: skip
_POWERS = {"Pow", "PowByNatural"}
_OPERATORS: Mapping[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%", ast.UAdd: "+", ast.USub: "-",
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip


def canonical(text: str) -> str:
    """Rewrite an expression from the elements of the grammar.

    Raises:
        ValueError: the expression is outside the grammar.
    """
    if len(text) > MAX_CHARACTERS or not text.isascii():
        raise ValueError(text)
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(text) from None
    return _written(tree.body, MAX_DEPTH)


def _written(node: ast.expr, depth: int) -> str:
    if depth == 0:
        raise ValueError("nested too deeply")
    match node:
        case ast.Constant(value=bool(value)):
            return str(value)
        case ast.Constant(value=int(value)):
            return _integer(value)
        case ast.Constant(value=float(value)) if math.isfinite(value):
            return repr(value)
        case ast.Name(id=name) if SYMBOL.fullmatch(name) or name in ("true", "false"):
            return name
        case ast.UnaryOp(op=operator, operand=operand):
            return f"({_operator(operator)}{_written(operand, depth - 1)})"
        case ast.BinOp(left=left, op=operator, right=right):
            return f"({_written(left, depth - 1)} {_operator(operator)} {_written(right, depth - 1)})"
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            return f"({_written(left, depth - 1)} {_operator(operator)} {_written(right, depth - 1)})"
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
            return _call(name, arguments, keywords, depth)
    raise ValueError(ast.dump(node))


def _operator(node: ast.AST) -> str:
    if type(node) not in _OPERATORS:
        raise ValueError(ast.dump(node))
    return _OPERATORS[type(node)]


def _integer(value: int) -> str:
    if abs(value) >= MAX_INTEGER:
        raise ValueError(value)
    return str(value)


def _call(name: str, arguments: list[ast.expr], keywords: list[ast.keyword], depth: int) -> str:
    match name, arguments:
        case "Symbol", [ast.Constant(value=str(symbol))] if SYMBOL.fullmatch(symbol):
            return f"Symbol({', '.join([repr(symbol), *map(_assumption, keywords)])})"
        case "Float", [ast.Constant(value=str(decimal))] if _DECIMAL.fullmatch(decimal):
            return f"Float({', '.join([repr(decimal), *map(_precision, keywords)])})"
        case "Integer" | "Rational", _ if arguments and not keywords:
            return f"{name}({', '.join(map(_literal, arguments))})"
        case _, [ast.expr() as base, exponent] if name in _POWERS and not keywords:
            return f"{name}({_symbol(base, depth)}, {_exponent(exponent)})"
        case _ if name in _FUNCTIONS and not keywords:
            return f"{name}({', '.join(_written(each, depth - 1) for each in arguments)})"
    raise ValueError(name)


def _assumption(keyword: ast.keyword) -> str:
    match keyword:
        case ast.keyword(arg=str(name), value=ast.Constant(value=bool(value))) if name in _ASSUMPTIONS:
            return f"{name}={value}"
    raise ValueError(ast.dump(keyword))


def _precision(keyword: ast.keyword) -> str:
    match keyword:
        case ast.keyword(arg="precision", value=ast.Constant(value=53)):
            return "precision=53"
    raise ValueError(ast.dump(keyword))


def _literal(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            return _integer(value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))) if not isinstance(value, bool):
            return _integer(-value)
    raise ValueError(ast.dump(node))


def _symbol(node: ast.expr, depth: int) -> str:
    match node:
        case ast.Name() | ast.Call(func=ast.Name(id="Symbol")):
            return _written(node, depth - 1)
    raise ValueError(ast.dump(node))


def _exponent(node: ast.expr) -> str:
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[ast.Constant(value=int(value))], keywords=[]):
            return f"Integer({_small(value)})"
        case ast.Constant(value=int(value)):
            return _small(value)
    raise ValueError(ast.dump(node))


def _small(value: int) -> str:
    if isinstance(value, bool) or not 0 <= value <= MAX_EXPONENT:
        raise ValueError(value)
    return str(value)
