# One target for each thing a user does. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

RECIPE ?= recipes/digits.toml
DEVICE ?= cpu
VENV ?= .venv
# The first Python that works, of those that are supported; 3.11 is the one that is tested most.
PYTHON ?= $(shell for v in 3.11 3.12 3.13 3.10; do python$$v -c "" 2>/dev/null && echo python$$v && break; done)
# Another source of torch wheels, such as PyTorch's own index of CPU builds.
TORCH_INDEX ?=
# Environment of the libraries that benchmarks compare with.
PEER ?= .venv-peer
# Environment of ONNX Runtime with OpenVINO's provider, for its tests; it has wheels for x86-64 alone.
OPENVINO ?= .venv-openvino
OPENVINO_STAMP = $(if $(filter x86_64,$(shell uname -m)),$(OPENVINO)/.openvino)
# Environment with ONNX Runtime for CUDA and TensorRT-RTX; made only where the driver's tool is.
GPU ?= .venv-gpu
NVIDIA = $(shell command -v nvidia-smi)
# Rows of bench-pruning, such as "cifar" or "questions"; without it, all but the questions.
ROWS ?=
# Environment of the attacks that ours are compared with.
ATTACK_PEER ?= .venv-attack-peer
# Of bench: a deploy bundle. Of bench and run: the board that measures (this machine without it).
BUNDLE ?=
HOST ?=
# File of who may have signed: of bench, the bundle (without it, an unsigned one is taken); of release, its BASELINE.
TRUST ?=
# Of matrix and release: a file of boards. Of matrix: the recipes.
FLEET ?= fleet.toml
RECIPES ?= $(RECIPE)
# Of release: its version, the private key that signs, the folder or run of the last one, boards of FLEET beside the
# devices, and more arguments for its runs: RUN_ARGS for all, RUN_ARGS_rtx-4090 for those of that device or board.
VERSION ?=
KEY ?=
BASELINE ?=
BOARDS ?=
RUN_ARGS ?=
# Of test: processes side by side, one thread each; one more than processors, as tests wait for what they start.
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))
# More arguments for the command of the target, such as ARGS="--set seed=1".
ARGS ?=

# Where bytecode is not kept, every command compiles all of its libraries again: ten seconds and more.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
CONSTRAINTS = constraints/$(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])').txt
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint $(CONSTRAINTS)

RELEASE = $(BIN)/espalier release $(addprefix runs/$(VERSION)/,$(DEVICE) $(BOARDS)) --version $(VERSION) --key $(KEY) \
	$(if $(BASELINE),--baseline $(BASELINE)) $(if $(TRUST),--trust $(TRUST)) $(ARGS)
# One run of a release, on a line of its own: the first that fails ends it.
define run_to_release
$(BIN)/espalier run $(RECIPE) $(2) --out runs/$(VERSION)/$(1) $(RUN_ARGS) $(RUN_ARGS_$(1))

endef

.PHONY: help run release test coverage lint format devices bench-digits bench-cifar bench-pruning bench-architectures bench-search bench-prediction bench-attacks bench-robust-pruning bench-masking bench-square bench-cpu bench-board bench-harness bench-backdoors bench-edge-threats bench-trust bench matrix drill fuzz mutate gpu-check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-19s %s\n", $$1, $$2}'
	@echo "  Variables: RECIPE=$(RECIPE) DEVICE=$(DEVICE) ARGS= VENV=$(VENV) PYTHON=$(PYTHON) TORCH_INDEX="

run: $(VENV)/.compress $(if $(filter rtx-%,$(DEVICE)),$(VENV)/.rtx) ## run a recipe for a device: RECIPE=recipes/x.toml DEVICE=cpu, on a board with HOST=user@board
	$(BIN)/espalier run $(RECIPE) --device $(DEVICE) $(if $(HOST),--host $(HOST)) $(ARGS)

matrix: $(VENV)/.compress ## run recipes on all boards of a file: RECIPES="recipes/x.toml recipes/y.toml" FLEET=fleet.toml
	$(BIN)/espalier matrix $(RECIPES) --fleet $(FLEET) $(ARGS)

release: $(VENV)/.sign $(if $(filter rtx-%,$(DEVICE)),$(VENV)/.rtx) ## signed archives, notes and checksums in dist/: VERSION=1.0.0 KEY=release.key DEVICE="cpu rtx-4090" BOARDS=kitchen
	@test -n "$(VERSION)" -a -n "$(KEY)" || { echo 'Name both: make release VERSION=1.0.0 KEY=release.key DEVICE="cpu rtx-4090"'; exit 2; }
	$(RELEASE) --check
	$(foreach device,$(DEVICE),$(call run_to_release,$(device),--device $(device)))
	$(foreach board,$(BOARDS),$(call run_to_release,$(board),--fleet $(FLEET) --board $(board)))
	$(RELEASE)

test: lint $(OPENVINO_STAMP) ## lint, check types and run all tests
	$(if $(OPENVINO_STAMP),ESPALIER_OPENVINO_PYTHON=$(abspath $(OPENVINO))/bin/python )OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadscope --no-loadscope-reorder $(ARGS)

coverage: $(VENV)/.test ## lines and branches that the tests reach, also in build/coverage (all tests run, more slowly)
	@mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadscope --no-loadscope-reorder \
		--cov --cov-report=term:skip-covered --cov-report=html:build/coverage $(ARGS)

lint: $(VENV)/.test ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs reference
docs: $(VENV)/.test ## build the site of the documentation into build/site
	$(BIN)/python docs/generate.py --check
	$(BIN)/mkdocs build --strict

reference: $(VENV)/.compress ## write the schemas and the reference in docs/ again, from the code
	$(BIN)/python docs/generate.py

devices: $(VENV)/.compress ## list the devices
	$(BIN)/espalier devices list

bench: $(VENV)/.compress ## measure a bundle: BUNDLE=runs/digits-cpu/deploy, on a board with HOST=user@board DEVICE=name
	@test -n "$(BUNDLE)" || { echo "Name a bundle: make bench BUNDLE=runs/digits-cpu/deploy HOST=user@board DEVICE=cpu"; exit 2; }
	$(BIN)/espalier bench $(BUNDLE) --device $(DEVICE) $(if $(TRUST),--trust $(TRUST),--allow-unsigned) $(if $(HOST),--host $(HOST)) $(ARGS)

bench-digits: $(VENV)/.compress ## five folds of the digits recipe, pooled: the table in the docs (about five minutes)
	$(BIN)/python tests/benchmarks/digits.py $(ARGS)

bench-cifar: $(VENV)/.compress ## ResNet-20 on CIFAR-10: DATA=archive WEIGHTS=safetensors (about fifteen minutes)
	$(BIN)/espalier run recipes/cifar10-resnet20.toml --device $(DEVICE) \
		--set data.args.path=$(DATA) --set model.weights=$(WEIGHTS) $(ARGS)

bench-cpu: $(VENV)/.compress ## fastest engines on this CPU: DATA=archive WEIGHTS=safetensors (an hour; ResNet-50 alone without them)
	$(BIN)/python -m tests.benchmarks.cpu $(if $(DATA),--data $(DATA)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(ARGS)

bench-pruning: $(VENV)/.compress $(PEER)/.peer ## against Torch-Pruning: DATA=archive WEIGHTS=safetensors (about an hour)
	$(BIN)/python -m tests.benchmarks.pruning $(ROWS) --peer $(PEER)/bin/python \
		$(if $(DATA),--data $(DATA)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(ARGS)

bench-architectures: $(PEER)/.peer ## prune networks of transformers to half their channels (about ten minutes)
	PYTHONPATH=. $(PEER)/bin/python tests/benchmarks/architectures.py $(ARGS)

bench-masking: $(VENV)/.compress ## queries against gradients, FP32 and INT8, ResNet-20: DATA=archive WEIGHTS=safetensors
	$(BIN)/python tests/benchmarks/masking.py --data $(DATA) --weights $(WEIGHTS) $(ARGS)

bench-square: $(ATTACK_PEER)/.peer ## Square against torchattacks: DATA=archive WEIGHTS=safetensors
	PYTHONPATH=. $(ATTACK_PEER)/bin/python tests/benchmarks/square_peer.py --data $(DATA) --weights $(WEIGHTS) $(ARGS)

bench-edge-threats: $(VENV)/.compress ## patches, calibration, bit errors, membership on digits, before and after compression
	$(BIN)/python -m tests.benchmarks.edge_threats $(ARGS)

bench-search: $(VENV)/.search ## genetic search against random and uniform widths, and one worker against two
	$(BIN)/python tests/benchmarks/search.py $(ARGS)

bench-prediction: $(VENV)/.compress ## how far predictions are off on a device that was left out of the fit
	$(BIN)/python -m tests.benchmarks.prediction $(ARGS)

bench-attacks: $(ATTACK_PEER)/.peer ## our attacks against torchattacks and ART; also DATA=archive WEIGHTS=safetensors, ARGS="--samples 50"
	PYTHONPATH=. $(ATTACK_PEER)/bin/python tests/benchmarks/attacks.py \
		$(if $(DATA),--data $(DATA)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(ARGS)

bench-robust-pruning: $(VENV)/.compress ## criteria on a robust network: digits, or CIFAR-10 with DATA=archive WEIGHTS=safetensors
	$(BIN)/python -m tests.benchmarks.robust_pruning $(if $(DATA),--data $(DATA)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(ARGS)

bench-board: $(VENV)/.compress ## what a board over ssh costs: agent's file, detect, 25 MB to the first figure (needs sshd)
	$(BIN)/python -m tests.benchmarks.board $(ARGS)

bench-harness: $(VENV)/.compress ## the harness against itself and a bare loop, its cost, and that of telemetry (ten minutes)
	$(BIN)/python -m tests.benchmarks.harness $(ARGS)

bench-backdoors: $(VENV)/.compress ## planted backdoors: what the scan finds, what removal leaves (about half an hour)
	$(BIN)/python -m tests.benchmarks.backdoors $(ARGS)

bench-trust: $(VENV)/.sign ## what sign and verify of 100 MB, gate, report and an index of 200 runs take (some minutes)
	$(BIN)/python -m tests.benchmarks.trust $(ARGS)

drill: $(VENV)/.test ## 500 times `kill -9` over all steps, here and on a board: ARGS="--kills 50 --minutes 10" (needs sshd)
	$(BIN)/python -m tests.benchmarks.kills $(ARGS)

fuzz: $(VENV)/.test ## 1,000 mutated inputs for each reader, within 1 GiB: ARGS="--count 5000 --seed 1"
	$(BIN)/python -m tests.benchmarks.fuzz $(ARGS)

mutate: $(VENV)/.test ## mutation-test the gate, the verifier and the statistics: ARGS="gate --sample 50"
	$(BIN)/python -m tests.benchmarks.mutate $(ARGS)

gpu-check: $(if $(NVIDIA),$(GPU)/.gpu,$(VENV)/.compress) ## check once what needs an NVIDIA GPU; results in docs/gpu.md
	$(if $(NVIDIA),$(GPU),$(VENV))/bin/python -m tests.benchmarks.gpu $(ARGS)

clean: ## remove the environment, results and runs
	rm -rf $(VENV) $(PEER) $(ATTACK_PEER) $(OPENVINO) $(GPU) .espalier runs dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.13 found. Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -f $(CONSTRAINTS) || { echo "$(PYTHON) is not one of 3.10 to 3.13. Name another: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.compress: $(VENV)/.python pyproject.toml constraints
	@echo "Installing Espalier and its libraries into $(VENV) ..."
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) torch)
	$(PIP) --editable '.[compress]'
	@touch $@

$(VENV)/.rtx: $(VENV)/.compress
	$(PIP) --editable '.[compress,tensorrt-rtx]'
	@touch $@

$(VENV)/.sign: $(VENV)/.compress
	$(PIP) --editable '.[compress,sign]'
	@touch $@

$(VENV)/.search: $(VENV)/.compress
	$(PIP) --editable '.[compress,search]'
	@touch $@

$(VENV)/.test: $(VENV)/.compress
	$(PIP) --editable '.[compress,search,distributed,tensorrt-rtx,sign,tracking,docs,test,lint]'
	@touch $@

# The wheel excludes the plain one of ONNX Runtime.
$(OPENVINO)/.openvino: pyproject.toml constraints
	$(PYTHON) -m venv $(OPENVINO)
	$(OPENVINO)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) \
		--editable '.[openvino]'
	@touch $@

# As above: this wheel too excludes the plain one, which comes with what compresses.
$(GPU)/.gpu: pyproject.toml constraints
	$(PYTHON) -m venv $(GPU)
	$(GPU)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) \
		--editable '.[compress,distributed]'
	$(GPU)/bin/python -m pip uninstall --quiet --yes onnxruntime
	$(GPU)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[onnxruntime-gpu,tensorrt-rtx]'
	@touch $@

# torch-pruning and transformers beside what Espalier itself needs.
$(PEER)/.peer: constraints
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) \
		--editable '.[compress]' torch-pruning==1.6.1 transformers==5.23.0
	@touch $@

# torchattacks asks for versions of years ago that it does not need: it and ART come without their dependencies.
$(ATTACK_PEER)/.peer: constraints
	$(PYTHON) -m venv $(ATTACK_PEER)
	$(ATTACK_PEER)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) \
		--editable '.[compress]' six tqdm
	$(ATTACK_PEER)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		torchattacks==3.5.1 adversarial-robustness-toolbox==1.20.1
	@touch $@
