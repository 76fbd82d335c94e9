# `make` lists what there is to do. PYTHON and VENV choose the interpreter and the folder of the environment;
# ARGS goes to the command: make run ARGS='--port 9000', make test ARGS='tests/core -k watermark'.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN = $(VENV)/bin
export PYTHON VENV
# Images for containers often set it, and then every process compiles our modules anew: a fifth of a start, measured.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install setup run test check format-check lint types docs-check docs format bench bench-windows bench-curves bench-peers bench-report faults screenshots schema lock clean bench-live bench-query

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

install: ## make the virtual environment with what running needs, from requirements-run.lock
	@sh scripts/setup.sh run

setup: ## make it with everything: what tests, notebooks, docs and benchmarks need too, from requirements.lock
	@sh scripts/setup.sh

run: install ## install what is needed and start everything on http://localhost:8080, with demo data
	@exec "$(BIN)/streamgauge" up --config config.yaml --data-dir data --demo $(ARGS)

test: ## install what is needed and run the tests
	@sh scripts/setup.sh test
	@"$(BIN)/pytest" -n logical --maxprocesses 4 --dist worksteal $(ARGS)

check: setup ## what CI runs: format, lint, strict types, docs, tests (those of docs-check too), three at a time
	@$(MAKE) --no-print-directory -j 3 test format-check lint types docs

format-check: setup
	@"$(BIN)/ruff" format --check .

lint: setup
	@"$(BIN)/ruff" check .

types: setup
	@"$(BIN)/mypy"

docs-check: setup ## links, index and commands of README and docs
	@"$(BIN)/pytest" -q tests/test_docs.py

docs: setup ## build the documentation site in site/, every link and anchor checked
	@NO_MKDOCS_2_WARNING=1 "$(BIN)/mkdocs" build --quiet --strict

format: setup ## format the code and fix what lint can fix
	@"$(BIN)/ruff" format .
	@"$(BIN)/ruff" check --fix .

bench: setup ## every row of the table of targets, each recounted: events per second, latency, memory, CPU (5 minutes)
	@"$(BIN)/python" bench/targets.py $(ARGS)

bench-windows: setup ## every kind of window and aggregate beside plain counts; and bytes per group (5 minutes and more)
	@"$(BIN)/python" bench/windows.py $(ARGS)

bench-curves: setup ## scaling curves: events per second and memory by batch, groups, partitions, workers, windows
	@"$(BIN)/python" bench/curves.py $(ARGS)

bench-query: setup ## how long answers take, idle and under ingest, beside InfluxDB where it is found (10 minutes)
	@PYTHONPATH=. "$(BIN)/python" -m bench.query $(ARGS)

bench-live: setup ## what 100 live readers cost ingest, in turns with none; each reader's rows recounted (2 minutes)
	@"$(BIN)/python" bench/live.py $(ARGS)

bench-peers: setup ## the same work by other tools beside ours; ARGS='--python PATH' names interpreters that have them
	@"$(BIN)/python" -m bench.peers $(ARGS)

bench-report: setup ## tables and plot of JSON results: ARGS='figures.json curves.json --svg docs/scaling.svg'
	@"$(BIN)/python" bench/report.py $(ARGS)

faults: ## the long fault suite: kills, pauses, restarts of real processes, every law in full (minutes)
	@sh scripts/setup.sh test
	@"$(BIN)/pytest" -m "faults or slow or hypothesis" --timeout 900 $(ARGS)

screenshots: ## take the pictures of docs/dashboard.md again (needs chromium)
	@sh scripts/setup.sh test
	@STREAMGAUGE_SCREENSHOTS=docs/screenshots "$(BIN)/pytest" -q tests/browser $(ARGS)

schema: setup ## write the JSON Schema of config.yaml again, from its shapes and docs/configuration.md
	@PYTHONPATH=. "$(BIN)/python" scripts/config_schema.py

lock: setup ## resolve both locks again, to the newest versions pyproject.toml allows
	@"$(BIN)/uv" pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--output-file requirements.lock pyproject.toml
	@"$(BIN)/uv" pip compile --quiet --universal --python-version 3.11 --extra install --constraint requirements.lock \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--output-file requirements-run.lock pyproject.toml

clean: ## remove the environment, caches and builds (never data/)
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
