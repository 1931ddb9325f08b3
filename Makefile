# The commands of this project. `make demo` and `make test` need Python >= 3.10, make and the package index, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test proof crash mutation matrix lint schema bench clean

help:
	@echo "make demo    install and audit the standard library of this machine, as an example"
	@echo "make test    linters, types and the test suite; overhead figures as a warning"
	@echo "make proof   everything in full: long property tests, coverage, a mutation sample, overhead figures as a gate"
	@echo "make crash   durable runs that are killed and go on in other processes: 2 000 kills for SQLite, 300 for PostgreSQL"
	@echo "make mutation  the mutation sample alone: 300 changes of the core and the compiler that tests have to notice"
	@echo "make matrix  the test suite on every Python from 3.10 on that is found here"
	@echo "make lint    ruff and mypy alone;  make bench  the table of figures;  make schema  schemas/flow.schema.json"
	@echo "make clean   remove everything that these commands have made"

# A stamp for each set of dependencies: touched after the install, older than pyproject.toml when it has to be refreshed.
$(VENV)/.stamp-cli: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "chainweaver needs Python 3.10 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cli]'
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml $(VENV)/.stamp-cli
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/.stamp-cli
	@$(BIN)/chainweaver run examples/stdlib_audit.flow.yaml --input '{"report_dir": "out/audit-report"}'
	@echo "make demo: audited the standard library of $$($(BIN)/python --version) with examples/stdlib_audit.flow.yaml; the report is out/audit-report/stdlib_audit.md"

test: $(VENV)/.stamp-dev
	@$(BIN)/python .ci/suite.py test

proof: $(VENV)/.stamp-dev
	@$(BIN)/python .ci/suite.py proof

crash: $(VENV)/.stamp-dev
	@CHAINWEAVER_PROOF=1 $(BIN)/python -m pytest -q -s tests/sql/test_crash.py
	@echo "make crash: no committed step was lost or ran again"

mutation: $(VENV)/.stamp-dev
	@$(BIN)/python .ci/mutation.py $(ARGS)

matrix: $(VENV)/.stamp-dev
	@$(BIN)/python .ci/suite.py matrix

lint: $(VENV)/.stamp-dev
	@$(BIN)/python .ci/suite.py lint

schema: $(VENV)/.stamp-cli
	@mkdir -p schemas
	@$(BIN)/chainweaver schema > schemas/flow.schema.json.new
	@mv schemas/flow.schema.json.new schemas/flow.schema.json
	@echo "make schema: wrote schemas/flow.schema.json"

bench: $(VENV)/.stamp-dev
	@$(BIN)/python -m benchmarks.table

clean:
	@rm -rf $(VENV) .venvs build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .coverage *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "make clean: removed environments, caches and reports"
