# AI Hub. `make help` lists every target.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.9
# Trust whom the machine trusts: many companies sign what passes their proxy.
export UV_SYSTEM_CERTS := true
# Without bytecode on disk every process compiles Feast and MLflow anew, which doubles its start. Python writes it
# when it first imports a module; where the user's environment forbids that, `make install` does, for later commands.
COMPILED := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install lock demo demo-down test tests test-long bench fuzz sweep faults screenshots lint style types imports dead docs house audit format clean

help: ## Show every target and what it does
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z_-]+:.*## / {printf "  \033[36m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv and install everything from the lock file

$(STAMP): pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet $(COMPILED) --require-hashes -r requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --build-constraints requirements.lock --editable .
	@$(if $(COMPILED),$(BIN)/python -m compileall -q ai_hub feast_plugins mlflow_plugins feature_repo)
	@touch $@

# As many sets of servers side by side, of two gigabytes each. Two on two cores wait a third of the time.
# Among the first files is that of the demo, which takes longest.
WORKERS ?= 3
PYTEST = $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --custom-compile-command "make lock" pyproject.toml

lock: ## Resolve pyproject.toml anew into requirements.lock, and the part a server needs into requirements.runtime.lock
	@test -x $(BIN)/uv || $(MAKE) install
	$(COMPILE) --all-extras --output-file requirements.lock
	$(COMPILE) --extra server --extra tracing --extra lineage --constraints requirements.lock --output-file requirements.runtime.lock

demo: $(STAMP) ## Run the whole product end to end on real meter data (embedded servers, no Docker)
	@$(BIN)/ai-hub demo

demo-down: $(STAMP) ## Stop the demo's servers and delete their data; what was exported stays in exports/
	@$(BIN)/ai-hub down --purge

test: $(STAMP) ## Lint, type-check and run every test against real embedded servers
	@$(MAKE) --no-print-directory --jobs=2 tests lint docs

# The same run every time: Hypothesis's seeds are fixed, too, and test-long tries others.
tests:
	@PYTHONHASHSEED=0 $(PYTEST) --durations=40 --durations-min=3

test-long: $(STAMP) lint ## The same with many new examples, more kills and fuzzing, coverage, and every benchmark tried (hours)
	@AI_HUB_TEST_TYPE_CHECKS=1 AI_HUB_EVERY_ZONE=1 AI_HUB_SWEEP=1 AI_HUB_FUZZ_EXAMPLES=400 AI_HUB_FUZZ_TIMEOUT_S=3600 \
	  $(PYTEST) -m "long or not long" --timeout=7200 --hypothesis-profile=long --cov
	@$(MAKE) --no-print-directory bench faults SMALL=1

bench: $(STAMP) ## Measure features, backfills, declared features, Feast stores, registry, service, exports, a fleet, day-ahead forecasts and start-up, into docs/benchmarks (SMALL=1: a try of minutes)
	@$(BIN)/python -m benchmarks.features $(if $(SMALL),--small)
	@$(BIN)/python -m benchmarks.backfill $(if $(SMALL),--small)
	@$(BIN)/python -m benchmarks.declared $(if $(SMALL),--small)
	@$(BIN)/python -m benchmarks.declared_refresh $(if $(SMALL),--small)
	@$(BIN)/python -m benchmarks.offline $(if $(SMALL),--small)
	@$(BIN)/python -m benchmarks.materialize $(if $(SMALL),--small)
	@$(BIN)/python -m benchmarks.online $(if $(SMALL),--small)
	@$(BIN)/python -m benchmarks.registry $(if $(SMALL),--small)
	@$(BIN)/python -m benchmarks.service $(if $(SMALL),--small)
	@$(BIN)/python -m benchmarks.exports $(if $(SMALL),--small)
	@$(BIN)/python -m benchmarks.fleet $(if $(SMALL),--small)
	@$(BIN)/python -m benchmarks.day_ahead $(if $(SMALL),--small)
	@$(BIN)/python -m benchmarks.start_up $(if $(SMALL),--small)

faults: $(STAMP) ## Kill and disturb every server under load and see what clients notice, into docs/benchmarks (SMALL=1: shorter)
	@$(BIN)/python -m benchmarks.faults $(if $(SMALL),--small)

fuzz: $(STAMP) ## Let schemathesis try the REST service for some ten minutes
	@AI_HUB_FUZZ_EXAMPLES=400 AI_HUB_FUZZ_TIMEOUT_S=3600 $(BIN)/pytest -m "long or not long" --timeout=3700 \
	  -k schemathesis tests/integration/api/test_openapi.py

sweep: $(STAMP) ## Try every command of ai-hub and feast with every hostile argument (some minutes)
	@AI_HUB_SWEEP=1 $(BIN)/pytest -m "long or not long" tests/unit/cli/test_sweep.py tests/unit/cli/test_feast_sweep.py

screenshots: $(STAMP) ## Take the pictures in docs/images from the running demo (needs chromium)
	@PYTHONPATH=tests $(BIN)/python -m support.screenshots

lint: style types imports dead ## Check style (ruff), types (mypy), imports between packages (import-linter) and dead code (vulture)

style: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)
	@$(BIN)/mypy

imports: $(STAMP)
	@$(BIN)/lint-imports --no-cache --no-logo

dead: $(STAMP)
	@dead=$$($(BIN)/vulture); status=$$?; if [ $$status != 0 ] && [ $$status != 3 ]; then exit $$status; fi; \
	  ! echo "$$dead" | grep -E 'unused (function|class|method|property)|unreachable'

docs: $(STAMP) ## Build the documentation as a site in build/site and check its links
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

house: $(STAMP) ## Print the size of the code, and the files that a read, an export and a promotion cross (starts servers)
	@$(PYTHON) .ci/house.py
	@$(BIN)/python -m benchmarks.walks

audit: $(STAMP) ## Look for known vulnerabilities in what a server runs, and for secrets in tracked files
	@$(BIN)/python .ci/audit.py

format: $(STAMP) ## Format the code and apply safe lint fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Stop the embedded servers and delete the virtual environment and caches
	@if [ -x $(BIN)/ai-hub ]; then $(BIN)/ai-hub down --purge; fi
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
