# SPDX-License-Identifier: Apache-2.0
"""Which attention paths of a vLLM hand the XPU kernel a query descale.

Found in vLLM's sources, which are parsed and not imported: that works without an
Intel GPU, without torch, and on a vLLM that does not import.
"""

import ast
from pathlib import Path
from typing import NamedTuple

ENCODER, FULL, CASCADE, DIFFKV = "encoder", "full", "cascade", "DiffKV"

NONE, PASSED, DROPPED, ABSENT, UNKNOWN = (
    "none",
    "passed",
    "dropped",
    "absent",
    "unknown",
)

_BACKENDS = "v1/attention/backends"
_KERNEL, _CASCADE = "flash_attn_varlen_func", "cascade_attention"
_FLAG = "supports_quant_query_input"
# On an XPU. Other conditions are not known.
_FACTS = {
    "is_xpu": True,
    "is_cuda": False,
    "is_rocm": False,
    "is_cpu": False,
    "is_device_capability_family": False,
}


class DescalePath(NamedTuple):
    """What one path does with the query descale on an XPU.

    Attributes:
        name: `ENCODER`, `FULL`, `CASCADE` or `DIFFKV`.
        state: `NONE` (the kernel gets no query descale), `PASSED`, `DROPPED` (it is
            passed, and vLLM's wrapper of the kernel leaves it out), `ABSENT` (this
            vLLM has no such path) or `UNKNOWN`.
        where: ``file:line`` of the call, empty if there is none.

    """

    name: str
    state: str
    where: str


class Paths(NamedTuple):
    """What the sources say.

    Attributes:
        paths: One for each name, in the order above.
        refuses_fp8_kv_cache: Does upstream's encoder attention raise where the KV
            cache is FP8 (vLLM #55048). None if there is no such method.

    """

    paths: tuple[DescalePath, ...]
    refuses_fp8_kv_cache: bool | None


def inspect(folder: Path) -> Paths:
    """Read the sources of a vLLM.

    Args:
        folder: The package's folder, which holds ``v1/`` and ``platforms/``.

    Raises:
        ValueError: It has no FlashAttention backend, or one that does not parse.

    """
    main = _parse(folder / _BACKENDS / "flash_attn.py")
    if main is None:
        raise ValueError(
            f"{folder} holds no {_BACKENDS}/flash_attn.py: this vLLM is too old, or "
            "newer than this plugin. vLLM 0.20 or newer is needed."
        )
    scope = _Scope(
        flag=_flag(main, _parse(folder / _BACKENDS / "fa_utils.py")),
        forwards=_wrapper_forwards(folder),
    )
    methods = _methods(main, "FlashAttentionImpl")
    forward = methods.get("forward")
    encoder = methods.get("_forward_encoder_attention")
    diffkv = _parse(folder / _BACKENDS / "flash_attn_diffkv.py")
    methods_diffkv = _methods(diffkv, "FlashAttentionDiffKVImpl") if diffkv else {}
    diffkv_forward = methods_diffkv.get("forward")
    full: list[ast.Call] = []
    cascade: list[ast.Call] = []
    for call in _calls(forward):
        name = ast.unparse(call.func)
        (cascade if name == _CASCADE else full).append(call)
    return Paths(
        (
            scope.examine(ENCODER, "flash_attn.py", encoder, _calls(encoder)),
            scope.examine(FULL, "flash_attn.py", forward, full),
            scope.examine(CASCADE, "flash_attn.py", forward, cascade),
            scope.examine(
                DIFFKV, "flash_attn_diffkv.py", diffkv_forward, _calls(diffkv_forward)
            ),
        ),
        None if encoder is None else _raises_for_fp8_kv_cache(encoder),
    )


class _Scope(NamedTuple):
    """What the calls depend on.

    Attributes:
        flag: Value of the impl's `supports_quant_query_input` on an XPU.
        forwards: Does vLLM's wrapper of the kernel hand a query descale on.

    """

    flag: bool | None
    forwards: bool | None

    def examine(
        self,
        name: str,
        file: str,
        method: ast.FunctionDef | None,
        calls: list[ast.Call],
    ) -> DescalePath:
        """Return the state of the worst of the method's calls."""
        found = [(self._state(method, call), call.lineno) for call in calls if method]
        for state in (PASSED, UNKNOWN, DROPPED, NONE):
            for call_state, line in found:
                if call_state == state:
                    return DescalePath(name, state, f"{file}:{line}")
        return DescalePath(name, ABSENT, "")

    def _state(self, method: ast.FunctionDef, call: ast.Call) -> str:
        for keyword in call.keywords:
            if keyword.arg == "q_descale":
                state = self._value(method, keyword.value, call.lineno)
                if state != PASSED or self.forwards:
                    return state
                return UNKNOWN if self.forwards is None else DROPPED
        return NONE

    def _value(self, method: ast.FunctionDef, value: ast.expr, before: int) -> str:
        """Return `NONE`, `PASSED` or `UNKNOWN` for an expression."""
        if isinstance(value, ast.Constant):
            return NONE if value.value is None else UNKNOWN
        if isinstance(value, ast.IfExp):
            test = _truth(value.test, self.flag)
            if test is None:
                return UNKNOWN
            return self._value(method, value.body if test else value.orelse, before)
        if isinstance(value, ast.Name):
            # A local variable; its last assignment above the call.
            assigned = [
                n
                for n in ast.walk(method)
                if isinstance(n, ast.Assign)
                and n.lineno < before
                and any(isinstance(t, ast.Name) and t.id == value.id for t in n.targets)
            ]
            if not assigned:
                return UNKNOWN
            last = max(assigned, key=lambda n: n.lineno)
            return self._value(method, last.value, last.lineno)
        return PASSED


def _truth(
    test: ast.expr, flag: bool | None, known: dict[str, ast.expr] | None = None
) -> bool | None:
    """Return the value of a condition on an XPU, None if it is not known.

    `known` are local variables that it may name.
    """
    known = known or {}
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.Name) and test.id in known:
        others = {name: v for name, v in known.items() if name != test.id}
        return _truth(known[test.id], flag, others)
    if isinstance(test, ast.Attribute) and test.attr == _FLAG:
        return flag
    if isinstance(test, ast.Call):
        called = test.func
        if isinstance(called, ast.Attribute):
            return _FACTS.get(called.attr)
        return flag if ast.unparse(called).endswith(_FLAG) else None
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        value = _truth(test.operand, flag, known)
        return None if value is None else not value
    if isinstance(test, ast.BoolOp):
        values = [_truth(v, flag, known) for v in test.values]
        decisive = isinstance(test.op, ast.Or)
        if decisive in values:
            return decisive
        return None if None in values else not decisive
    return None


def _flag(main: ast.Module, fa_utils: ast.Module | None) -> bool | None:
    """Return the impl's flag on an XPU.

    ``self.supports_quant_query_input = flash_attn_supports_quant_query_input() and …``
    """
    function = _functions(fa_utils.body if fa_utils else []).get(f"flash_attn_{_FLAG}")
    base = None if function is None else _returns(function.body)
    init = _methods(main, "FlashAttentionImpl").get("__init__")
    assignments = [
        (target, node.value)
        for node in (ast.walk(init) if init else ())
        if isinstance(node, ast.Assign)
        for target in node.targets
    ]
    known = {t.id: value for t, value in assignments if isinstance(t, ast.Name)}
    for target, value in assignments:
        if isinstance(target, ast.Attribute) and target.attr == _FLAG:
            return _truth(value, base, known)
    return None


def _returns(body: list[ast.stmt]) -> bool | None:
    """Return what a function of simple conditions returns on an XPU."""
    for statement in body:
        if isinstance(statement, ast.Return) and statement.value is not None:
            return _truth(statement.value, None)
        if isinstance(statement, ast.If):
            test = _truth(statement.test, None)
            if test is None:
                return None
            result = _returns(statement.body if test else statement.orelse)
            if result is not None:
                return result
    return None


def _wrapper_forwards(folder: Path) -> bool | None:
    """Return whether the wrapper hands q_descale on; IPEX's and old ones do not."""
    for name in ("_xpu_ops.py", "_ipex_ops.py"):
        tree = _parse(folder / name)
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.FunctionDef) and node.name == _KERNEL:
                return any(
                    isinstance(n, ast.Name) and n.id == "q_descale"
                    for call in ast.walk(node)
                    if isinstance(call, ast.Call)
                    for n in [*call.args, *(k.value for k in call.keywords)]
                )
    return None


def _raises_for_fp8_kv_cache(method: ast.FunctionDef) -> bool:
    return any(
        isinstance(node, ast.If)
        and "quantized_kv_cache" in ast.unparse(node.test)
        and any(isinstance(statement, ast.Raise) for statement in node.body)
        for node in ast.walk(method)
    )


def _parse(path: Path) -> ast.Module | None:
    """Return a file's syntax tree, None if there is no such file."""
    if not path.is_file():
        return None
    try:
        return ast.parse(path.read_text())
    except (SyntaxError, ValueError, OSError) as e:
        raise ValueError(f"{path} cannot be read: {e}. Reinstall vLLM.") from None


def _functions(body: list[ast.stmt]) -> dict[str, ast.FunctionDef]:
    return {n.name: n for n in body if isinstance(n, ast.FunctionDef)}


def _methods(tree: ast.Module, name: str) -> dict[str, ast.FunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _functions(node.body)
    return {}


def _calls(method: ast.FunctionDef | None) -> list[ast.Call]:
    """Return the calls that compute attention: of the kernel, or with a descale."""
    return [
        n
        for n in (ast.walk(method) if method else ())
        if isinstance(n, ast.Call)
        and (
            ast.unparse(n.func) == _KERNEL
            or any(k.arg == "q_descale" for k in n.keywords)
        )
    ]
