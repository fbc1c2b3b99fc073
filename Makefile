# One entry point for people and for CI; `make help` lists what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := uv==0.13.9
SMARTCITY := $(BIN)/smartcity
.DEFAULT_GOAL := help
.PHONY: help demo test test-with check audit dist fix openapi frontend screenshots bench notebooks setup setup-dev serve lock container-check clean
export PYTHONUNBUFFERED = 1

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

READINGS = $(if $(SMARTCITY_DATASETS),true,$(SMARTCITY) data fetch --or-simulate)

demo: setup  ## From nothing to a running dashboard (8501) and API (8000)
	@$(READINGS)
	@exec $(SMARTCITY) up --build

setup: $(VENV)/.ready  ## Make the venv with the pinned dependencies

setup-dev: $(VENV)/.ready-dev  ## The same with the tools for tests and checks

test: setup-dev  ## Set up what is lacking and run all the tests
	@tests/setup
	$(BIN)/python -m pytest

# Tools and what else is needed come as new as they are; only what users install is held down.
RESOLUTION ?= lowest-direct
OTHER := $(VENV)-$(RESOLUTION)
test-with: | $(VENV)/bin/uv  ## The tests with the oldest dependencies allowed, or RESOLUTION=highest: the newest
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(OTHER)
	$(BIN)/uv pip compile pyproject.toml --quiet --no-header --python $(OTHER) --resolution $(RESOLUTION) --output-file $(OTHER)/pins.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(OTHER) --constraint $(OTHER)/pins.txt --editable '.[dev]'
	@tests/setup
	$(OTHER)/bin/python -m pytest -W default $(TESTS)

check: setup-dev  ## All static checks: format, lint, types, notebooks, security, workflows, secrets
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify notebooks/*.ipynb
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive smartcity deploy deploy/smoke .ci/release
	$(BIN)/zizmor --quiet --offline --strict-collection .github
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-actions .github/actions/*/action.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	@git ls-files -z --cached --others --exclude-standard -- $(SCANNED) | xargs -0 $(BIN)/detect-secrets-hook $(SECRETS)

# Locks and bundles are noise, and of random strings there are too many honest ones: passwords are
# found by the names they are given, keys by their makers' forms. What is made up says so.
SCANNED := . ':!*.lock' ':!frontend/package-lock.json' ':!smartcity/dashboard/share/*/made/*'
SECRETS := --no-verify --disable-plugin Base64HighEntropyString --disable-plugin HexHighEntropyString \
	--exclude-secrets '^(password|secret|one|o-pen|(planted|never-shown|hunter2)\b.*)$$'

audit: setup-dev  ## Is anything pinned known to be vulnerable? Only a registry that knows can say
	$(BIN)/pip-audit --strict --disable-pip --require-hashes $(addprefix -r ,$(wildcard requirements*.lock deploy/containers/*.lock))

dist: setup-dev  ## Wheel, sdist, list of parts (CycloneDX) and checksums into dist/
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist
	$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.cdx.json
	cd dist && rm .gitignore && sha256sum * > SHA256SUMS

fix: setup-dev  ## Format, mend what can be mended, strip notebook outputs
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/nbstripout notebooks/*.ipynb

notebooks: setup-dev  ## Open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

serve: setup  ## Serve dashboard and API with the models there are
	@exec $(SMARTCITY) up

openapi: setup-dev  ## Write the API's description to docs/openapi.json
	$(BIN)/python -c "import json; from smartcity.api import describe; print(json.dumps(describe(), indent=1, ensure_ascii=False))" > docs/openapi.json

frontend:  ## Bundle the page's script anew from frontend/; needs Node.js 20 or newer and npm
	cd frontend && npm ci --silent && npm run --silent build

screenshots: setup-dev  ## Make pictures of the five pages, three widths, light and dark
	@tests/setup
	@$(READINGS)
	@$(SMARTCITY) build --quick
	$(BIN)/python tests/screenshots.py

bench: setup-dev  ## Measure what benchmarks/ measures, as ratios in one run
	@$(READINGS)
	@$(SMARTCITY) build
	$(BIN)/python benchmarks/predicting.py
	@command -v wrk >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -y -qq wrk >/dev/null; } || true
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/files.py
	$(BIN)/python benchmarks/nightly.py
	$(BIN)/python benchmarks/pages.py

container-check:  ## Build the image and run the compose file for real; root on Debian, else skipped
	@deploy/container-check

lock: setup-dev  ## Pin the newest dependencies that work together
	$(BIN)/uv pip compile pyproject.toml $(LOCKED) --upgrade --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml $(LOCKED) --extra dev --constraint requirements.lock --upgrade --output-file requirements-dev.lock
	printf 'psycopg[binary]\nredis\ndask\ndistributed\n' | $(BIN)/uv pip compile - $(LOCKED) --constraint requirements-dev.lock --upgrade --output-file deploy/containers/requirements.lock

LOCKED := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

$(VENV)/bin/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)

# uv is ten times faster; where it cannot reach the registry the way pip can, pip does the same.
INSTALL = $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r $(1) \
	|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(1)
PACKAGE = $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable . \
	|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .

$(VENV)/.ready: requirements.lock pyproject.toml | $(VENV)/bin/uv
	@echo "Installing the pinned dependencies into $(VENV)"
	@$(call INSTALL,requirements.lock)
	@$(PACKAGE)
	@$(BIN)/python -m compileall -q smartcity
	@touch $@

$(VENV)/.ready-dev: requirements-dev.lock $(VENV)/.ready
	@echo "Installing the tools for tests and checks"
	@$(call INSTALL,requirements-dev.lock)
	@touch $@

clean:  ## Remove caches and the venv; readings, models and reports stay
	rm -rf $(VENV) $(VENV)-* dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage test-results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
