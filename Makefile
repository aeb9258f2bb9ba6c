# `make demo` and `make test` need git, make, python3 and the package registries, nothing else.

PYTHON ?= python3
VENV ?= .venv
OUT ?= out
# What the demo measures; CI shortens it.
DEMO_IMAGES ?= 1000
DEMO_ROUNDS ?= 40
PYTEST_FLAGS ?= -n 2
# NVIDIA ModelOpt's environment: its packages clash with ours.
CROSS_VENV ?= .venv-crosscheck
CROSS_FLAGS ?=

BIN := $(VENV)/bin
DIGITS := examples/digits
PACKAGES := fpet_export calibration engines benchmarks

.PHONY: help demo test test-slow test-arm64 crosscheck pictures lint types imports format clean

help:
	@echo "make demo       export, build, verify and measure the example run, then a full-size ViT-B/16"
	@echo "make test       lint, types, import rules and tests"
	@echo "make test-slow  the tests, with those that take longer than ten seconds"
	@echo "make test-arm64  the board agent on an emulated arm64 Debian (a quarter of an hour; as root, with apt)"
	@echo "make crosscheck  our INT8 and FP8 beside ONNX Runtime's and NVIDIA ModelOpt's (an hour)"
	@echo "make pictures   draw docs/merge.png anew, with the example run"
	@echo "make format     write the code as the formatter wants it"
	@echo "make clean      remove $(OUT)/ and the caches (the environment stays)"

demo: $(VENV)/.demo
	$(BIN)/fpet-export deploy $(DIGITS)/runs/lora --backbone $(DIGITS)/backbone.safetensors \
	  --target cpu,rtx --data $(DIGITS)/test.npz --limit $(DEMO_IMAGES) --rounds $(DEMO_ROUNDS) \
	  -o $(OUT)/digits --force
	@echo
	@echo "The same in INT8, calibrated on other images, promised to lose half a point at most."
	$(BIN)/fpet-export deploy $(DIGITS)/runs/lora --backbone $(DIGITS)/backbone.safetensors \
	  --target cpu,rtx --precision int8 --calibration $(DIGITS)/calibration.npz --images 64 --max-drop 0.5 \
	  --data $(DIGITS)/test.npz --limit $(DEMO_IMAGES) --rounds $(DEMO_ROUNDS) -o $(OUT)/digits-int8 --force
	@echo
	@echo "A full-size ViT-B/16 with random weights: its classes mean nothing, its latency does."
	$(BIN)/fpet-export deploy random:vit_base_patch16_224:0 --method lora --merge-block 6 \
	  --target cpu,rtx --limit 4 --rounds $(DEMO_ROUNDS) -o $(OUT)/vit-b --force
	@echo
	@echo "Open $(OUT)/digits/report.html, $(OUT)/digits-int8/report.html and $(OUT)/vit-b/report.html."

# The result goes to $(OUT)/; `CROSS_FLAGS="-o benchmarks/results/crosscheck.json --force"` renews
# the committed one.
crosscheck: $(VENV)/.test $(CROSS_VENV)/.ready
	$(BIN)/python -m benchmarks.crosscheck run --modelopt-python $(CROSS_VENV)/bin/python \
	  --work $(OUT)/crosscheck -o $(OUT)/crosscheck.json $(CROSS_FLAGS)

test: lint types imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

test-slow: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS) --slow

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

# Debian keeps venv in a package of its own.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); apt-get update -qq && \
	  apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); }

$(CROSS_VENV)/bin/python: | $(VENV)/bin/python
	$(PYTHON) -m venv $(CROSS_VENV)

$(CROSS_VENV)/.ready: benchmarks/crosscheck/requirements.txt | $(CROSS_VENV)/bin/python
	$(CROSS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[export,cpu,rtx,report]'
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -e '.[export,cpu,rtx,report,openvino,dev]'
	@{ command -v sshd || test -x /usr/sbin/sshd; } > /dev/null || { apt-get update -qq && \
	  apt-get install -y -qq openssh-server; } || echo "no sshd: the tests of --remote are skipped"
	touch $(VENV)/.demo $@
