# `make help` lists the targets. Everything runs in .venv, which any target makes when it is missing.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export RUN ?=
export SWEEP ?=

.DEFAULT_GOAL := help
.PHONY: help setup run deploy-demo sweep gallery test test-methods test-portable lint format docs pretrain leaderboard leaderboard-mini published bench-fed-sb bench-codecs bench-full-size bench-sweep bench-simulation bench-scale audit-privacy clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

setup: $(STAMP) ## Create .venv with the pinned versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --upgrade pip
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

run: $(STAMP) ## Run one experiment: make run RUN="experiment=fedavg_lora seed=1"
	@$(BIN)/python -m fl_app.run "$$RUN"

deploy-demo: $(STAMP) ## A SuperLink and 3 nodes on this machine, with TLS and keys: bytes counted three ways (3 minutes)
	$(BIN)/python -m deploy.demo

sweep: $(STAMP) ## Run many: make sweep SWEEP="strategy=single_client,fedavg codec=nf4,thin seed=0,1,2"
	@set -f; $(BIN)/python -m fl_app.sweep -m $$SWEEP

gallery: $(STAMP) ## docs/results/: the runs of benchmarks/gallery.yaml that are missing, tables, picture (hours; run again, it goes on)
	$(BIN)/python -m benchmarks.gallery

test: $(STAMP) ## Run the test suite (10 minutes on two cores)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-methods: $(STAMP) ## The tests that the suite leaves out: more codecs, strategies and ways of each mechanism
	$(BIN)/python -m pytest -m methods -n 3 --dist loadfile --no-loadscope-reorder

test-portable: $(STAMP) ## The unit tests as an old processor computes them: no bound may be this machine's
	env $$($(BIN)/python -m tests.old_processor) $(BIN)/python -m pytest -m "not e2e" -n 3 --dist loadfile --no-loadscope-reorder

lint: $(STAMP) ## Check style (ruff) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

DOCS_STAMP := .venv/.docs-installed

docs: $(DOCS_STAMP) ## Build the site and the reference of the API into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -b html -a -j auto -W --keep-going -d docs/_build/doctrees docs docs/_build/html

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

pretrain: $(STAMP) ## Train the embedded models again (about 20 minutes; the shipped ones are its output)
	$(BIN)/python -m fl_app.pretraining.vt5 --out fl_app/models/vt5_tiny
	$(BIN)/python -m fl_app.pretraining.llama --out fl_app/models/llama_tiny
	$(BIN)/python -m fl_app.pretraining.beit --out fl_app/models/beit_tiny

bench-codecs: $(STAMP) ## Speed, bits and error of the codecs, beside others (about 3 minutes)
	$(BIN)/python -m benchmarks.codecs
	cp runs/bench-codecs/rate_distortion.png docs/bits_against_error.png

bench-full-size: $(STAMP) ## Two real rounds at full size: seconds and memory (about 10 minutes)
	$(BIN)/python -m benchmarks.full_size

bench-sweep: $(STAMP) ## What a run costs beside its work, alone and in a sweep (5 minutes)
	$(BIN)/python -m benchmarks.sweep

bench-simulation: $(STAMP) ## Simulated rounds beside the same training in a plain loop (8 minutes)
	$(BIN)/python -m benchmarks.simulation

bench-scale: $(STAMP) ## A round of 10, 100 and 1,000 clients: seconds and the server's memory (12 minutes)
	$(BIN)/python -m benchmarks.scale

leaderboard: $(STAMP) ## The competition's table of bytes, at full size (about 30 minutes, 17 GiB)
	$(BIN)/python -m benchmarks.leaderboard

leaderboard-mini: $(STAMP) ## The competition's entries and more codecs on the embedded task (4 hours)
	$(BIN)/python -m benchmarks.leaderboard_mini

published: $(STAMP) ## Fed-SB's published tables of parameters, rebuilt from the architectures (half a minute)
	$(BIN)/python -m benchmarks.published

bench-fed-sb: $(STAMP) ## Fed-SB and its baselines on both embedded tasks, also with privacy (hours)
	$(BIN)/python -m benchmarks.fed_sb

audit-privacy: $(STAMP) ## Attack DP-SGD: what epsilon is proven, beside the claim (15 minutes)
	$(BIN)/python -m benchmarks.audit_privacy

clean: ## Remove .venv and caches; runs/ stays
	rm -rf .venv docs/_build docs/api .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
