"""What our source uses of TensorRT, and whether a version of it has that.

TensorRT arrives as a parameter, so a name in the source says what an object is: ``RECEIVERS`` maps names to classes. An
attribute that TensorRT has too, of an object that is neither in that table nor known to be something else, is an error:
so nothing escapes.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MODULE = ""
DYNAMIC = {"getattr", "hasattr", "setattr"}
PASSING = {
    "enumerate",
    "filter",
    "getattr",
    "iter",
    "list",
    "map",
    "max",
    "min",
    "next",
    "reversed",
    "sorted",
    "tuple",
    "zip",
}
"""Builtins that give what they were given; all others give something else."""
RECEIVERS = {
    "module": MODULE,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "timing_cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "serialized": "IHostMemory",
    "status": None,
    "verbs": None,
}
"""Names of variables and attributes, without leading underscores, and the class of TensorRT that each always is; None
for what is always something else, though nothing declares it."""

GUARDED = {
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": "network_flags",
    "BuilderFlag.REQUIRE_USER_ALLOCATION": "capture_flag",
    "IExecutionContext.is_stream_capturable": "capture_flag",
    "IBuilderConfig.create_timing_cache": "timing_cache",
    "IBuilderConfig.get_timing_cache": "timing_cache",
    "IBuilderConfig.set_timing_cache": "timing_cache",
}
"""What is used only where a field of ``Api`` is true or not zero: other versions need not have it."""


@dataclass(frozen=True)
class Call:
    """Arguments of a call; None for what ``*`` and ``**`` hide."""

    positional: int | None
    keywords: frozenset[str] | None


@dataclass(frozen=True)
class Use:
    """One use of a name of TensorRT.

    Attributes:
        owner: the class, or ``MODULE``.
        name: its member.
        where: file and line.
        call: the arguments, if it is called.
        stored: whether it is assigned to.
        overrides: the parameters, if a class of ours defines it.
    """

    owner: str
    name: str
    where: str
    call: Call | None = None
    stored: bool = False
    overrides: int | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.owner or 'module'}.{self.name}"


@dataclass(frozen=True)
class Uses:
    """What was found in one file, and the attributes that nobody can tell the owner of."""

    uses: tuple[Use, ...]
    unknown: tuple[str, ...]


def uses_in(sources: Mapping[str, str], members: Collection[str], returns: Mapping[str, str]) -> Uses:
    """Walk some files.

    Args:
        sources: their texts, by name.
        members: every name that some class of some version has; other attributes are of no interest.
        returns: the class that a method gives, by ``Class.method``.
    """
    trees = {where: ast.parse(text) for where, text in sources.items()}
    opaque = {where: frozenset(_functions_returning_any(tree)) for where, tree in trees.items()}
    public = frozenset(name for names in opaque.values() for name in names if name[0] != "_")
    fields = [each for tree in trees.values() for each in _fields(tree)]
    plain = {name for name, kind in fields if kind} - {name for name, kind in fields if not kind}
    walkers = [_Walker(where, members, returns, opaque[where] | public, plain) for where in trees]
    for walker, tree in zip(walkers, trees.values(), strict=True):
        walker.visit(tree)
    return Uses(
        tuple(use for walker in walkers for use in walker.uses),
        tuple(name for walker in walkers for name in walker.unknown),
    )


def _functions_returning_any(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (
            node.returns is None or _is_any(node.returns)
        ):
            yield node.name


def _fields(tree: ast.AST) -> Iterator[tuple[str, _Kind | None]]:
    """The fields that classes of ours declare, and what they declare them to be."""
    for node in ast.walk(tree):
        for each in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                yield each.target.id, _declared(each.annotation)


def problems(uses: Collection[Use], description: Mapping[str, Any]) -> list[str]:
    """What a version lacks of the uses, or takes differently; ``description`` is what ``tensorrt_api.py`` prints."""
    names, api = description["names"], description["api"]
    return [f"{use}: {problem}" for use in uses if _in_use(use, api) for problem in _problems(use, names)]


def _in_use(use: Use, api: Mapping[str, Any]) -> bool:
    field = GUARDED.get(f"{use.owner}.{use.name}")
    return field is None or bool(api[field])


def _problems(use: Use, names: Mapping[str, Any]) -> Iterator[str]:
    if use.owner == MODULE:
        if use.name not in names:
            yield "it has no such name"
        elif use.call:
            yield from _call_problems(use.call, names[use.name].get("__init__"))
        return
    members = names.get(use.owner)
    if members is None or use.name not in members:
        yield "it has no such member"
        return
    member = members[use.name]
    if use.stored and member != "set":
        yield "it cannot be assigned to"
    if use.call:
        yield from _call_problems(use.call, member)
    if use.overrides is not None and (not isinstance(member, list) or use.overrides not in map(len, member)):
        yield f"it has not {use.overrides} parameters"


def _call_problems(call: Call, member: Any) -> Iterator[str]:
    if not isinstance(member, list):
        yield "it cannot be called"
    elif not any(_fits(call, parameters) for parameters in member):
        yield f"none of its signatures takes that: {member}"


def _fits(call: Call, parameters: list[tuple[str, bool]]) -> bool:
    if call.positional is None or call.keywords is None:
        return True
    rest = parameters[call.positional :]
    required = {name for name, needed in rest if needed}
    return call.positional <= len(parameters) and required <= call.keywords <= {name for name, _ in rest}


@dataclass(frozen=True)
class _Kind:
    """What an expression is: of a class of TensorRT, several of them, or, with no owner, something else."""

    owner: str | None = None
    many: bool = False


_OTHER = _Kind()


class _Walker(ast.NodeVisitor):
    """Collects the uses in one file. A name that is known to be nothing in particular has the kind None."""

    def __init__(
        self,
        where: str,
        members: Collection[str],
        returns: Mapping[str, str],
        opaque: Collection[str],
        plain: Collection[str],
    ) -> None:
        self.uses: list[Use] = []
        self.unknown: list[str] = []
        self._file = where
        self._members = members
        self._returns = returns
        self._opaque = opaque
        self._plain = plain
        self._scopes: list[dict[str, _Kind | None]] = [dict.fromkeys((*dir(builtins), "self", "cls"), _OTHER)]
        self._fields: dict[str, _Kind | None] = {}

    def visit(self, node: ast.AST) -> Any:
        """Names that are declared or assigned come first; then what is used."""
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return self._function(node)
        if isinstance(node, ast.AnnAssign):
            return self._declaration(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Module):
            definitions = [each for each in node.body if isinstance(each, (ast.FunctionDef, ast.ClassDef))]
            self._scopes[-1].update({each.name: _OTHER for each in definitions})
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self._scopes[-1].update({(each.asname or each.name).partition(".")[0]: _OTHER for each in node.names})
        elif isinstance(node, ast.ClassDef):
            self._class(node)
        elif isinstance(node, ast.Attribute):
            self._attribute(node)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            self._scopes[-1][node.name] = _OTHER
        for target, kind in self._bindings(node):
            self._bind(target, kind)
        return self.generic_visit(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """A parameter with another annotation than ``Any`` is no object of TensorRT."""
        self._scopes[-1][node.name] = _OTHER
        declared = {
            each.arg: _declared(each.annotation) for each in _parameters(node) if each.arg not in ("self", "cls")
        }
        self._scopes.append({**declared})
        for each in [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults), *node.body]:
            self.visit(each)
        self._scopes.pop()

    def _class(self, node: ast.ClassDef) -> None:
        """Methods with the name of a method of TensorRT have to fit it, in a class that extends one of TensorRT."""
        self._scopes[-1][node.name] = _OTHER
        for base in node.bases:
            kind = self._kind(base)
            if kind is not None and kind.owner:
                self.uses += [
                    Use(kind.owner, each.name, self._where(each), overrides=len(_parameters(each)))
                    for each in node.body
                    if isinstance(each, ast.FunctionDef) and each.name in self._members and each.name[0] != "_"
                ]

    def _declaration(self, node: ast.AnnAssign) -> None:
        """An annotation uses nothing; another than ``Any`` says that it is no object of TensorRT."""
        if isinstance(node.target, ast.Name):
            self._scopes[-1][node.target.id] = self._fields[node.target.id] = _declared(node.annotation)
        elif isinstance(node.target, ast.Attribute) and _is_self(node.target.value):
            self._fields[node.target.attr] = _declared(node.annotation)
        if node.value is not None:
            self.visit(node.value)

    def _bindings(self, node: ast.AST) -> Iterator[tuple[ast.expr, _Kind | None]]:
        if isinstance(node, ast.Assign):
            yield from ((target, self._kind(node.value)) for target in node.targets)
        elif isinstance(node, ast.NamedExpr):
            yield node.target, self._kind(node.value)
        elif isinstance(node, ast.For):
            yield node.target, _element(self._kind(node.iter))
        elif isinstance(node, ast.With):
            yield from (
                (item.optional_vars, self._kind(item.context_expr)) for item in node.items if item.optional_vars
            )
        elif isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            yield from ((each.target, _element(self._kind(each.iter))) for each in node.generators)

    def _bind(self, target: ast.expr, kind: _Kind | None) -> None:
        """What is known to be something else is that, whatever its name; else the table of names has the last word."""
        if isinstance(target, (ast.Tuple, ast.List)):
            for each in target.elts:
                self._bind(each, kind if kind == _OTHER else None)
        elif _last_name(target) in RECEIVERS and kind != _OTHER:
            return
        elif isinstance(target, ast.Name):
            self._scopes[-1][target.id] = kind
        elif isinstance(target, ast.Attribute) and _is_self(target.value):
            self._fields[target.attr] = kind

    def _call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            self._attribute(node.func, call=_call(node))
            self.visit(node.func.value)
        else:
            self.visit(node.func)
        if isinstance(node.func, ast.Name) and node.func.id in DYNAMIC:
            self._dynamic(node, self._kind(node.args[0]), node.args[1])
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            self.visit(argument)

    def _dynamic(self, node: ast.Call, kind: _Kind | None, name: ast.expr) -> None:
        """``getattr`` of a literal is an attribute; the source has to say which."""
        if kind is None or kind.owner is None:
            return
        if isinstance(name, ast.Constant):
            self.uses.append(Use(kind.owner, str(name.value), self._where(node)))
        else:
            self.unknown.append(f"{self._where(node)}: {ast.unparse(node)}: the source does not say which name")

    def _attribute(self, node: ast.Attribute, call: Call | None = None) -> None:
        kind = self._kind(node.value)
        if kind is None and node.attr in self._members:
            self.unknown.append(f"{self._where(node)}: {ast.unparse(node)}")
        elif kind is not None and kind.owner is not None and not kind.many and node.attr != "__init__":
            stored = not isinstance(node.ctx, ast.Load)
            self.uses.append(Use(kind.owner, node.attr, self._where(node), call=call, stored=stored))

    def _kind(self, node: ast.expr) -> _Kind | None:
        """What an expression is; None if that is not known."""
        match node:
            case ast.Name():
                found = next((scope[node.id] for scope in reversed(self._scopes) if node.id in scope), None)
                return found or _named(node)
            case ast.Attribute():
                return self._attribute_kind(node)
            case ast.Call():
                return self._call_kind(node)
            case ast.Subscript():
                kind = self._kind(node.value)
                return kind if isinstance(node.slice, ast.Slice) else _element(kind)
        return self._display_kind(node)

    def _display_kind(self, node: ast.expr) -> _Kind | None:
        match node:
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                for target, kind in self._bindings(node):
                    self._bind(target, kind)
                return _several([self._kind(node.elt)])
            case ast.DictComp():
                for target, kind in self._bindings(node):
                    self._bind(target, kind)
                return _one_of([_OTHER, self._kind(node.value)])
            case ast.List() | ast.Tuple() | ast.Set():
                return _several([self._kind(each) for each in node.elts])
            case ast.IfExp():
                return _one_of([self._kind(node.body), self._kind(node.orelse)])
            case ast.BoolOp():
                return _one_of([self._kind(each) for each in node.values])
            case ast.Dict():
                return _one_of([_OTHER, *(self._kind(each) for each in node.values if each is not None)])
        return _OTHER  # a constant, an operation, a comparison

    def _attribute_kind(self, node: ast.Attribute) -> _Kind | None:
        if _is_self(node.value):
            return self._fields.get(node.attr) or _named(node)
        base = self._kind(node.value)
        if base == _OTHER and node.attr in self._plain:
            return _OTHER
        if base is None or base == _OTHER or base.many:
            return _named(node) or (base and _OTHER)
        is_class = node.attr[0].isupper() and not node.attr.isupper()
        if base.owner == MODULE:
            return _Kind(node.attr) if is_class else _OTHER
        return _Kind(f"{base.owner}.{node.attr}") if is_class else None

    def _call_kind(self, node: ast.Call) -> _Kind | None:
        if isinstance(node.func, ast.Name):
            if node.func.id in PASSING:
                return _one_of([_OTHER, *map(self._kind, node.args)])
            return None if node.func.id in self._opaque else self._kind(node.func)
        if not isinstance(node.func, ast.Attribute):
            return None
        base = self._kind(node.func.value)
        if base is None or base == _OTHER or base.many:
            return None if node.func.attr in self._opaque else base and _OTHER
        if base.owner == MODULE:
            return _Kind(node.func.attr)
        given = self._returns.get(f"{base.owner}.{node.func.attr}")
        return _Kind(given) if given else None

    def _where(self, node: ast.expr | ast.stmt) -> str:
        return f"{self._file}:{node.lineno}"


def _declared(annotation: ast.expr | None) -> _Kind | None:
    return None if annotation is None or _is_any(annotation) else _OTHER


def _named(node: ast.expr) -> _Kind | None:
    name = _last_name(node)
    return _Kind(RECEIVERS[name]) if name in RECEIVERS else None


def _element(kind: _Kind | None) -> _Kind | None:
    """What is in it: several have one, something else has something else in it."""
    if kind is None or kind == _OTHER:
        return kind
    return _Kind(kind.owner) if kind.many else None


def _several(kinds: list[_Kind | None]) -> _Kind | None:
    kind = _one_of(kinds or [_OTHER])
    return kind if kind is None or kind == _OTHER else _Kind(kind.owner, many=True)


def _one_of(kinds: list[_Kind | None]) -> _Kind | None:
    return kinds[0] if len(set(kinds)) == 1 else None


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """All but ``self`` and ``cls``."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [each for each in arguments if each.arg not in ("self", "cls")]


def _last_name(node: ast.expr) -> str:
    """``engine`` of ``engine``, of ``self._engine`` and of ``session.engine``; empty for anything else."""
    found = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return found.lstrip("_")


def _is_any(annotation: ast.expr) -> bool:
    return "Any" in ast.unparse(annotation).replace("NDArray[Any]", "").replace("dtype[Any]", "")


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _call(node: ast.Call) -> Call:
    starred = any(isinstance(argument, ast.Starred) for argument in node.args)
    names = [keyword.arg for keyword in node.keywords]
    return Call(
        positional=None if starred else len(node.args),
        keywords=None if None in names else frozenset(name for name in names if name is not None),
    )
