# SPDX-License-Identifier: Apache-2.0
"""The command `vllm-xpu-fp8 doctor`: what it prints, and its exit status."""

import json
import re
import struct
from pathlib import Path

import jsonschema
import pytest
import torch
import transformers

from tests.doctor.packages import installed_vllm, kernel_package, once
from vllm_xpu_fp8_plugin.cli import doctor, main
from vllm_xpu_fp8_plugin.doctor.attention_layers import attention_layers
from vllm_xpu_fp8_plugin.doctor.checks import kernels, model
from vllm_xpu_fp8_plugin.doctor.model_files import read_model
from vllm_xpu_fp8_plugin.doctor.model_setup import Backend, ModelSetup
from vllm_xpu_fp8_plugin.doctor.report import Report, Section
from vllm_xpu_fp8_plugin.doctor.run_checks import Request, run_checks
from vllm_xpu_fp8_plugin.kernel_package import python_layer

DOCS = Path(__file__).parent.parent.parent / "docs"
SCHEMA = json.loads((DOCS / "doctor.schema.json").read_text())
SECTIONS = ["Activation", "vLLM", "Kernels", "Model", "Hardware"]


@pytest.fixture(scope="module")
def report(minilm: str, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Return the report on a real model on a virtual XPU."""
    request = Request(minilm, "fp8", "fp8")
    made: Report = once(tmp_path_factory, "report", lambda: run_checks(request))
    return made


@pytest.fixture
def given(report: Report, monkeypatch: pytest.MonkeyPatch) -> Report:
    """Make the command print `report`."""
    monkeypatch.setattr(doctor, "run_checks", lambda request: report)
    return report


@pytest.mark.slow
def test_json_is_as_documented(
    given: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a field that programs read and that was renamed, or is new."""
    assert main(["doctor", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    jsonschema.validate(printed, SCHEMA)
    assert [section["name"] for section in printed["sections"]] == SECTIONS


@pytest.mark.slow
def test_a_real_model_is_found_sound(given: Report, minilm: str) -> None:
    """Catches a wrong answer for the model that the whole suite runs."""
    checks = {c.name: c for s in given.sections for c in s.checks}
    assert checks["platform"].finding == "vLLM resolves VirtualXPUPlatform"
    attention = checks["attention"].data or {}
    assert (attention["layers"], attention["head_size"]) == (6, 32)
    assert attention["verdict"] == "compiled kernel"
    assert (checks["backend"].data or {})["with_plugin"] == [
        "vllm_xpu_fp8_plugin.attention.XPUFp8AttentionBackend"
    ]
    # The figure that vLLM gives for it.
    assert "10.6 M values" in checks["linear"].finding
    assert "means nothing to encoder layers" in checks["kv_cache"].finding
    ops = checks["virtual_xpu"].data or {}
    assert ops["_C::rms_norm"] == {"runs": "compiled", "reason": ""}
    assert ops["_vllm_fa2_C::varlen_fwd"]["runs"] == "reference"
    assert ops["_xpu_C::fp4_gemm"]["runs"] == "reference"
    assert checks["command"].finding == (
        f"VLLM_XPU_FP8_PLUGIN=1 vllm serve {minilm} --quantization fp8 --runner pooling"
    )


@pytest.mark.slow
def test_piped_output_fits_80_columns_without_colour(
    given: Report,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches colour codes in a pipe, and lines that a terminal breaks."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = [x for x in out.splitlines() if " vllm serve " not in x]
    assert max(map(len, lines)) <= 80
    assert out.index("Activation\n") < out.index("vLLM\n") < out.index("Kernels\n")
    for section in given.sections:
        for check in section.checks:
            words = re.escape(" ".join(check.finding.split())).replace(r"\ ", r"\s+")
            assert re.search(words, out), check.finding


def modernbert(folder: Path) -> Path:
    """Write ModernBERT's config and header; the weights are a hole in the file."""
    config = transformers.ModernBertConfig(num_labels=1)
    config.architectures = ["ModernBertForSequenceClassification"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = transformers.ModernBertForSequenceClassification(config)
    header, end = {}, 0
    for name, tensor in model.state_dict().items():
        start, end = end, end + 4 * tensor.numel()
        offsets = [start, end]
        shape = list(tensor.shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


def test_page_shows_what_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a transcript in docs/doctor.md that the command no longer prints."""
    monkeypatch.delenv("COLUMNS", raising=False)
    package = kernel_package("0.1.13.2")
    layer = python_layer.examine(package.interface)
    files = read_model(str(modernbert(tmp_path)))
    files = files._replace(name="answerdotai/ModernBERT-base")
    flash = "FlashAttentionBackend"
    setup = ModelSetup(
        files,
        attention_layers(files.config),
        [Backend(flash, "XPUFp8AttentionBackend", None)] * 2,
        "fp8",
        None,
        package.compiled["xe2"],
        layer,
        plugin=False,
        vllm=installed_vllm(),
        refuses_fp8_kv_cache=True,
    )
    kernel_checks = kernels.check(package, layer, "xe2", None, None)
    sections = [
        Section("Kernels", kernel_checks),
        Section("Model", model.check(setup)),
    ]
    shown = Report(sections)
    monkeypatch.setattr(doctor, "run_checks", lambda request: shown)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    page = (DOCS / "doctor.md").read_text()
    assert printed.partition("\n\n1 problem")[0] in page
    # What it found leads on to the kernels.
    assert printed.endswith(":\nvllm-xpu-fp8 check\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "/no/such/model"], "/no/such/model"),
        (["--model", str(DOCS)], r"config\.json"),
        (["--kernels", str(DOCS / "doctor.schema.json")], r"doctor\.schema\.json"),
        (["--kernels", str(DOCS)], "flash_attn_interface"),
        (["--quantization", "fp9"], "fp8_per_tensor"),
        (["--kv-cache-dtype", "fp9"], "fp8_e4m3"),
    ],
)
def test_what_cannot_run_ends_with_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback, or a report, for an argument that makes no sense."""
    assert main(["doctor", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(named, captured.err)
    assert len(captured.err.splitlines()) == 1


def test_an_architecture_that_is_none_ends_with_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a typing error answered with "nothing is compiled"."""
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--arch", "xe9"])
    assert stopped.value.code == 2
    assert "xe2" in capsys.readouterr().err


def test_reference_names_every_check() -> None:
    """Catches a check that docs/doctor.md does not explain."""
    reference = (DOCS / "doctor.md").read_text()
    for section in SCHEMA["$defs"]["section"]["allOf"]:
        checks = section["then"]["properties"]["checks"]["items"]["oneOf"]
        for check in checks:
            assert f"`{check['properties']['name']['const']}`" in reference
    for word in [
        *SCHEMA["$defs"]["status"]["enum"],
        *SCHEMA["$defs"]["verdict"]["enum"],
    ]:
        assert word in reference
