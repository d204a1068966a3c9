"""The tests of an answer's code: which calls they make of it, and whether what these gave is right.

A test is `assert f(2) == [4]`, or `{"call": "f(2)", "expected": [4]}`. Only its calls are made where the answer runs;
what they gave comes back as data, and all else of the test is worked out here, without running anything.
"""

from __future__ import annotations

import ast
import builtins
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.evaluate.structured import same_json

# What a test may do with the data that a call gave.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{kind.__name__: kind for kind in (list, tuple, set, frozenset, dict, str, int, float, bool)},
    **{"sorted": sorted, "len": len, "round": round, "abs": abs, "sum": sum, "min": min, "max": max},
    **{"all": all, "any": any, "math.isclose": math.isclose},
}
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Div: operator.truediv,
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
MENDS = 'write `assert f(2) == [4]` or {"call": "f(2)", "expected": [4]}'


class BadTest(ValueError):
    """A test that cannot be used."""


@dataclass(frozen=True)
class Case:
    """One test: the calls that it makes of the answer, and what it says of the values."""

    calls: tuple[str, ...]
    holds: Callable[[Sequence[Any]], bool]

    def passes(self, values: Sequence[Any]) -> bool:
        """Whether what the calls gave is right; a call that gave nothing never is."""
        try:
            return bool(self.holds([_value(value) for value in values]))
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
            return False


def read_cases(tests: Any) -> tuple[Case, ...]:
    """The tests of a row: a list of them, or one text with an assert a line; a BadTest says what is wrong."""
    if isinstance(tests, str) and tests.lstrip().startswith(("[", "{")):
        try:
            tests = json.loads(tests)
        except ValueError:
            raise BadTest("is neither asserts nor JSON") from None
    found = [tests] if isinstance(tests, (str, dict)) else tests
    if not isinstance(found, (list, tuple)) or not found:
        raise BadTest("holds no tests")
    return tuple(case for test in found for case in _cases(test))


def _cases(test: Any) -> list[Case]:
    if isinstance(test, Mapping):
        return [_pair(test)]
    if not isinstance(test, str):
        raise BadTest(f"holds {type(test).__name__}, which is no test")
    try:
        lines = ast.parse(test).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadTest(f"holds what is no Python: {test[:60]!r}") from None
    if not lines or not all(isinstance(line, ast.Assert) for line in lines):
        raise BadTest(f"holds other lines than asserts: {test[:60]!r}")
    return [_assert(line.test) for line in lines if isinstance(line, ast.Assert)]


def _pair(test: Mapping[str, Any]) -> Case:
    call, expected = test.get("call"), test.get("expected")
    if set(test) != {"call", "expected"} or not isinstance(call, str):
        raise BadTest(f"holds an object that is not call and expected: {str(dict(test))[:60]}")
    try:
        ast.parse(call, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadTest(f"calls what is no Python: {call[:60]!r}") from None
    return Case((call,), lambda values: same_json(_as_json(values[0]), expected))


def _assert(test: ast.expr) -> Case:
    calls: list[str] = []
    _gather(test, calls)
    if not calls:
        raise BadTest(f"calls nothing of the answer: {ast.unparse(test)[:60]!r}")
    return Case(tuple(calls), lambda values: _worked_out(test, list(values)))


def _gather(node: ast.expr, calls: list[str]) -> None:
    """The calls of the answer in a test, in the order in which they are worked out; refuses what cannot be."""
    if _is_of_answer(node):
        calls.append(ast.unparse(node))
    elif _is_worked_out(node):
        for part in _parts(node):
            _gather(part, calls)
    else:
        raise BadTest(f"has a part that is not worked out: {ast.unparse(node)[:60]!r}")


def _is_of_answer(node: ast.expr) -> bool:
    """Whether a node calls a function, or a method of a class, that an answer would define.

    A method of what a call gave, such as `f(2).startswith("a")`, would be asked of whatever the answer hands back.
    """
    if not isinstance(node, ast.Call):
        return False
    root = node.func
    while isinstance(root, (ast.Attribute, ast.Call)):
        root = root.value if isinstance(root, ast.Attribute) else root.func
    if not isinstance(root, ast.Name):
        return False
    return root.id not in dir(builtins) if root is node.func else root.id[0].isupper()


def _is_worked_out(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return _name(node) in FUNCTIONS and all(key.arg is not None for key in node.keywords)
    if isinstance(node, ast.Dict):
        return all(key is not None for key in node.keys)
    kinds = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Subscript)
    known = (*OPERATORS, ast.And, ast.Or)
    return isinstance(node, kinds) and all(isinstance(one, known) for one in _operators(node))


def _operators(node: ast.expr) -> list[ast.AST]:
    if isinstance(node, ast.Compare):
        return list(node.ops)
    return [node.op] if isinstance(node, (ast.BoolOp, ast.UnaryOp, ast.BinOp)) else []


def _parts(node: ast.expr) -> list[ast.expr]:
    """The expressions that one is made of."""
    if isinstance(node, ast.Call):
        return [*node.args, *(key.value for key in node.keywords)]
    return [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]


def _name(node: ast.Call) -> str:
    return ast.unparse(node.func)


def _worked_out(node: ast.expr, values: list[Any]) -> Any:
    """What a test gives; each call of the answer takes the next of the values."""
    if isinstance(node, ast.Constant):
        return node.value
    if _is_of_answer(node):
        return values.pop(0)
    parts = [_worked_out(part, values) for part in _parts(node)]
    if isinstance(node, ast.Call):
        named = dict(zip([key.arg or "" for key in node.keywords], parts[len(node.args) :], strict=True))
        return FUNCTIONS[_name(node)](*parts[: len(node.args)], **named)
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](parts)
    if isinstance(node, ast.Dict):
        half = len(parts) // 2
        return dict(zip(parts[:half], parts[half:], strict=True))
    if isinstance(node, ast.BoolOp):
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if isinstance(node, ast.Compare):
        pairs = zip(node.ops, parts, parts[1:], strict=False)
        return all(OPERATORS[type(kind)](first, second) for kind, first, second in pairs)
    if isinstance(node, ast.Subscript):
        return parts[0][parts[1]]
    (kind,) = _operators(node)
    return OPERATORS[type(kind)](*parts)


def _value(given: Any) -> Any:
    """What a call gave, from the data in which it came; a ValueError when it gave nothing."""
    if not isinstance(given, list) or len(given) != 1:
        raise ValueError("gave nothing")
    return _decoded(given[0])


def _decoded(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    ((kind, items),) = data.items()
    if kind == "dict":
        return {_decoded(key): _decoded(item) for key, item in items}
    return {"list": list, "tuple": tuple, "set": set}[kind](map(_decoded, items))


def _as_json(value: Any) -> Any:
    """A value as a JSON file would hold it: a tuple is a list there, a set a sorted one, a key text."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else json.dumps(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(_as_json, value))
    return [_as_json(item) for item in value] if isinstance(value, (list, tuple)) else value
