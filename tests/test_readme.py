# SPDX-License-Identifier: Apache-2.0
"""README.md says what is true."""

import ast
import re
from pathlib import Path

import pytest

from vllm_xpu_fp8_plugin import envs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

# The test that runs each command, with a model of this suite for one from a hub.
RUN_BY = {
    "pip install .": "packaging::test_installed_wheel_is_found_by_vllm",
    "VLLM_XPU_FP8_PLUGIN=1 vllm serve BAAI/bge-reranker-large --quantization fp8 "
    "--runner pooling": "activation::test_on_with_a_gpu_hands_out_the_platform",
    "make rerank": "examples::test_rerank_ranks_the_right_passage_first",
    "python examples/rerank.py --model BAAI/bge-reranker-large "
    '--query "What is FP8?" --documents documents.jsonl': (
        "examples::test_rerank_takes_query_and_documents"
    ),
    "examples/serve.sh": "examples::test_server_answers_bad_requests_with_a_4xx",
    "python examples/client.py --url http://localhost:8000": (
        "examples::test_cohere_client_gets_a_ranking_from_the_server"
    ),
    "pip install --no-deps vllm-xpu-kernels==0.1.14.1": (
        "activation::test_emulate_without_the_kernel_package_names_the_pip_command"
    ),
    "pip install '.[emulation]'": (
        "packaging::test_metadata_asks_for_neither_vllm_nor_torch"
    ),
    "vllm-xpu-fp8 run -- python my_xpu_script.py": (
        "run::test_a_script_and_what_it_starts_see_xpus"
    ),
    "vllm-xpu-fp8 run -- pytest tests/test_fp8_quant.py": (
        "run::test_pytest_runs_on_a_device_of_the_tests_own"
    ),
    "VLLM_XPU_FP8_PLUGIN=emulate vllm serve BAAI/bge-reranker-large "
    "--quantization fp8 --runner pooling": (
        "examples::test_cohere_client_gets_a_ranking_from_the_server"
    ),
    "vllm-xpu-fp8 doctor --model answerdotai/ModernBERT-base --quantization fp8": (
        "doctor/command::test_readme_shows_what_is_printed"
    ),
    "vllm-xpu-fp8 verify --model BAAI/bge-reranker-large": (
        "verify/command::test_sound_reranker_passes_in_ci"
    ),
    "examples/verify_in_ci.sh BAAI/bge-reranker-large --data passages.jsonl": (
        "verify/command::test_sound_reranker_passes_in_ci"
    ),
    "vllm-xpu-fp8 check --model BAAI/bge-reranker-large -- --quantization fp8": (
        "check/command::test_calls_of_a_model_pass"
    ),
    "vllm-xpu-fp8 check --ops '*norm*'": (
        "check/command::test_readme_shows_what_is_printed"
    ),
    "make test": "packaging::test_ci_runs_make_test",
    "python benchmarks/encoder_dispatch.py": (
        "benchmarks::test_encoder_dispatch_is_at_least_eight_times_cheaper"
    ),
    "python benchmarks/startup.py": (
        "benchmarks::test_off_costs_less_than_a_millisecond"
    ),
    "python benchmarks/virtual_gpu.py": (
        "benchmarks::test_compiled_kernels_keep_up_with_pytorch"
    ),
    "python benchmarks/throughput.py": (
        "benchmarks::test_fp8_keeps_up_with_transformers"
    ),
}


def commands() -> list[str]:
    """Return the commands in README's bash blocks and its table of figures."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^\| `(python [^`]*)`", README, re.MULTILINE)
    return lines


def test_every_command_is_run_by_a_test() -> None:
    """Catches a command in README that nothing runs, and a test that is gone."""
    assert set(commands()) == set(RUN_BY)
    for target in RUN_BY.values():
        file, name = target.split("::")
        folder, _, subject = file.rpartition("/")
        path = ROOT / "tests" / folder / f"test_{subject}.py"
        tree = ast.parse(path.read_text())
        names = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        assert name in names, target


def test_files_named_in_commands_exist() -> None:
    """Catches a script that was renamed."""
    named = {
        word
        for command in commands()
        for word in command.split()
        if re.match(r"(examples|benchmarks)/", word)
    }
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name


def test_table_of_environment_variables_is_the_generated_one() -> None:
    """Catches a table that no longer agrees with envs.py."""
    match = re.search(r"<!-- envs -->\n(.*?)\n<!-- /envs -->", README, re.DOTALL)
    assert match
    assert match[1] == envs.markdown_table()


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md", "docs/verify.md"])
def test_documents_stay_sober(document: str) -> None:
    """Catches exclamation marks, and paths or hosts of one machine."""
    text = re.sub(r"<!--.*?-->", "", (ROOT / document).read_text())
    assert not re.search(r"!(?!\[)", text), "but for pictures"
    assert not re.search(r"/(work|root|home|tmp)/", text)
