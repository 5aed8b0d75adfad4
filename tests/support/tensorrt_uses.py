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
RECEIVERS = {
    "module": MODULE,
    "trt": MODULE,
    "tensorrt": MODULE,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "timing_cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
    "serialized": "IHostMemory",
}
"""Names of variables and attributes, without leading underscores, and the class of TensorRT that each always is."""

GUARDED = {
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": "network_flags",
    "BuilderFlag.REQUIRE_USER_ALLOCATION": "capture_flag",
    "IExecutionContext.is_stream_capturable": "capture_flag",
    "IBuilderConfig.create_timing_cache": "timing_cache",
    "IBuilderConfig.get_timing_cache": "timing_cache",
    "IBuilderConfig.set_timing_cache": "timing_cache",
    ".ComputeCapability": "compiles_without_gpu",
    "IBuilderConfig.num_compute_capabilities": "compiles_without_gpu",
    "IBuilderConfig.set_compute_capability": "compiles_without_gpu",
    "ICudaEngine.create_runtime_config": "runtime_cache",
    "IRuntimeConfig.create_runtime_cache": "runtime_cache",
    "IRuntimeConfig.set_runtime_cache": "runtime_cache",
    "IRuntimeCache.serialize": "runtime_cache",
    "IRuntimeCache.deserialize": "runtime_cache",
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


def uses_in(sources: Mapping[str, str], members: Collection[str]) -> Uses:
    """Walk some files.

    Args:
        sources: their texts, by name.
        members: every name that some class of some version has; other attributes are of no interest.
    """
    trees = {where: ast.parse(text) for where, text in sources.items()}
    opaque = frozenset(name for tree in trees.values() for name in _functions_returning_any(tree))
    walkers = [_Walker(where, members, opaque) for where in trees]
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


def problems(uses: Collection[Use], description: Mapping[str, Any]) -> list[str]:
    """What a version lacks of the uses, or takes differently; ``description`` is what ``tensorrt_api.py`` prints."""
    names, api = description["names"], description["api"]
    return [f"{use}: {problem}" for use in uses if _in_use(use, api) for problem in _problems(use, names)]


def _in_use(use: Use, api: Mapping[str, Any]) -> bool:
    fields = [GUARDED.get(f"{use.owner}.{use.name}"), GUARDED.get(f".{use.owner}")]
    return all(api[field] for field in fields if field)


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


class _Walker(ast.NodeVisitor):
    """Collects the uses in one file."""

    def __init__(self, where: str, members: Collection[str], opaque: Collection[str]) -> None:
        self.uses: list[Use] = []
        self.unknown: list[str] = []
        self._file = where
        self._members = members
        self._opaque = opaque
        self._scopes: list[set[str]] = [set(dir(builtins)) - DYNAMIC | {"self", "cls"}]
        self._fields: set[str] = set()

    def visit(self, node: ast.AST) -> Any:
        """Names that are declared or assigned to be something else come first; then what is used."""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._scopes[-1].update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return self._function(node)
        elif isinstance(node, ast.ClassDef):
            self._class(node)
        elif isinstance(node, ast.AnnAssign):
            return self._declaration(node)
        elif isinstance(node, ast.Call):
            return self._call(node)
        elif isinstance(node, ast.Attribute):
            self._attribute(node)
        else:
            self._bindings(node)
        return self.generic_visit(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self._scopes[-1].add(node.name)
        self._scopes.append({each.arg for each in arguments if each.annotation and not _is_any(each.annotation)})
        for each in [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults), *node.body]:
            self.visit(each)
        self._scopes.pop()

    def _class(self, node: ast.ClassDef) -> None:
        """Methods that override those of a class of TensorRT have to fit them."""
        self._scopes[-1].add(node.name)
        bases = [
            base.attr for base in node.bases if isinstance(base, ast.Attribute) and self._owner(base.value) == MODULE
        ]
        methods = [each for each in node.body if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")]
        for method in methods if bases else []:
            overrides = len(method.args.args) - 1
            self.uses.append(Use(bases[0], method.name, self._where(method), overrides=overrides))

    def _declaration(self, node: ast.AnnAssign) -> None:
        """An annotation uses nothing; another than ``Any`` says that it is no object of TensorRT."""
        if not _is_any(node.annotation):
            self._note(node.target)
        for each in filter(None, (node.target, node.value)):
            self.visit(each)

    def _bindings(self, node: ast.AST) -> None:
        """What is assigned from something else is something else, unless its name says that it is TensorRT's."""
        if isinstance(node, ast.ExceptHandler) and node.name:
            self._scopes[-1].add(node.name)
        for target, value in _assignments(node):
            if self._is_other(value):
                for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if _last_name(each) not in RECEIVERS:
                        self._note(each)

    def _note(self, target: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._scopes[-1].add(target.id)
            self._fields.add(target.id)  # a field, if this is the body of a class
        elif isinstance(target, ast.Attribute) and _is_self(target.value):
            self._fields.add(target.attr)

    def _call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            self._attribute(node.func, call=_call(node))
            self.visit(node.func.value)
        else:
            self.visit(node.func)
        if isinstance(node.func, ast.Name) and node.func.id in DYNAMIC and self._owner(node.args[0]) is not None:
            self._dynamic(node, node.args[0], node.args[1])
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            self.visit(argument)

    def _dynamic(self, node: ast.Call, value: ast.expr, name: ast.expr) -> None:
        """``getattr`` of a literal is an attribute; of anything else, only members of a class that is guarded."""
        owner = self._owner(value)
        if isinstance(name, ast.Constant):
            self.uses.append(Use(owner or MODULE, str(name.value), self._where(node)))
        elif f".{owner}" not in GUARDED:
            self.unknown.append(f"{self._where(node)}: {ast.unparse(node)}: the source does not say which name")

    def _attribute(self, node: ast.Attribute, call: Call | None = None) -> None:
        owner = self._owner(node.value)
        if owner is not None:
            stored = not isinstance(node.ctx, ast.Load)
            self.uses.append(Use(owner, node.attr, self._where(node), call=call, stored=stored))
        elif node.attr in self._members and not self._is_other(node.value):
            self.unknown.append(f"{self._where(node)}: {ast.unparse(node)}")

    def _owner(self, node: ast.expr) -> str | None:
        """The class of TensorRT that an expression is, or an instance of; None if it is none, or not known."""
        if isinstance(node, ast.Call):
            return self._owner(node.func) if self._is_class(node.func) else None
        if self._is_class(node):
            return _last_name(node)
        return None if self._is_other(node) else RECEIVERS.get(_last_name(node))

    def _is_class(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Attribute) and node.attr[0].isupper() and self._owner(node.value) == MODULE

    def _is_other(self, node: ast.expr) -> bool:
        """Whether an expression is known to be no object of TensorRT."""
        if isinstance(node, ast.Name):
            return any(node.id in names for names in self._scopes)
        if isinstance(node, ast.Attribute):
            if _is_self(node.value):
                return node.attr in self._fields
            return self._is_other(node.value) and _last_name(node) not in RECEIVERS
        if isinstance(node, ast.Subscript):
            return self._is_other(node.value)
        if isinstance(node, ast.Call):
            return self._is_other(node.func) and _last_name(node.func) not in self._opaque
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            return all(map(self._is_other, node.elts))
        return isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp))

    def _where(self, node: ast.expr | ast.stmt) -> str:
        return f"{self._file}:{node.lineno}"


def _assignments(node: ast.AST) -> list[tuple[ast.expr, ast.expr]]:
    """Targets and values of an assignment, a loop, a comprehension or a ``with``."""
    if isinstance(node, ast.Assign):
        return [(target, node.value) for target in node.targets]
    if isinstance(node, ast.NamedExpr):
        return [(node.target, node.value)]
    if isinstance(node, ast.For):
        return [(node.target, node.iter)]
    if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
        return [(each.target, each.iter) for each in node.generators]
    if isinstance(node, ast.With):
        return [(item.optional_vars, item.context_expr) for item in node.items if item.optional_vars]
    return []


def _last_name(node: ast.expr) -> str:
    """``engine`` of ``engine``, of ``self._engine`` and of ``session.engine``; empty for anything else."""
    found = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return found.lstrip("_")


def _is_any(annotation: ast.expr) -> bool:
    return "Any" in ast.unparse(annotation)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _call(node: ast.Call) -> Call:
    starred = any(isinstance(argument, ast.Starred) for argument in node.args)
    names = [keyword.arg for keyword in node.keywords]
    return Call(
        positional=None if starred else len(node.args),
        keywords=None if None in names else frozenset(name for name in names if name is not None),
    )
