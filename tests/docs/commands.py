# SPDX-License-Identifier: Apache-2.0
"""The commands of the documentation, and the test that runs each."""

import re
from pathlib import Path
from typing import NamedTuple

# The test that runs each command, with a model of this suite for one from a hub.
RUN_BY = {
    "pip install .": "packaging::test_installed_wheel_is_found_by_vllm",
    "VLLM_XPU_FP8_PLUGIN=1 vllm serve BAAI/bge-reranker-large --quantization fp8 "
    "--runner pooling": (
        "activation::test_a_gpu_host_serves_by_the_plugins_own_platform"
    ),
    "VLLM_XPU_FP8_PLUGIN=0 vllm serve BAAI/bge-reranker-large --quantization fp8 "
    "--runner pooling": "activation::test_off_says_so_and_leaves_vllm_alone",
    "VLLM_XPU_FP8_PLUGIN=1 VLLM_XPU_FP8_CHECK=refuse vllm serve "
    "BAAI/bge-reranker-large --quantization fp8 --runner pooling": (
        "check/model::test_guard_refuses_and_names_the_layer"
    ),
    "VLLM_XPU_FP8_PLUGIN=1 vllm serve BAAI/bge-reranker-large --quantization fp8 "
    "--runner pooling --tensor-parallel-size 2": (
        "parallel::test_two_workers_give_the_scores_of_one"
    ),
    "VLLM_XPU_FP8_PLUGIN=1 vllm serve BAAI/bge-reranker-large --quantization fp8 "
    "--runner pooling --data-parallel-size 2": (
        "serving/processes::test_two_engines_of_which_one_is_killed"
    ),
    **dict.fromkeys(
        (
            "ray start --head --port 6379 --num-gpus 1",
            "ray start --address HEAD:6379 --num-gpus 1",
            "VLLM_XPU_FP8_PLUGIN=1 vllm serve BAAI/bge-reranker-large --quantization "
            "fp8 --runner pooling --distributed-executor-backend ray "
            "--tensor-parallel-size 2",
            "VLLM_XPU_FP8_PLUGIN=1 vllm serve BAAI/bge-reranker-large --quantization "
            "fp8 --runner pooling --data-parallel-backend ray --data-parallel-size 2 "
            "--data-parallel-size-local 1 --api-server-count 1",
        ),
        "serving/hosts::test_a_server_on_two_hosts_and_one_that_goes",
    ),
    "make rerank": "examples::test_rerank_ranks_the_right_passage_first",
    "python examples/rerank.py --model BAAI/bge-reranker-large "
    '--query "What is FP8?" --documents documents.jsonl': (
        "examples::test_rerank_takes_query_and_documents"
    ),
    "examples/serve.sh": (
        "serving/server::test_answers_under_load_are_those_of_requests_sent_alone"
    ),
    "python examples/client.py --url http://localhost:8000": (
        "serving/server::test_cohere_client_gets_a_ranking_from_the_server"
    ),
    "python examples/ready.py --url http://localhost:8000 --record scores.json": (
        "serving/server::test_readiness_needs_the_recorded_scores"
    ),
    "python examples/ready.py --url http://localhost:8000 --expected scores.json": (
        "serving/server::test_readiness_needs_the_recorded_scores"
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
    "XPU_KERNEL_TEST_SCOPE=mini vllm-xpu-fp8 run -- pytest tests": (
        "run::test_pytest_runs_on_a_device_of_the_tests_own"
    ),
    "vllm-xpu-fp8 run -- gdb -q -batch -x fault.gdb --args python fault.py": (
        "docs/debug_kernel::test_gdb_names_the_kernel_that_faults"
    ),
    "vllm-xpu-fp8 run -- gdb -q -batch -x stop.gdb --args python stop.py": (
        "docs/debug_kernel::test_gdb_stops_in_a_kernel"
    ),
    "VLLM_XPU_FP8_PLUGIN=emulate vllm serve BAAI/bge-reranker-large "
    "--quantization fp8 --runner pooling": (
        "serving/server::test_cohere_client_gets_a_ranking_from_the_server"
    ),
    "vllm-xpu-fp8 doctor": (
        "doctor/command::test_piped_output_fits_80_columns_without_colour"
    ),
    "vllm-xpu-fp8 doctor --json": "doctor/command::test_json_is_as_documented",
    "vllm-xpu-fp8 doctor --model answerdotai/ModernBERT-base --quantization fp8": (
        "doctor/command::test_page_shows_what_is_printed"
    ),
    "vllm-xpu-fp8 doctor --model BAAI/bge-reranker-large --quantization fp8": (
        "doctor/command::test_a_real_model_is_found_sound"
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
        "check/command::test_page_shows_what_is_printed"
    ),
    "make test": "packaging::test_ci_runs_make_test",
    "make lint": "packaging::test_ci_runs_make_test",
    "make dist": "distributions::test_what_is_built_is_what_users_install",
    "make audit": "distributions::test_audit_says_where_it_could_not_ask",
    "make matrix": "matrix/runner::test_a_run_goes_on_where_it_stopped",
    "make kernel-tests CHECKOUT=DIR": "kernel_tests::test_a_report_is_counted",
    "make soak": "serving/report::test_every_bar_was_met",
    "make models": "more_models::test_kind_agrees_with_transformers",
    "make docs": "docs/site::test_site_builds_without_a_warning",
    "make reference": "docs/generated::test_page_holds_what_the_code_says",
    "pip uninstall vllm-xpu-fp8-plugin": (
        "distributions::test_installing_changes_no_other_package"
    ),
    "python benchmarks/encoder_dispatch.py": (
        "benchmarks::test_encoder_dispatch_is_at_least_eight_times_cheaper"
    ),
    "python benchmarks/startup.py": (
        "benchmarks::test_off_costs_less_than_a_millisecond"
    ),
    "python benchmarks/virtual_gpu.py": (
        "benchmarks::test_a_call_costs_microseconds_more_on_the_virtual_gpu"
    ),
    "python benchmarks/throughput.py": (
        "benchmarks::test_fp8_keeps_up_with_transformers"
    ),
}

_BLOCK = re.compile(r"^```bash(.*)\n((?:.*\n)*?)```$", re.MULTILINE)


class Command(NamedTuple):
    """A line of a bash block, or of a table whose first column has a program.

    Attributes:
        line: The command.
        title: What stands above the block, such as "Needs an Intel GPU".

    """

    line: str
    title: str


def commands(page: Path) -> list[Command]:
    """Return the commands of a page."""
    text = page.read_text()
    found = [
        Command(line, title)
        for title, lines in _BLOCK.findall(text)
        for line in lines.splitlines()
    ]
    for cell in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE):
        found += [
            Command(x, "") for x in re.findall(r"`((?:python|make) [^`]*)`", cell)
        ]
    return found
