# Everything runs in .venv, which the first target called makes. PYTHON makes it.
PYTHON ?= python3
BIN := .venv/bin
# What setup_env.sh leaves uncompiled, Python compiles when it is first imported.
unexport PYTHONDONTWRITEBYTECODE
TORCH := 2.13.0
VLLM := 0.32.0
# The last release whose Python layer refuses a query descale.
KERNELS := 0.1.14.1

.PHONY: rerank test models soak lint docs reference dist audit ends newest matrix kernel-tests mutants clean

rerank: .venv/ready
	@$(BIN)/python examples/rerank.py

# Those that run alone are in few modules, and only these are imported for them.
test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder \
		-m "not alone and not models and not soak"
	$(BIN)/python -m pytest -q -m alone $$(grep -rl --include='*.py' 'mark\.alone' tests)

# Architectures and formats beyond those of `make test`, an engine each.
models: .venv/dev
	$(BIN)/python -m pytest -q -n 2 --dist loadscope -m models

# A server under load, with clients and with bad input; then servers that break, of many
# processes and of two hosts.
soak: .venv/dev
	$(BIN)/python -m tests.serving
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m soak tests/serving

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror vllm_xpu_fp8_plugin/virtual_xpu/csrc/*
	$(BIN)/mypy -n 2
	$(BIN)/shellcheck setup_env.sh .ci/run $(wildcard examples/*.sh scripts/*.sh)
	PATH=$(BIN):$$PATH scripts/lint_workflows.sh

# The site, in build/site.
docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The parts of the documentation that are made from the code.
reference: .venv/dev
	$(BIN)/python -m tests.docs

# Wheel and sdist in dist/, as a release has them.
dist: .venv/dev
	PATH=$(BIN):$$PATH scripts/build_dist.sh dist

# Says so, and goes on, where the database cannot be reached (3).
audit: .venv/dev
	PATH=$(BIN):$$PATH scripts/audit.sh || [ $$? -eq 3 ]

# An hour or more, 16 GB in .matrix. It goes on where it stopped.
matrix: .venv/dev
	$(BIN)/python -m tests.matrix --rerank
	$(BIN)/python -m tests.matrix --docs

# The oldest and the newest vLLM that are supported, each with its own torch.
ends: .venv/dev
	$(BIN)/python -m tests.matrix --ends --rerank --output .matrix/ends

# The newest vLLM and kernels that there are, supported or not yet.
newest: .venv/dev
	env -u VLLM -u KERNELS PATH=$(BIN):$$PATH scripts/newest.sh

# CHECKOUT is a checkout of vllm-xpu-kernels, whose tests run unmodified; two hours, most
# of it attention's in PyTorch.
kernel-tests: .venv/dev
	$(BIN)/python -m tests.kernel_tests $(CHECKOUT)

# An hour or so; MODULE='verify/verdict platform' runs these alone.
mutants: .venv/dev
	$(BIN)/python -m pip install --quiet cosmic-ray
	$(BIN)/python -m tests.mutants $(MODULE)

.venv/ready: pyproject.toml Makefile setup_env.sh
	PYTHON=$(PYTHON) TORCH=$(TORCH) VLLM=$(VLLM) KERNELS=$(KERNELS) ./setup_env.sh
	@touch $@

# What `make rerank` does without.
.venv/dev: .venv/ready
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile \
		-e ".[test,plot,docs,release]"
	@touch $@

clean:
	rm -rf .venv .models .matrix build dist
