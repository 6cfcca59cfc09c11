# SPDX-License-Identifier: Apache-2.0
"""Changes lines of the package one at a time and counts which the tests miss.

``python -m tests.mutants [MODULE ...]`` runs cosmic-ray on a copy of the checkout, each
module with the tests in `TESTS` alone, and prints what survived. It ends with 1 where
fewer than 90 % were killed or a survivor has no reason in ``mutants.json``.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "vllm_xpu_fp8_plugin"
_LEAST = 0.9
_SECONDS = 300.0

_VERIFY = "tests/verify/test"
_ON_SCORES = f"{_VERIFY}_verdict_on_scores.py"

# Module -> the tests that must see a change of it.
TESTS = {
    "activation": ["tests/test_activation_reasons.py", "tests/test_activation.py"],
    "attention": ["tests/test_attention.py", "tests/test_attention_refusals.py"],
    "compat": ["tests/test_compat.py"],
    "platform": ["tests/test_platform.py"],
    "verify/generation": [f"{_VERIFY}_generation.py", f"{_VERIFY}_verdict.py"],
    "verify/verdict": [f"{_VERIFY}_verdict.py", f"{_VERIFY}_report.py"],
    "verify/pooling": [f"{_VERIFY}_pooling.py", _ON_SCORES],
    # Of these pooling and generation have their arithmetic.
    "verify/lengths": [f"{_VERIFY}_lengths.py", f"{_VERIFY}_docs.py"],
    "verify/rankings": [f"{_VERIFY}_rankings.py", _ON_SCORES],
    "verify/rank_statistics": [f"{_VERIFY}_rank_statistics.py"],
    "verify/spread": [f"{_VERIFY}_spread.py"],
}

# One replacement for each operator says as much as eleven. `|` stands in annotations,
# where nothing runs.
_LEFT_OUT = [
    "core/ReplaceBinaryOperator_BitOr_.*",
    "core/ReplaceBinaryOperator_(?!Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Div|Mod_Add"
    "|Pow_Mul|MatMul_Mul|BitAnd_BitOr).*",
    "core/ReplaceComparisonOperator_(?!Eq_NotEq|NotEq_Eq|Lt_LtE|Lt_Gt|LtE_Lt|LtE_GtE"
    "|Gt_GtE|Gt_Lt|GtE_Gt|GtE_LtE|Is_IsNot|IsNot_Is).*",
    "core/VariableReplacer",
    "core/VariableInserter",
]


def run(module: str) -> tuple[int, list[str]]:
    """Return how many changes of a module were tried, and diffs of those not seen."""
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp)
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(
            listed, cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for name in files.splitlines():
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
        if (ROOT / ".models").exists():
            (copy / ".models").symlink_to(ROOT / ".models")
        tests = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        tests += [t for t in TESTS[module] if (ROOT / t).exists()]
        config = copy / "cosmic-ray.toml"
        left_out = ",\n".join(f"    '{pattern}'" for pattern in _LEFT_OUT)
        config.write_text(
            f"""
[cosmic-ray]
module-path = "{PACKAGE}/{module}.py"
timeout = {_SECONDS}
excluded-modules = []
test-command = "{shlex.join(tests)}"
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = [
{left_out}
]
"""
        )
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        session = copy / "session.sqlite"
        tool = Path(sys.executable).parent
        for command in (
            ["cosmic-ray", "init", config, session],
            ["cr-filter-operators", session, config],
            ["cosmic-ray", "baseline", config],
            ["cosmic-ray", "exec", config, session],
        ):
            # Its progress goes nowhere; what failed raises.
            subprocess.run(
                [tool / command[0], *command[1:]],
                cwd=copy,
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        return _outcomes(session)


def _outcomes(session: Path) -> tuple[int, list[str]]:
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome

    with use_db(session, WorkDB.Mode.open) as database:
        done = [
            result
            for _, result in database.results
            if result.worker_outcome is not WorkerOutcome.SKIPPED
        ]
    # A change that ends in anything but passing tests was seen.
    survived = [r.diff for r in done if r.test_outcome is TestOutcome.SURVIVED]
    return len(done), sorted(survived)


def changed(diff: str) -> tuple[str, str]:
    """Return the line before and after, without its indentation."""
    lines = diff.splitlines()
    old = [x[1:].strip() for x in lines if x[:1] == "-" and x[:3] != "---"]
    new = [x[1:].strip() for x in lines if x[:1] == "+" and x[:3] != "+++"]
    return " ".join(old), " ".join(new)


def _main(modules: list[str]) -> int:
    """Run the modules, two at a time, and report."""
    known = json.loads((Path(__file__).parent / "mutants.json").read_text())
    reasons = {(x["old"], x["new"]): x["reason"] for x in known}
    failed = False
    with ThreadPoolExecutor(int(os.environ.get("MUTANTS_AT_ONCE", "2"))) as pool:
        for module, (tried, survived) in zip(
            modules, pool.map(run, modules), strict=True
        ):
            share = 1 - len(survived) / tried
            print(f"{module}: {tried} changes, {share:.1%} seen", flush=True)
            failed |= share < _LEAST
            for old, new in map(changed, survived):
                reason = reasons.get((old, new), "")
                failed |= not reason
                print(f"  - {old}\n  + {new}\n    {reason or 'NO REASON GIVEN'}")
    return int(failed)


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(TESTS)
    if unknown:
        sys.exit(f"no such module: {sorted(unknown)}. There are: {', '.join(TESTS)}")
    sys.exit(_main(sys.argv[1:] or list(TESTS)))
