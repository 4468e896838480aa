# Every target makes .venv when it is missing or older than what it was made from.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Most tests wait for something, so two files at a time; each side starts servers of its own. In the
# order of their names, as the files with the fewest tests take longest and must not come last.
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install run test test-all lint bench soak deploy-tools clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv with everything in it

run: $(STAMP) ## show the main job against the sandbox, then keep serving
	$(BIN)/loyalty-relay demo --keep-serving

test: $(STAMP) ## the tests
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not slow and not benchmark"

test-all: $(STAMP) ## the tests, the slow ones too
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not benchmark"

lint: $(STAMP) ## style, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(STAMP) ## the figures beside their peers and limits, in about 45 minutes
	$(BIN)/python -m tests.benchmarks.report

soak: $(STAMP) ## half an hour of mixed load with faults: does anything grow, do the books balance
	$(BIN)/python -m tests.benchmarks.soak

# With Go, helm's first build takes about two minutes. promtool is in Debian's package prometheus.
deploy-tools: $(STAMP) ## what checks deploy/ (but promtool), into .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
		--constraint deploy/constraints.txt --editable '.[dev,deploy]'
	command -v $(BIN)/helm >/dev/null || command -v helm >/dev/null || \
		GOBIN=$(CURDIR)/$(BIN) go install helm.sh/helm/v3/cmd/helm@v3.18.6

clean: ## remove .venv, caches and builds; data stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find service producers consumers tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Without build isolation the build tool is one of the pinned packages as well.
$(STAMP): pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint deploy/constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
		--constraint deploy/constraints.txt --editable '.[dev]'
	@touch $@
