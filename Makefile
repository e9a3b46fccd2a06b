# Every target does its own set-up in .venv with pip; nothing else has to be installed first.
PYTHON ?= python3
BIN := .venv/bin
# The pair that the tests prove; pyproject.toml declares the range.
TORCH ?= torch==2.14.1 torchvision==0.29.1
# Test processes of one thread each.
WORKERS ?= auto
# Those of the devices mostly wait: for links that break, and for a device that notices.
DEVICE_WORKERS ?= 2

# Extras that `make test-backends` installs; `make test-backends BACKENDS=openvino,executorch,litert,ncnn` for more.
BACKENDS ?= openvino,executorch

CIFAR10 ?= benchmarks/.data/cifar10

export ORT_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Hundreds of processes start in the tests: each would compile edgekd, and each worker all tests, again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-runs test-devices test-backends lint bench bench-distill docs clean setup

demo: .venv/ready ## one recipe from a teacher to a gated artifact
	$(BIN)/edgekd run quickstart

test: .venv/ready lint ## everything that must hold
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# What takes minutes of whole runs: apart, so that `make test` stays one that is run often.
test-runs: .venv/ready ## recipes from beginning to end: killed, interrupted, resumed, shared by processes
	$(BIN)/python -m pytest -q -m runs -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Files run side by side: each has servers, namespaces and queues of its own.
test-devices: .venv/ready ## real sshd, adbd, cables and emulated boards; says at the end what could not run
	$(BIN)/python -m pytest -q -m devices -n $(DEVICE_WORKERS) --dist loadfile --no-loadscope-reorder tests/devices

# The runtimes of the further backends are installed by this target alone: nothing else needs them.
test-backends: .venv/backends-$(BACKENDS) ## export, run and compare in OpenVINO and ExecuTorch
	$(BIN)/python -m pytest -q -m backends -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/backends tests/pipeline

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/ready ## measure and append evidence to benchmarks/
	$(BIN)/python benchmarks/run_all.py

# The yardstick, torchdistill, is installed beside the environment: nothing of edgekd needs it.
bench-distill: .venv/ready ## training speed beside torchdistill's loop (EDGEKD_DATA=folder or CIFAR10=folder)
	test -d $(CIFAR10) || $(BIN)/python benchmarks/prepare_cifar10.py $(EDGEKD_DATA)/cifar10-lossless $(CIFAR10)
	$(BIN)/pip install --quiet --no-deps --upgrade --target benchmarks/.torchdistill torchdistill==1.1.5
	$(BIN)/python benchmarks/distill_speed.py --data $(CIFAR10) --torchdistill benchmarks/.torchdistill

docs: .venv/ready ## docs/methods.md from the methods' cards; the tables of docs/does-it-teach.md from the evidence
	$(BIN)/python docs/generate_methods.py
	$(BIN)/python benchmarks/write_tables.py

setup: .venv/ready

# torch and torchvision are named first and together: they are built as a pair.
.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "edgekd needs Python 3.11 or newer"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

.venv/backends-%: .venv/ready
	$(BIN)/pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv .edgekd build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
