# make train   set up .venv and train CartPole by config name
# make test    set up .venv and run every test
# make help    the rest
PYTHON ?= python3
VENV   := .venv
OLDEST := .venv-oldest
RLLIB  := .venv-rllib
PUFFERLIB := .venv-pufferlib
PEERS  := .venv-bench
BIN    := $(VENV)/bin
RUN    ?= cartpole
DEVICE ?= cuda
OUT    ?= gpu-results
# Of the pairs of spaces, one in so many is tried with each check of the plug-ins; CI tries more.
EVERY  ?= 12
# Checks of the plug-ins that are left to CI, as each policy is recorded or compiled for them.
LEFT_TO_CI ?= export-parity or compile-parity
# What the tests exercise; envpool and wandb, which are large, are tested where they are installed.
EXTRAS := train,hub,export,rsl-rl,sb3,skrl,torchrl,tensorboard,plot,video,sweep,box2d,mujoco,atari,minatar,minigrid,pettingzoo
# The longest first, as they run side by side.
PLUGINS := $(addprefix plugins/puffer-policies-,vision mlp memory pretrained)

export OMP_NUM_THREADS ?= 1
# Without bytecode every process that a test starts would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

# Of targets that run side by side, make 4 and later print one after the other.
SIDE_BY_SIDE := -j2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.PHONY: help setup train test test-plugins test-interop test-rllib test-pufferlib $(PLUGINS)
.PHONY: test-oldest conformance lint types format bench gpu docs clean
.DEFAULT_GOAL := help

help:  ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

$(VENV)/.ready: pyproject.toml constraints.txt $(PLUGINS:%=%/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[$(EXTRAS),test,dev]' $(PLUGINS:%=-e %)
	@touch $@

setup: $(VENV)/.ready  ## Create .venv with everything in it.

train: setup  ## Train CartPole by config name, then evaluate it (RUN=name for another).
	$(BIN)/puffer-policies train $(RUN)

test: setup lint  ## Lint, type-check and run the tests.
	@$(MAKE) --no-print-directory $(SIDE_BY_SIDE) test-plugins types
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-plugins: $(PLUGINS)  ## Run the plug-ins' own tests (EVERY=1 LEFT_TO_CI= for all).

$(PLUGINS): setup
	cd $@ && $(CURDIR)/$(BIN)/python -m pytest -q -p no:logging --every $(EVERY) \
		$(if $(LEFT_TO_CI),-k 'not ($(LEFT_TO_CI))')

conformance: setup  ## Check every memory of 1, 2 and 3 layers on every kind of space.
	$(BIN)/python -m pytest -n 2 tests/checks/test_memories.py --exhaustive

# PufferLib 3.0 pins these two; all but the trainer must work with them.
$(OLDEST)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OLDEST)
	grep -vE '^(gymnasium|numpy)==' constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install -q -c $(OLDEST)/constraints.txt -e '.[test]' \
		gymnasium==0.29.1 numpy==1.26.4
	@touch $@

test-oldest: $(OLDEST)/.ready  ## Run the core's tests with gymnasium 0.29.1 and numpy 1.26.4.
	$(OLDEST)/bin/python -m pytest -n 2

# RLlib pins gymnasium.
$(RLLIB)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RLLIB)
	grep -v '^gymnasium==' constraints.txt > $(RLLIB)/constraints.txt
	$(RLLIB)/bin/python -m pip install -q -c $(RLLIB)/constraints.txt -e '.[rllib,test]'
	@touch $@

test-rllib: $(RLLIB)/.ready  ## Run our policies in RLlib.
	$(RLLIB)/bin/python -m pytest --interop tests/interop/test_rllib.py tests/test_docs.py -k rllib

test-interop: setup  ## Run our policies in the trainers of others.
	$(BIN)/python -m pytest -n 2 --interop tests/interop tests/test_docs.py

# PufferLib 3.0 comes as source alone, and its pins ask for an environment of its own. Its envs in C
# are left out, as their build downloads libraries.
$(PUFFERLIB)/.ready: pyproject.toml constraints.txt tools/pufferlib/sitecustomize.py
	$(PYTHON) -m venv $(PUFFERLIB)
	grep -vE '^(gymnasium|numpy|pettingzoo)==' constraints.txt > $(PUFFERLIB)/constraints.txt
	printf 'gymnasium==0.29.1\nnumpy==1.26.4\n' >> $(PUFFERLIB)/constraints.txt
	$(PUFFERLIB)/bin/python -m pip install -q -c $(PUFFERLIB)/constraints.txt \
		-e . pytest pytest-randomly 'setuptools<81' wheel psutil pyro-ppl rich_argparse
	$(PUFFERLIB)/bin/python -m pip install -q -c $(PUFFERLIB)/constraints.txt \
		--no-build-isolation gym==0.23.0 pettingzoo==1.24.1
	NO_OCEAN=1 PYTHONPATH=$(CURDIR)/tools/pufferlib $(PUFFERLIB)/bin/python -m pip install -q \
		--no-build-isolation --no-deps pufferlib==3.0.0
	@touch $@

test-pufferlib: $(PUFFERLIB)/.ready  ## Build PufferLib 3.0, and run our policies in it.
	$(PUFFERLIB)/bin/python -m pytest tests/test_pufferlib_trainer.py
	$(PUFFERLIB)/bin/python -m pytest --interop tests/interop/test_pufferlib.py

lint: setup  ## Check style and format.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## Check types.
	$(BIN)/mypy

format: setup  ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup  ## Generate the pages and pictures of docs/ that are made from the code.
	$(BIN)/python tools/draw_house.py
	$(BIN)/python tools/write_checks_page.py
	$(BIN)/python tools/write_zoo_page.py
	$(BIN)/python tools/write_export_page.py
	$(BIN)/python tools/write_interop_page.py
	$(BIN)/python tools/write_performance_page.py

# Needs torch with CUDA, gymnasium, pluggy, importlib-metadata and safetensors for PYTHON, no network
# and no environment of ours; at most 8 minutes. DEVICE=cpu SMALL=1 tries the script.
gpu:  ## Check and time everything on a GPU, and write OUT/results.md (DEVICE, SMALL, ONLY, OUT).
	PYTHONPATH=$(CURDIR):$(CURDIR)/benchmarks$(if $(PYTHONPATH),:$(PYTHONPATH)) $(PYTHON) -m gpu \
		--device $(DEVICE) --out $(OUT) --only '$(ONLY)' $(if $(SMALL),--small)

# What ours is raced against, apart from .venv, so that neither's dependencies hold back the other's.
$(PEERS)/.ready: constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q -c constraints.txt \
		torch gymnasium stable-baselines3 sb3-contrib torchrl minatar
	@touch $@

# ONLY="act train/mlp" takes some cases, QUICK=1 a fifth of the time; STORE=1 keeps the result for
# docs/performance.md, FAIL=1 fails if a ratio fell, WITH_PUFFERLIB=1 adds PufferLib 3.0.
bench: setup $(PEERS)/.ready $(if $(WITH_PUFFERLIB),$(PUFFERLIB)/.ready)  ## Race against a floor and other libraries (see docs/performance.md).
	$(BIN)/python benchmarks/bench.py --peers $(PEERS)/bin/python \
		$(if $(WITH_PUFFERLIB),--pufferlib $(PUFFERLIB)/bin/python) $(if $(ONLY),--only $(ONLY)) \
		$(if $(QUICK),--quick) $(if $(STORE),--store) $(if $(FAIL),--fail)

clean:  ## Remove the environments and caches.
	rm -rf $(VENV) $(OLDEST) $(RLLIB) $(PUFFERLIB) $(PEERS) .pytest_cache .mypy_cache .ruff_cache build dist
