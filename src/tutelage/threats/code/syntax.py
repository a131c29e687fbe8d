"""Edits of syntax that keep the meaning: dead code, loops of the other kind, swapped operands, renamed variables.

Each refuses what it cannot prove harmless by looking at the tree. ReCode's own operators (see `released`) do not.
"""

from __future__ import annotations

import ast
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tutelage.core.checks import check_callable
from tutelage.core.errors import InputError, MissingError
from tutelage.threats.code.edit import CodeEdit, Program, Proposal, pick
from tutelage.threats.code.scopes import (
    BUILTINS,
    Occurrence,
    Scope,
    check_free,
    fresh,
    is_name,
    keywords_used,
    occurrences,
    rename,
)
from tutelage.threats.code.source import Refused, Source, Span, parsed
from tutelage.threats.text.edit import Change

Functions = (ast.FunctionDef, ast.AsyncFunctionDef)
Loops = (ast.For, ast.AsyncFor, ast.While)
# calls without side effects: the order in which two of them run does not matter
PURE = frozenset({
    "abs", "all", "any", "bin", "bool", "chr", "complex", "dict", "divmod", "enumerate", "float", "format", "frozenset", "hash",
    "hex", "id", "int", "isinstance", "len", "list", "max", "min", "oct", "ord", "pow", "range", "repr", "reversed", "round",
    "set", "sorted", "str", "sum", "tuple", "type", "zip",
})  # fmt: skip
FLIPPED: dict[type[ast.cmpop], str] = {
    ast.Lt: ">", ast.Gt: "<", ast.LtE: ">=", ast.GtE: "<=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
# names and scores: which name a variable should have at the given places, best first
Namer = Callable[[str, Sequence[Span]], Sequence[str]]


# ----------------------------------------------------------------------------------------------------------- dead code


@dataclass(frozen=True)
class DeadCode(CodeEdit):
    """A statement of the function, in a block that is never entered, before the last statement of the prompt.

    The block is `for _i_0 in range(0)`, or `while` or `if` with False, `v < v` or `v > v` after `v = 0`. The statement comes
    from the same function and from before the split, so it binds no new name there and gives nothing of the rest away.
    """

    name = "DeadCodeInserter"
    category = "syntax"
    random = True

    def propose(self, program: Program, seed: int) -> Proposal:
        source, rng = parsed(program.text), self.rng(program, seed)
        place = last_statement(source, program)
        function = enclosing_function(source, place)
        bodies = [one for one in own_statements(function) if _harmless_copy(source, one, program.split)]
        if not bodies:
            raise Refused("no statement before the split can be copied")
        lines = _dedented(source, bodies[pick(len(bodies), rng)])
        start = source.span(place)[0]
        indent = source.text[source.line_start(start) : start]
        heads = _heads(source)
        head = heads[pick(len(heads), rng)]
        block = [*head, *(source.unit + line if line.strip() else line for line in lines)]
        at = source.line_start(start)
        return Proposal([Change(at, at, "".join(f"{indent}{line}\n" if line.strip() else "\n" for line in block))])


def last_statement(source: Source, program: Program) -> ast.stmt:
    """The last statement that begins its line before the split, inside the asked function and after its docstring."""
    function = source.function(program.entry_point)
    found = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.stmt) and node is not function and not is_docstring(source, node)
        and not isinstance(node, ast.Global | ast.Nonlocal)
        and source.span(node)[0] < program.split and _stands_alone(source, node)
    ]  # fmt: skip
    if not found:
        raise Refused("there is no statement between docstring and split")
    return max(found, key=lambda node: source.span(node)[0])


def _stands_alone(source: Source, node: ast.stmt) -> bool:
    """Whether something can be put on a line before it: it begins its line, and is no `elif` and not decorated."""
    start = source.span(node)[0]
    if not source.begins_line(start) or getattr(node, "decorator_list", None):
        return False
    if isinstance(node, ast.If) and source.text.startswith("elif", start):
        return False
    line = source.line_start(start)
    return line == 0 or line in source.line_ends  # not the second line of something longer


def is_docstring(source: Source, node: ast.AST) -> bool:
    """Whether a statement is the first of a definition and a text."""
    above = source.parents.get(node)
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and isinstance(above, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and above.body[0] is node
    )


def enclosing_function(source: Source, node: ast.AST) -> ast.FunctionDef | ast.AsyncFunctionDef:
    for one in source.above(node):
        if isinstance(one, Functions):
            return one
        if isinstance(one, ast.ClassDef):
            raise Refused("the last statement belongs to a class")
    raise Refused("the last statement is outside of functions")


def own_statements(function: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a function, without those of functions and classes inside it."""
    for node in ast.iter_child_nodes(function):
        if isinstance(node, (*Functions, ast.ClassDef, ast.expr)):
            continue
        if isinstance(node, ast.stmt):
            yield node
        yield from own_statements(node)


def _harmless_copy(source: Source, node: ast.stmt, split: int) -> bool:
    """Whether a statement may stand a second time in its function, in a block that is never entered."""
    start, end = source.span(node)
    if end > split or is_docstring(source, node) or not source.begins_line(start) or source.text.startswith("elif", start):
        return False
    simple = source.text[end : source.line_end(max(start, end - 1))].lstrip(" \t")[:1] in ("", "\n", "#")
    lines = source.text[start:end].count("\n") + 1
    if not simple or lines > 4 or (lines > 1 and any("\n" in one.text.strip("\n") for one in source.tokens_in(start, end))):
        return False
    forbidden = (
        ast.Yield,
        ast.YieldFrom,
        ast.Await,
        ast.Global,
        ast.Nonlocal,
        ast.Import,
        ast.ImportFrom,
        ast.AsyncFor,
        ast.AsyncWith,
    )
    if any(isinstance(one, (*forbidden, *Functions, ast.ClassDef)) for one in ast.walk(node)):
        return False
    return not any(unbound_jumps(node, (ast.Break, ast.Continue)))


def unbound_jumps(node: ast.AST, kinds: tuple[type[ast.stmt], ...]) -> Iterator[ast.stmt]:
    """The `break`s or `continue`s below a node that leave it: those that are in no loop or function of its own."""
    if isinstance(node, kinds):
        yield node
    if isinstance(node, (*Functions, ast.ClassDef)):
        return
    inside = list(ast.iter_child_nodes(node))
    if isinstance(node, Loops):
        inside = list(node.orelse)
    for one in inside:
        yield from unbound_jumps(one, kinds)


def _dedented(source: Source, node: ast.stmt) -> list[str]:
    """The lines of a statement without its indentation and without comments behind it."""
    start, end = source.span(node)
    indent = source.text[source.line_start(start) : start]
    first, *rest = source.text[start:end].split("\n")
    return [first, *(line.removeprefix(indent) for line in rest)]


def _heads(source: Source) -> list[list[str]]:
    """The beginnings of blocks that are never entered."""
    variable = fresh(source, "v")
    heads = [["while False:"], ["if False:"]]
    for word in ("while", "if"):
        heads += [[f"{variable} = 0", f"{word} {variable} {sign} {variable}:"] for sign in ("<", ">")]
    if not any(one.name == "range" and one.home is not None for one in occurrences(source)):
        index = next(name for i in range(len(source.names) + 1) if (name := f"_i_{i}") not in source.names)
        heads += 3 * [[f"for {index} in range(0):"]]  # as often as each of the other two kinds
    return heads


# --------------------------------------------------------------------------------------------------------------- loops


@dataclass(frozen=True)
class ForWhile(CodeEdit):
    """The first `for` loop that can be one becomes a `while` loop.

    `for i in range(a, b, c)` counts i itself, everything else an index into the sequence. What `while` would read again in
    each turn gets a name before it, unless it is a constant or a variable that the loop leaves alone; an iterable that may be
    no sequence is made a list first, if the loop does not touch it. Refused: `continue`, `else`, a loop variable that is set
    in the loop, read after it, or kept by a function in it, and iterables that may be endless or belong to somebody else.
    """

    name = "ForWhileTransformer"
    category = "syntax"

    def propose(self, program: Program, seed: int) -> Proposal:
        source = parsed(program.text)
        function = source.function(program.entry_point)
        loops = sorted(
            (node for node in ast.walk(function) if isinstance(node, ast.For)), key=lambda node: source.span(node)[0]
        )
        reasons = []
        for loop in loops:
            if source.line_start(source.span(loop.body[0])[0]) > program.split:
                continue
            try:
                return Proposal(_as_while(source, loop))
            except Refused as reason:
                reasons.append(str(reason))
        raise Refused(reasons[0] if reasons else "there is no for loop before the split")


def _as_while(source: Source, loop: ast.For) -> list[Change]:
    start, end = source.span(loop)
    head = source.text[start : source.span(loop.body[0])[0]]
    indent = source.text[source.line_start(start) : start]
    inner = source.text[source.line_start(source.span(loop.body[0])[0]) : source.span(loop.body[0])[0]]
    if not _stands_alone(source, loop) or inner.strip() or "#" in head or head.count("\n") != 1:
        raise Refused("the loop is not written line by line")
    if loop.orelse:
        raise Refused("the loop has an else")
    if any(jump for node in loop.body for jump in unbound_jumps(node, (ast.Continue,))):
        raise Refused("the loop has a continue")
    targets = _target_names(source, loop)
    _check_targets(source, loop, targets)
    before: list[str] = []
    taken = iter(_free_names(source, targets))
    arguments = _range_arguments(source, loop.iter)
    if arguments is not None:
        if not isinstance(loop.target, ast.Name):
            raise Refused("the loop takes numbers apart")
        low, high, step = arguments
        stop = source.segment(high)
        if not _same_each_turn(source, high, loop, targets):
            name = next(taken)
            before.append(f"{name} = {stop}")
            stop = name
        variable = loop.target.id
        before.append(f"{variable} = {source.segment(low) if low is not None else 0}")
        condition = f"{variable} {'<' if step > 0 else '>'} {stop}"
        first, last = "", f"{variable} += {step}" if step > 0 else f"{variable} -= {-step}"
    else:
        sequence, setup = _sequence(source, loop, targets, taken)
        index = next(taken)
        before += [*setup, f"{index} = 0"]
        condition = f"{index} < len({sequence})"
        first, last = f"{inner}{source.segment(loop.target)} = {sequence}[{index}]\n", f"{index} += 1"
    line = source.line_start(start)
    body = source.line_start(source.span(loop.body[0])[0])
    new_head = "".join(f"{indent}{one}\n" for one in [*before, f"while {condition}:"])
    after = source.line_end(end - 1)
    tail = f"{inner}{last}\n" if source.text[after - 1] == "\n" else f"\n{inner}{last}"
    return [Change(line, body, new_head + first), Change(after, after, tail)]


def _target_names(source: Source, loop: ast.For) -> set[str]:
    names = set()
    for node in ast.walk(loop.target):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif not isinstance(node, ast.Tuple | ast.List | ast.expr_context):
            raise Refused("the loop sets more than plain variables")
    return names


def _check_targets(source: Source, loop: ast.For, targets: set[str]) -> None:
    """After a `for` its variable is the last item, after a `while` it may be the next: nobody must be able to tell."""
    start, end = source.span(loop)
    target = source.span(loop.target)
    for one in occurrences(source):
        if one.name not in targets or target[0] <= one.span[0] < target[1]:
            continue
        inside = start <= one.span[0] < end
        if one.role == "declared":
            raise Refused("the loop variable is declared global or nonlocal")
        if not _same_variable(source, one, loop):
            continue
        if inside and one.role != "load":
            raise Refused("the loop sets its own variable")
        if inside and _kept(source, one.node, loop):
            raise Refused("a function in the loop keeps its variable")
        if not inside and one.role == "load" and not _set_again(source, one, loop):
            raise Refused("the loop variable is read outside of the loop")


def _same_variable(source: Source, one: Occurrence, loop: ast.For) -> bool:
    """Whether an occurrence of a loop variable's name is of the variable that the loop sets."""
    own = next(o for o in occurrences(source) if o.span == source.span(next(_names_in(loop.target, one.name))))
    return one.home is own.home


def _names_in(node: ast.AST, name: str) -> Iterator[ast.Name]:
    return (one for one in ast.walk(node) if isinstance(one, ast.Name) and one.id == name)


def _kept(source: Source, node: ast.AST, loop: ast.For) -> bool:
    """Whether a function, or a generator that runs later, stands between a name and the loop."""
    for one in source.above(node):
        if one is loop:
            return False
        if isinstance(one, (*Functions, ast.Lambda, ast.GeneratorExp, ast.ClassDef)):
            return True
    return True


def _set_again(source: Source, one: Occurrence, loop: ast.For) -> bool:
    """Whether a name outside of the loop is in the body of another loop over the same name, which sets it first."""
    around = set(source.above(loop))
    for above in source.above(one.node):
        if isinstance(above, (*Functions, ast.Lambda, ast.GeneratorExp)):
            return False
        if not isinstance(above, ast.For) or above in around or above.orelse:
            continue
        if source.span(above.body[0])[0] <= one.span[0] and any(_names_in(above.target, one.name)):
            return True
    return False


def _range_arguments(source: Source, node: ast.expr) -> tuple[ast.expr | None, ast.expr, int] | None:
    """(start, stop, step) of a call of the built-in range with a step that is written as a number; None for other things."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"):
        return None
    if any(one.name == "range" and one.home is not None for one in occurrences(source)):
        return None
    if node.keywords or any(isinstance(one, ast.Starred) for one in node.args) or not 1 <= len(node.args) <= 3:
        raise Refused("the arguments of range cannot be told")
    if any("\n" in source.segment(one) for one in node.args):
        raise Refused("the loop is not written line by line")
    if len(node.args) == 1:
        return None, node.args[0], 1
    step = _number(node.args[2]) if len(node.args) == 3 else 1
    if not step:
        raise Refused("the step of range is no number")
    return node.args[0], node.args[1], step


def _number(node: ast.expr) -> int | None:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError):
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _same_each_turn(source: Source, node: ast.expr, loop: ast.For, targets: set[str]) -> bool:
    """Whether an expression is a constant, or a variable of this function that the loop does not set."""
    if _number(node) is not None:
        return True
    return isinstance(node, ast.Name) and node.id not in targets and _left_alone(source, node, loop)


def _left_alone(source: Source, node: ast.Name, loop: ast.For) -> bool:
    """Whether nothing in the loop binds a variable, and no other function may."""
    start, end = source.span(loop)
    own = next(one for one in occurrences(source) if one.span == source.span(node))
    for one in occurrences(source):
        if one.name != node.id or one.home is not own.home:
            continue
        if one.role == "declared" or (one.role != "load" and start <= one.span[0] < end):
            return False
    return True


def _sequence(source: Source, loop: ast.For, targets: set[str], taken: Iterator[str]) -> tuple[str, list[str]]:
    """The text of what is indexed, and the lines that make it."""
    node, text = loop.iter, source.segment(loop.iter)
    if "\n" in text:
        raise Refused("the loop is not written line by line")
    kind = _kind(source, node, loop)
    if kind == "unknown":
        raise Refused("the iterable may be no sequence")
    if isinstance(node, ast.Name) and kind == "sequence" and node.id not in targets and _left_alone(source, node, loop):
        return node.id, []
    if kind == "iterable" and not _untouched(source, node, loop):
        raise Refused("the loop may change what it runs over")
    name = next(taken)
    shadowed = any(one.name == "list" and one.home is not None for one in occurrences(source))
    if kind == "iterable" and shadowed:
        raise Refused("list is not Python's own here")
    return name, [f"{name} = list({text})" if kind == "iterable" else f"{name} = {text}"]


SEQUENCES = frozenset({"list", "List", "str", "tuple", "Tuple", "Sequence", "bytes", "range", "Text"})
SEQUENCE_METHODS = frozenset(
    {"split", "rsplit", "splitlines", "strip", "lstrip", "rstrip", "lower", "upper", "replace", "join", "copy"}
)
LAZY = frozenset({"enumerate", "zip", "reversed"})


def _kind(source: Source, node: ast.expr, loop: ast.For, depth: int = 0) -> str:
    """ "sequence": list, text, tuple or range; "iterable": finite, may be made a list; "unknown"."""
    if isinstance(node, ast.List | ast.Tuple | ast.ListComp | ast.JoinedStr):
        return "sequence"
    if isinstance(node, ast.Set | ast.Dict | ast.SetComp | ast.DictComp):
        return "iterable"
    if isinstance(node, ast.Constant):
        return "sequence" if isinstance(node.value, str | bytes) else "unknown"
    if isinstance(node, ast.Subscript):
        inner = _kind(source, node.value, loop, depth + 1)
        return "sequence" if isinstance(node.slice, ast.Slice) and inner == "sequence" else "unknown"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        kinds = {_kind(source, node.left, loop, depth + 1), _kind(source, node.right, loop, depth + 1)}
        return "sequence" if kinds == {"sequence"} else "unknown"
    if isinstance(node, ast.Call):
        return _kind_of_call(source, node, loop, depth)
    if isinstance(node, ast.Name):
        return _kind_of_name(source, node, loop, depth)
    return "unknown"


def _kind_of_call(source: Source, node: ast.Call, loop: ast.For, depth: int) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        if function.attr in SEQUENCE_METHODS:
            known = _kind(source, function.value, loop, depth + 1) if function.attr == "copy" else "sequence"
            return (
                "sequence"
                if known == "sequence" and isinstance(function.value, ast.Name | ast.Constant | ast.Call)
                else "unknown"
            )
        if function.attr in ("items", "keys", "values") and not node.args and isinstance(function.value, ast.Name):
            return "iterable"
        return "unknown"
    if not isinstance(function, ast.Name) or any(o.name == function.id and o.home is not None for o in occurrences(source)):
        return "unknown"
    if function.id in ("sorted", "list", "str", "tuple", "range", "bin", "hex", "input", "repr"):
        return "sequence"
    if function.id in ("set", "frozenset", "dict"):
        return "iterable"
    if function.id in LAZY and not node.keywords:
        kinds = {_kind(source, one, loop, depth + 1) for one in node.args}
        return "iterable" if kinds <= {"sequence", "iterable"} else "unknown"
    return "unknown"


def _kind_of_name(source: Source, node: ast.Name, loop: ast.For, depth: int) -> str:
    """By its annotation or by everything that is assigned to it; an argument without annotation is finite."""
    own = next((one for one in occurrences(source) if one.span == source.span(node)), None)
    if own is None or own.home is None or depth > 4:
        return "unknown"
    kinds: set[str] = set()
    for one in occurrences(source):
        if one.name != node.id or one.home is not own.home or one.role == "load":
            continue
        above = source.parents.get(one.node)
        if one.role == "parameter" and isinstance(one.node, ast.arg):
            arguments = source.parents.get(one.node)
            if isinstance(arguments, ast.arguments) and one.node in (arguments.vararg, arguments.kwarg):
                kinds.add("sequence" if one.node is arguments.vararg else "iterable")
            else:
                kinds.add(_annotated(one.node.annotation))
        elif isinstance(above, ast.Assign) and one.node in above.targets:
            kinds.add(_kind(source, above.value, loop, depth + 1))
        elif isinstance(above, ast.AnnAssign) and above.target is one.node:
            kinds.add(_annotated(above.annotation))
        elif isinstance(above, ast.AugAssign) and isinstance(above.op, ast.Add):
            continue  # a list, a text or a tuple stays one
        else:
            return "unknown"
    if "unknown" in kinds or not kinds:
        return "unknown"
    return "iterable" if "iterable" in kinds else "sequence"


def _annotated(annotation: ast.expr | None) -> str:
    if annotation is None:
        return "iterable"
    base = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    word = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""
    if word in SEQUENCES:
        return "sequence"
    return "iterable" if word in ("dict", "Dict", "set", "Set", "frozenset", "FrozenSet", "Counter") else "unknown"


def _untouched(source: Source, node: ast.expr, loop: ast.For) -> bool:
    """Whether the loop only looks at the variables of its iterable: no call, assignment or other name gets hold of them."""
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} - BUILTINS
    start, end = source.span(loop.body[0])[0], source.span(loop)[1]
    for one in occurrences(source):
        if one.name not in names or not start <= one.span[0] < end:
            continue
        above = source.parents.get(one.node)
        looked_at = one.role == "load" and (
            (isinstance(above, ast.Subscript) and above.value is one.node and isinstance(above.ctx, ast.Load))
            or isinstance(above, ast.Compare)
            or (isinstance(above, ast.Call) and isinstance(above.func, ast.Name) and above.func.id in PURE)
        )
        if not looked_at:
            return False
    return True


def _free_names(source: Source, targets: set[str]) -> Iterator[str]:
    """Names for indices and sequences, after the loop variable: _x_i, _x_j, …"""
    stem = "_".join(sorted(targets)).strip("_") or "item"
    for letter in string.ascii_lowercase[8:]:
        name = f"_{stem}_{letter}"
        if name not in source.names and is_name(name):
            yield name
    raise Refused("no name is free")


# ------------------------------------------------------------------------------------------------------------ operands


@dataclass(frozen=True)
class OperandSwap(CodeEdit):
    """The sides of the first comparison change places, and < > <= >= turn round.

    Only where the order in which the sides are computed cannot matter: if a side calls something that is not known to be
    without effect, the other must be a name or a constant.
    """

    name = "OperandSwap"
    category = "syntax"

    def propose(self, program: Program, seed: int) -> Proposal:
        source = parsed(program.text)
        function = source.function(program.entry_point)
        found = [node for node in ast.walk(function) if isinstance(node, ast.Compare)]
        reason = "there is no comparison before the split"
        for node in sorted(found, key=lambda node: source.span(node)[0]):
            start, end = source.span(node)
            if end > program.split or source.text[start:end].count("\n") or _in_fstring(source, node):
                continue
            if len(node.ops) > 1 or type(node.ops[0]) not in FLIPPED:
                reason = "no comparison before the split is one of two sides with < > <= >= == !="
                continue
            if not _order_is_free(source, node.left, node.comparators[0]):
                reason = "the order of the sides may matter"
                continue
            return Proposal([_swapped(source, node)])
        raise Refused(reason)


def _in_fstring(source: Source, node: ast.AST) -> bool:
    return any(isinstance(one, ast.JoinedStr) for one in source.above(node))


def _order_is_free(source: Source, left: ast.expr, right: ast.expr) -> bool:
    if any(
        isinstance(one, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom)
        for side in (left, right)
        for one in ast.walk(side)
    ):
        return False
    return (
        (_without_effect(source, left) and _without_effect(source, right))
        or isinstance(left, ast.Name | ast.Constant)
        or isinstance(right, ast.Name | ast.Constant)
    )


def _without_effect(source: Source, node: ast.expr) -> bool:
    for one in ast.walk(node):
        if isinstance(one, ast.Call):
            if isinstance(one.func, ast.Attribute) and one.func.attr in SEQUENCE_METHODS | {
                "count",
                "index",
                "find",
                "get",
                "isdigit",
            }:
                continue
            if not (isinstance(one.func, ast.Name) and one.func.id in PURE):
                return False
    return True


def _swapped(source: Source, node: ast.Compare) -> Change:
    """Texts of the sides with their brackets and of the operator, put together the other way round."""
    start, end = source.span(node)
    low, high = source.span(node.left)[1], source.span(node.comparators[0])[0]
    operator = next(one for one in source.tokens_in(low, high) if one.text in FLIPPED.values())
    left, right = source.text[start : operator.start], source.text[operator.end : end]
    text = (
        right.strip()
        + left[len(left.rstrip()) :]
        + FLIPPED[type(node.ops[0])]
        + right[: len(right) - len(right.lstrip())]
        + left.strip()
    )
    before, after = source.text[start - 1 : start], source.text[end : end + 1]
    if _word(before) and _word(text[:1]):
        text = f" {text}"
    if _word(after) and _word(text[-1:]):
        text = f"{text} "
    return Change(start, end, text)


def _word(letter: str) -> bool:
    """Whether a letter would grow together with a word beside it; quotes would make a prefix of it."""
    return letter.isalnum() or letter in ("_", '"', "'") if letter else False


# ----------------------------------------------------------------------------------------------------------- variables


def frequent_variables(source: Source, program: Program) -> list[tuple[str, Scope]]:
    """Variables that occur in the prompt, the most frequent first: no imports, functions, classes, attributes or built-ins.

    An argument that is given by name somewhere keeps its name.
    """
    by_name = keywords_used(program.text, program.test)
    fixed = {(one.name, one.home) for one in occurrences(source) if one.role in ("function", "class", "import")}
    fixed |= {(one.name, one.home) for one in occurrences(source) if one.role == "parameter" and one.name in by_name}
    counts: Counter[tuple[str, Scope]] = Counter()
    for one in occurrences(source):
        if one.home is None or one.home.kind == "class" or one.span[1] > program.split or (one.name, one.home) in fixed:
            continue
        if one.name not in ("self", "cls", "_") and _of(source, one.home, program.entry_point):
            counts[one.name, one.home] += 1
    return [variable for variable, _ in counts.most_common()]


def _of(source: Source, scope: Scope, entry_point: str) -> bool:
    """Whether a scope is that of the asked function or lies inside it."""
    function = source.function(entry_point)
    return scope.node is function or function in source.above(scope.node)


@dataclass(frozen=True)
class _Rename(CodeEdit):
    category = "syntax"

    def propose(self, program: Program, seed: int) -> Proposal:
        source = parsed(program.text)
        variables = frequent_variables(source, program)
        if not variables:
            raise Refused("there is no variable before the split")
        old, home = variables[0]
        new = self.new_name(source, program, home, old, self.rng(program, seed))
        return Proposal(rename(source, home, old, new))

    def new_name(self, source: Source, program: Program, home: Scope, old: str, rng: Random) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class RenameNaive(_Rename):
    """The most frequent variable becomes VAR_0."""

    name = "VarRenamerNaive"

    def new_name(self, source: Source, program: Program, home: Scope, old: str, rng: Random) -> str:
        names = source.names | parsed(program.test).names
        return next(f"VAR_{i}" for i in range(len(names) + 1) if f"VAR_{i}" not in names)


@dataclass(frozen=True)
class RenameRandom(_Rename):
    """The most frequent variable becomes letters and digits at random, as many as it had, a letter first."""

    name = "VarRenamerRN"
    random = True

    def new_name(self, source: Source, program: Program, home: Scope, old: str, rng: Random) -> str:
        names = source.names | parsed(program.test).names
        for _ in range(200):
            letters = [string.ascii_letters, *[string.ascii_letters + string.digits] * (len(old) - 1)]
            new = "".join(one[pick(len(one), rng)] for one in letters)
            if is_name(new) and new not in names:
                return new
        raise Refused("no name of that length is free")


@dataclass(frozen=True)
class RenameByModel(_Rename):
    """The most frequent variable gets the name that a model of code would give it (CodeBERT in the paper).

    namer: (program, spans of the variable in the prompt) -> names, best first; the first that is free is taken. See
    `threats.code.naming` for namers from masked and causal language models.
    """

    namer: Namer | None = None

    name = "VarRenamerCB"

    def __post_init__(self) -> None:
        if self.namer is not None:
            check_callable("namer", self.namer, "a function (program, spans of a variable) -> names, best first")

    def check(self) -> None:
        if self.namer is None:
            raise MissingError(
                "VarRenamerCB needs a model that names variables: give namer=, such as MaskedNamer(model, tokenizer)"
            )

    def new_name(self, source: Source, program: Program, home: Scope, old: str, rng: Random) -> str:
        self.check()
        assert self.namer is not None
        places = [o.span for o in occurrences(source) if o.name == old and o.home is home and o.span[1] <= program.split]
        names = self.namer(program.prompt, places)
        if isinstance(names, str) or not all(isinstance(one, str) for one in names):
            raise InputError("namer", type(names).__name__, "a list of names, best first")
        tests = parsed(program.test).names
        for new in names:
            if new == old or new in tests:
                continue
            try:
                check_free(source, new)
            except Refused:
                continue
            return new
        raise Refused("the model has no name that is free")
