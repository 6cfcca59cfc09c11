# SPDX-License-Identifier: Apache-2.0
"""What the kernel package's Python layer does, read from its source.

The source is parsed and not executed: it may be that of a wheel from anywhere, and
needs no torch. The tests run it and compare.
"""

import ast
import contextlib
from typing import NamedTuple

REFUSED, FORWARDED, DROPPED = "refused", "forwarded", "dropped"
WRITES_OUT, RETURNS_ONLY, NO_FALLBACK = "writes out", "returns only", "none"
UNKNOWN = "unknown"

_FUNCTION, _OP = "flash_attn_varlen_func", "varlen_fwd"


class PythonLayer(NamedTuple):
    """What ``flash_attn_varlen_func`` does.

    Attributes:
        query_descale: With a `q_descale` that is not None: `REFUSED` (raises),
            `FORWARDED` (hands it to the op), `DROPPED` (computes without it) or
            `UNKNOWN`.
        fallback: Where no kernel is compiled, with a caller's `out`: `WRITES_OUT`,
            `RETURNS_ONLY` (leaves it as it was), `NO_FALLBACK` (raises) or `UNKNOWN`.

    """

    query_descale: str
    fallback: str


def examine(source: str) -> PythonLayer:
    """Return what the source of a flash_attn_interface.py does."""
    # ValueError for a NUL byte, the last two for nesting without end.
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and node.name == _FUNCTION:
                return PythonLayer(_query_descale(node), _fallback(node))
    return PythonLayer(UNKNOWN, UNKNOWN)


def _query_descale(function: ast.FunctionDef) -> str:
    arguments = function.args.args + function.args.kwonlyargs
    if "q_descale" not in {a.arg for a in arguments}:
        return UNKNOWN
    for node in ast.walk(function):
        if (
            isinstance(node, ast.If)
            and ast.unparse(node.test) == "q_descale is not None"
            and any(isinstance(statement, ast.Raise) for statement in node.body)
        ):
            return REFUSED
    calls = _op_calls(function)
    if not calls:
        return UNKNOWN
    passed = [*calls[0].args, *(k.value for k in calls[0].keywords)]
    names = {a.id for a in passed if isinstance(a, ast.Name)}
    return FORWARDED if "q_descale" in names else DROPPED


def _fallback(function: ast.FunctionDef) -> str:
    if not _op_calls(function):
        return UNKNOWN
    for node in ast.walk(function):
        if isinstance(node, ast.Try) and any(map(_op_calls, node.body)):
            handlers = [n for h in node.handlers for n in ast.walk(h)]
            falls_back = any(
                isinstance(n, ast.Call) and "fallback" in ast.unparse(n.func)
                for n in handlers
            )
            if not falls_back:
                return NO_FALLBACK
            writes = any(map(_writes_out, handlers))
            return WRITES_OUT if writes else RETURNS_ONLY
    return NO_FALLBACK


def _writes_out(node: ast.AST) -> bool:
    """Return whether a statement writes into the tensor `out`."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "out.copy_" or any(
            k.arg == "out" and ast.unparse(k.value) == "out" for k in node.keywords
        )
    return isinstance(node, ast.Assign) and any(
        isinstance(t, ast.Subscript) and ast.unparse(t.value) == "out"
        for t in node.targets
    )


def _op_calls(node: ast.AST) -> list[ast.Call]:
    return [
        n
        for n in ast.walk(node)
        if isinstance(n, ast.Call)
        and isinstance(n.func, ast.Attribute)
        and n.func.attr == _OP
    ]
