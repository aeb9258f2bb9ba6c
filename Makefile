# `make demo` and `make test` need git, make, python3 and the package registries, nothing else.

PYTHON ?= python3
VENV ?= .venv
OUT ?= out
# What the demo measures; CI shortens it.
DEMO_IMAGES ?= 1000
DEMO_ROUNDS ?= 40
# Tests of one file share what they export: a worker takes whole files. Some tests wait (for an sshd,
# for the clock of a measurement): a third worker uses that time of two cores.
PYTEST_FLAGS ?= -n 3 --dist loadfile
# NVIDIA ModelOpt's environment: its packages clash with ours.
CROSS_VENV ?= .venv-crosscheck
CROSS_FLAGS ?=
# transformers has an environment of its own, so that the toolkit is tested without it.
HF_VENV ?= .venv-transformers
HF_MODELS := tests/references/hf_models

BIN := $(VENV)/bin
PIP := -m pip install --disable-pip-version-check --no-input --progress-bar off
# What a fresh environment takes, as measured on Debian 12 with Python 3.11.
DEMO_SIZE := 3.0 GB are downloaded, 6.1 GB on disk
TEST_SIZE := 3.1 GB are downloaded, 6.5 GB on disk
DIGITS := examples/digits
PACKAGES := fpet_export calibration engines benchmarks

.PHONY: help demo test test-slow test-arm64 crosscheck crosscheck-models pictures architecture lint types imports format clean

help:
	@echo "make demo        deploy the example run, then a full-size ViT-B/16:"
	@echo "                 about 5 minutes, and once 6 GB of packages into $(VENV)/"
	@echo "make test        lint, types, import rules and tests, on two cores"
	@echo "make test-slow   the tests, with those that take longer than ten seconds"
	@echo "make test-arm64  the board agent on an emulated arm64 Debian"
	@echo "                 (a quarter of an hour, as root, with apt)"
	@echo "make crosscheck  our INT8 and FP8 beside other tools' (an hour)"
	@echo "make crosscheck-models  models of transformers beside the library's own logits"
	@echo "                 (part of crosscheck; two minutes)"
	@echo "make pictures    draw docs/merge.png anew, with the example run"
	@echo "make architecture  draw docs/architecture.svg anew, from the imports"
	@echo "make format      write the code as the formatter wants it"
	@echo "make clean       remove $(OUT)/ and the caches (the environment stays)"

demo: $(VENV)/.demo
	$(BIN)/python -m examples.demo -o $(OUT) --images $(DEMO_IMAGES) --rounds $(DEMO_ROUNDS)

# The result goes to $(OUT)/; `CROSS_FLAGS="-o benchmarks/results/crosscheck.json --force"` renews
# the committed one.
crosscheck: $(VENV)/.test $(CROSS_VENV)/.ready crosscheck-models
	$(BIN)/python -m benchmarks.experiments.crosscheck run --modelopt-python $(CROSS_VENV)/bin/python \
	  --work $(OUT)/crosscheck -o $(OUT)/crosscheck.json $(CROSS_FLAGS)

# The committed models were written so: `.venv-transformers/bin/python HF_MODELS/write.py FOLDER`.
crosscheck-models: $(VENV)/.test $(HF_VENV)/.ready
	$(HF_VENV)/bin/python $(HF_MODELS)/write.py $(OUT)/hf_models --seed 1
	$(BIN)/python -m $(subst /,.,$(HF_MODELS)).compare $(OUT)/hf_models

# Hundreds of processes start in the tests: they find the code compiled, whatever a container says.
test: lint types imports
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

test-slow: $(VENV)/.test
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS) --slow

# The root stays in $(OUT)/arm64 for the next time; what was measured is in results.xml beside it.
test-arm64: $(VENV)/.test
	$(BIN)/python -m tests.arm64.root $(OUT)/arm64
	$(BIN)/python -m pytest tests/arm64 --arm64 $(OUT)/arm64/root \
	  -o junit_family=xunit1 --junitxml $(OUT)/arm64/results.xml

# The picture of the README: a digit of the example set (its licence: examples/digits/README.md).
pictures: $(VENV)/.demo
	$(BIN)/fpet-export export $(DIGITS)/runs/lora --backbone $(DIGITS)/backbone.safetensors --limit 2 \
	  -o $(OUT)/pictures --force
	$(BIN)/fpet-export show $(OUT)/pictures/model.onnx $(DIGITS)/images/test_009_six.png \
	  -o docs/merge.png --force

# The picture of docs/architecture.md: run it after a folder or an import between folders is new.
architecture: $(VENV)/.test
	$(BIN)/python -m docs.draw_architecture

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

imports: $(VENV)/.test
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(OUT) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Debian keeps venv in a package of its own, which only root can install.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than 3.10: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) > $(VENV).log 2>&1 && rm -f $(VENV).log || { rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    echo "this python3 cannot make environments: apt-get install python3-venv, as root"; \
	    rm -f $(VENV).log; \
	    apt-get update -qq && apt-get install -y -qq python3-venv > /dev/null && $(PYTHON) -m venv $(VENV); \
	  else \
	    cat $(VENV).log; rm -f $(VENV).log; echo "install it once: sudo apt-get install python3-venv" >&2; exit 1; \
	  fi; }

$(CROSS_VENV)/bin/python: | $(VENV)/bin/python
	$(PYTHON) -m venv $(CROSS_VENV)

$(CROSS_VENV)/.ready: benchmarks/experiments/crosscheck/requirements.txt | $(CROSS_VENV)/bin/python
	$(CROSS_VENV)/bin/python .ci/with_progress.py "install ModelOpt's packages" $(CROSS_VENV)/pip.log \
	  $(CROSS_VENV)/bin/python $(PIP) -r $<
	touch $@

$(HF_VENV)/bin/python: | $(VENV)/bin/python
	$(PYTHON) -m venv $(HF_VENV)

$(HF_VENV)/.ready: $(HF_MODELS)/requirements.txt | $(HF_VENV)/bin/python
	$(HF_VENV)/bin/python .ci/with_progress.py "install transformers" $(HF_VENV)/pip.log \
	  $(HF_VENV)/bin/python $(PIP) -r $<
	touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV)/, once: $(DEMO_SIZE);"
	@echo "2 to 10 minutes, by the speed of the network and the disk."
	@$(BIN)/python .ci/with_progress.py "install packages" $(VENV)/pip.log \
	  $(BIN)/python $(PIP) -e '.[export,cpu,rtx,report]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV)/, once: $(TEST_SIZE);"
	@echo "2 to 10 minutes, by the speed of the network and the disk."
	@$(BIN)/python .ci/with_progress.py "install packages" $(VENV)/pip.log \
	  $(BIN)/python $(PIP) -e '.[export,cpu,rtx,report,openvino,sweep,dev]'
	@{ command -v sshd || test -x /usr/sbin/sshd; } > /dev/null || \
	  $(BIN)/python .ci/with_progress.py "unpack sshd into $(VENV)/sshd" $(VENV)/sshd.log \
	  .ci/unpack_sshd.sh $(VENV)/sshd || echo "no sshd: the tests of --remote are skipped"
	@touch $(VENV)/.demo $@
